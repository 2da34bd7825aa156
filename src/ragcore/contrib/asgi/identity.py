"""Who asks."""

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
LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: what the `authenticate` hook returns.

    Attributes:
        tenant: whose documents are searched.
        admin: may see every tenant's debug routes.
        name: of the person or program, for the audit log; "": the tenant's.
    """

    tenant: str | UUID
    _: KW_ONLY
    admin: bool = False
    name: str = ""

    def may_see(self, tenant: str | UUID) -> bool:
        """Whether the debug routes of a tenant are open to this one: an administrator's are all, anybody else's are their own."""
        return self.admin or check_tenant(self.tenant) == check_tenant(tenant)


# Gets the ASGI scope, returns who asks, or None to refuse.
Authenticate: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[Identity | None]]


class Unauthorized(Exception):
    """A hook raises it to say why a request is not let in; its message is shown to whoever asks."""


def from_tokens(path: str | PathLike[str], /) -> Authenticate:
    """A hook that knows tokens, from the header Authorization (Bearer) or api-key, from a JSON file: {"token": {"tenant": "acme", "admin": false}}.
    "name" may say who has the token, for the audit log.

    In place of a token its hash may stand: "sha256:" and 64 hexadecimal digits. The file is looked at once a second when somebody asks; a changed one is read
    again. One that can't be read leaves the tokens as they were; one that is gone for two looks ends them.

    Raises:
        ConfigurationError: the file can't be read, or is not like that.
    """
    tokens = _Tokens(Path(path))

    async def authenticate(scope: Mapping[str, Any]) -> Identity | None:
        await tokens.refresh()
        headers = dict(scope["headers"])
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not token.strip():  # as clients of Azure's send it
            token = headers.get(b"api-key", b"")
        return tokens.find(token.strip()) if token.strip() else None

    return authenticate


class _Tokens:
    """The tokens of a file, as it is now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = Threads(1, name="tokens")
        self._looked = -math.inf
        self._missing = False
        self._stamp, self._known = self._read()

    def find(self, token: bytes) -> Identity | None:
        """Who has a token. Each is compared, and in constant time: how long it takes tells nothing of a token."""
        given = _digest(token)
        found = [identity for digest, identity in self._known.items() if hmac.compare_digest(digest, given)]
        return found[0] if found else None

    async def refresh(self) -> None:
        """Read the file again where it has changed."""
        now = anyio.current_time()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        try:
            read = await self._threads.run(lambda: None if _stamp(self._path) == self._stamp else self._read())
        except FileNotFoundError:
            # While a file is replaced it may be missing for a moment. One that was removed has revoked its tokens.
            if self._missing and self._known:
                logger.warning("%s is gone: its tokens are valid no more", self._path)
                self._stamp, self._known = (), {}
            self._missing = True
            return
        except (OSError, ConfigurationError) as error:
            logger.warning("the tokens stay as they were: %s", error)
            return
        self._missing = False
        if read is not None:
            self._stamp, self._known = read
            logger.info("%s was read again: %d tokens", self._path, len(self._known))

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
                f'tokens can\'t be read from {self._path}: {reason}; write {{"token": {{"tenant": "acme", "admin": false}}}}'
            ) from None
        if self._path.stat().st_mode & 0o077:
            logger.warning(
                "%s may be read by other users of this machine: chmod 600 it, or put hashes into it", self._path
            )
        return stamp, known


def _stamp(path: Path) -> tuple[int, ...]:
    """Tells a file from the one that was there before: it is often replaced as a whole, with the same length."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for its writer
        raise OSError(f"{path} is no file")
    return found.st_mtime_ns, found.st_size, found.st_ino


def _hash(token: str) -> bytes:
    """The hash of a token, or the one that stands in its place."""
    if token.startswith(HASHED):
        digits = token.removeprefix(HASHED)
        if len(digits) != 64 or any(char not in string.hexdigits for char in digits):
            raise InvalidInput(f"{HASHED} must be followed by 64 hexadecimal digits")
        return bytes.fromhex(digits)
    return _digest(_token(token))


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _token(text: str) -> bytes:
    """A token as a header brings it."""
    if not text or text != text.strip() or not text.isascii() or not text.isprintable():
        raise InvalidInput("a token is empty, or has white space around it, or characters that no header carries")
    return text.encode()
