"""Names that other libraries keep private and ragcore needs: each is read here alone, and its absence is a None and one warning, never an error."""

from __future__ import annotations

import asyncio
import logging
from functools import cache
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import asyncpg

__all__ = ["transport_of"]

logger = logging.getLogger("ragcore")


def transport_of(connection: asyncpg.Connection[asyncpg.Record]) -> asyncio.BaseTransport | None:
    """The transport below a connection of asyncpg, which knows the socket and TLS; None if this release of asyncpg does not keep it there.

    Source: `Connection._transport` of asyncpg 0.31 and 0.32. asyncpg has no public name for it.
    """
    transport = getattr(connection, "_transport", None)
    # By its method: uvloop's transports and those of TLS have no class in common with asyncio's own.
    if not callable(getattr(transport, "get_extra_info", None)):
        _warn_once(
            "private.missing: asyncpg's connections have no _transport, so the socket options of a DSN are not set and encryption is "
            "reported as off. Install asyncpg 0.31 or 0.32"
        )
        return None
    return cast("asyncio.BaseTransport", transport)


@cache
def _warn_once(message: str) -> None:
    """Log a warning, once in a process: it would otherwise repeat with each connection."""
    logger.warning("%s", message)
