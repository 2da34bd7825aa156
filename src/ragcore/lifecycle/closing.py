"""Sources that are closed when whoever reads them stops: at their end, at an error, at a cancellation."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from ragcore.lifecycle.owner import cleaning_up

__all__ = ["close_quietly", "closing"]

logger: logging.Logger = logging.getLogger("ragcore")

T = TypeVar("T")


@asynccontextmanager
async def closing(source: T, /) -> AsyncIterator[T]:
    """Close `source` at the end of the block, if it can be closed by `aclose` or `close`.

    As `contextlib.aclosing`, but bounded as every clean-up is; and what goes wrong in it is logged, so that it doesn't hide the error in flight.
    """
    try:
        yield source
    finally:
        with cleaning_up():
            await close_quietly(source)


async def close_quietly(source: object) -> None:
    """Close it, if it can be closed; what goes wrong with that is not what the caller is to hear of."""
    try:
        if (aclose := getattr(source, "aclose", None)) is not None:
            await aclose()
        elif (close := getattr(source, "close", None)) is not None:
            close()
    except Exception:
        logger.exception("closing a %s failed", type(source).__name__)
