"""Who asks."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

from ragcore.errors import ConfigurationError, InvalidInput
from ragcore.validation import check_tenant

__all__ = ["Authenticate", "Identity", "from_tokens"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: what the `authenticate` hook returns.

    Attributes:
        tenant: whose documents are searched.
        admin: may see every tenant's debug routes.
    """

    tenant: str | UUID
    _: KW_ONLY
    admin: bool = False

    def may_see(self, tenant: str | UUID) -> bool:
        """Whether the debug routes of a tenant are open to this one: an administrator's are all, anybody else's are their own."""
        return self.admin or check_tenant(self.tenant) == check_tenant(tenant)


# Gets the ASGI scope, returns who asks, or None to refuse.
Authenticate: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[Identity | None]]


def from_tokens(path: str | PathLike[str], /) -> Authenticate:
    """A hook that knows tokens, from the header Authorization (Bearer) or api-key, from a JSON file: {"token": {"tenant": "member-42", "admin": false}}.

    Raises:
        ConfigurationError: the file can't be read, or is not like that.
    """
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
        known = {
            _digest(_token(token)): Identity(check_tenant(row["tenant"]), admin=row.get("admin", False) is True)
            for token, row in read.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidInput) as error:
        reason = str(error) if isinstance(error, OSError | InvalidInput) else "it is not JSON of this shape"
        raise ConfigurationError(
            f'tokens can\'t be read from {path}: {reason}; write {{"token": {{"tenant": "member-42", "admin": false}}}}'
        ) from None

    async def authenticate(scope: Mapping[str, Any]) -> Identity | None:
        headers = dict(scope["headers"])
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not token.strip():  # as clients of Azure's send it
            token = headers.get(b"api-key", b"")
        if not token.strip():
            return None
        given = _digest(token.strip())
        # Each is compared, and in constant time: how long it takes tells nothing of a token.
        found = [identity for digest, identity in known.items() if hmac.compare_digest(digest, given)]
        return found[0] if found else None

    return authenticate


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _token(text: str) -> bytes:
    """A token as a header brings it."""
    if not text or text != text.strip() or not text.isascii() or not text.isprintable():
        raise InvalidInput("a token is empty, or has white space around it, or characters that no header carries")
    return text.encode()
