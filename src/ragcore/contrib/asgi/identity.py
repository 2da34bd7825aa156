"""The identity of a caller, and bearer tokens from a file."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import stat
import string
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import anyio

from ragcore.errors import ConfigurationError, InvalidInput
from ragcore.resilience.threads import Threads
from ragcore.types.validation import check_tenant

__all__ = ["Authenticate", "Identity", "Unauthorized", "from_tokens"]

logger: logging.Logger = logging.getLogger("ragcore.asgi")

HASHED = "sha256:"
CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a caller. The `authenticate` hook returns it.

    Attributes:
        tenant: the owner of the documents that are searched.
        admin: whether the caller may use the debug routes of every tenant.
        name: the person or program, for the audit log; "": the name of the tenant.
    """

    tenant: str | UUID
    _: KW_ONLY
    admin: bool = False
    name: str = ""

    def may_see(self, tenant: str | UUID) -> bool:
        """Return whether this caller may use the debug routes of a tenant: administrators for all tenants, other callers only for their own tenant."""
        return self.admin or check_tenant(self.tenant) == check_tenant(tenant)


# Gets the ASGI scope. Returns the identity of the caller, or None to refuse the request.
Authenticate: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[Identity | None]]


class Unauthorized(Exception):
    """Raise it in a hook to refuse a request with a reason. The response shows its message to the caller."""


def from_tokens(path: str | PathLike[str], /) -> Authenticate:
    """Make a hook that accepts the tokens of a JSON file, such as {"token": {"tenant": "acme", "admin": false}}.

    Requests send a token in the header Authorization (Bearer) or api-key. An entry may also have "name", the owner of the token for the audit log. The file
    may contain the hash of a token instead of the token: "sha256:" and 64 hexadecimal digits.

    While requests arrive, the file is checked once a second, and read again if it has changed. If it can't be read, the old tokens stay valid. If it is
    missing at two checks in a row, all tokens are revoked.

    Raises:
        ConfigurationError: the file can't be read, or has another shape.
    """
    tokens = _Tokens(Path(path))

    async def authenticate(scope: Mapping[str, Any]) -> Identity | None:
        await tokens.refresh()
        headers = dict(scope["headers"])
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not token.strip():  # clients for Azure send api-key
            token = headers.get(b"api-key", b"")
        return tokens.find(token.strip()) if token.strip() else None

    return authenticate


class _Tokens:
    """The tokens of a file, kept up to date."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = Threads(1, name="tokens")
        self._checked_at = -math.inf
        self._missing = False
        self._stamp, self._known = self._read()

    def find(self, token: bytes) -> Identity | None:
        """Return the identity for a token. All tokens are compared in constant time, so that the time reveals nothing about a token."""
        given = _digest(token)
        found = [identity for digest, identity in self._known.items() if hmac.compare_digest(digest, given)]
        return found[0] if found else None

    async def refresh(self) -> None:
        """Read the file again if it has changed."""
        now = anyio.current_time()
        if now - self._checked_at < CHECK_SECONDS:
            return
        self._checked_at = now
        try:
            read = await self._threads.run(lambda: None if _stamp(self._path) == self._stamp else self._read())
        except FileNotFoundError:
            # A file that is being replaced may be missing for a moment, so the tokens are revoked only if it is missing at the second check as well.
            if self._missing and self._known:
                logger.warning("all tokens are revoked: %s no longer exists", self._path)
                self._stamp, self._known = (), {}
            self._missing = True
            return
        except (OSError, ConfigurationError) as error:
            logger.warning("the old tokens stay valid: %s", error)
            return
        self._missing = False
        if read is not None:
            self._stamp, self._known = read
            logger.info("tokens read again from %s: %d tokens", self._path, len(self._known))

    def _read(self) -> tuple[tuple[int, ...], dict[bytes, Identity]]:
        try:
            stamp = _stamp(self._path)
            rows = json.loads(self._path.read_text(encoding="utf-8"))
            known = {
                _hash(token): Identity(
                    check_tenant(row["tenant"]),
                    admin=row.get("admin", False) is True,
                    name=str(row.get("name") or ""),
                )
                for token, row in rows.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidInput) as error:
            reason = str(error) if isinstance(error, OSError | InvalidInput) else "it is not JSON of this shape"
            raise ConfigurationError(
                f'cannot read tokens from {self._path}: {reason}; write {{"token": {{"tenant": "acme", "admin": false}}}}'
            ) from None
        if self._path.stat().st_mode & 0o077:
            logger.warning(
                "other users of this machine can read %s: run chmod 600 on it, or store hashes of the tokens",
                self._path,
            )
        return stamp, known


def _stamp(path: Path) -> tuple[int, ...]:
    """Return values that change when the file changes, even if another file of the same length replaces it."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for its writer
        raise OSError(f"{path} is not a regular file")
    return found.st_mtime_ns, found.st_size, found.st_ino


def _hash(token: str) -> bytes:
    """Return the hash of a token. If the file contains a hash instead of the token, return that hash."""
    if token.startswith(HASHED):
        digits = token.removeprefix(HASHED)
        if len(digits) != 64 or any(char not in string.hexdigits for char in digits):
            raise InvalidInput(f"{HASHED} must be followed by 64 hexadecimal digits")
        return bytes.fromhex(digits)
    return _digest(_token(token))


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _token(text: str) -> bytes:
    """Return a token as bytes, as they appear in a header."""
    if not text or text != text.strip() or not text.isascii() or not text.isprintable():
        raise InvalidInput(
            "a token is empty, has white space around it, or contains characters that a header can't carry"
        )
    return text.encode()
