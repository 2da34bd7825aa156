"""Closes sources when their reader stops: at the end, after an error or after a cancellation."""

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
    """Close `source` at the end of the block, if it has `aclose` or `close`.

    It is like `contextlib.aclosing`, with the time limit of a clean-up. An error of the close is logged, so that it doesn't replace the error of the block.
    """
    try:
        yield source
    finally:
        with cleaning_up():
            await close_quietly(source)


async def close_quietly(source: object) -> None:
    """Close `source` if it has `aclose` or `close`. An error is logged and not raised."""
    try:
        if (aclose := getattr(source, "aclose", None)) is not None:
            await aclose()
        elif (close := getattr(source, "close", None)) is not None:
            close()
    except Exception:
        logger.exception("closing a %s failed", type(source).__name__)
