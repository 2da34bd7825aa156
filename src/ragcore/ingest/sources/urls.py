"""URLs as names: without passwords, and without the values of a query."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from ragcore.errors import InvalidInput
from ragcore.types.secret import Secret

__all__ = ["parsed", "server_of", "shown", "without_login"]

CONTROLS = re.compile(r"[\x00-\x20\x7f\\]")


def parsed(url: str) -> SplitResult:
    """Return the parts of a URL.

    Raises:
        InvalidInput: the URL is malformed. The message does not contain it, because it may contain a password.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # it raises an error if the port is not a number
    except ValueError:
        raise InvalidInput("a URL is malformed: check its host and its port") from None
    if CONTROLS.search(url):
        raise InvalidInput("a URL contains a blank, a backslash or a control character: encode it with %")
    return parts


def shown(url: str) -> str:
    """Return the URL without user, password and fragment. The query is replaced by its hash, since it may contain a token."""
    parts = parsed(url)
    host = parts.netloc.rpartition("@")[2].lower()
    query = "" if not parts.query else f"sha256-{hashlib.sha256(parts.query.encode()).hexdigest()[:16]}"
    return urlunsplit((parts.scheme.lower(), host, parts.path, query, ""))


def server_of(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port: two URLs with the same three are on the same server."""
    parts = parsed(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(scheme)


def without_login(url: str) -> tuple[str, Secret | None]:
    """Return the URL without user and password, and both of them separated by a NUL; None instead of them if the URL has none."""
    parts = parsed(url)
    login, _, host = parts.netloc.rpartition("@")
    plain = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    user, _, password = login.partition(":")
    return plain, Secret(f"{unquote(user)}\0{unquote(password)}") if login else None
