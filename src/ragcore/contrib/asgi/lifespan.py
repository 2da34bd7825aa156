"""Starts and closes a client together with the server."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack

from ragcore.client.rag import RAG
from ragcore.contrib.asgi.exchange import ASGIApp, Message, Receive, Send
from ragcore.errors import RagcoreError
from ragcore.lifecycle.part import Part

__all__ = ["lifespan"]

logger: logging.Logger = logging.getLogger("ragcore.asgi")


def lifespan(app: ASGIApp, rag: RAG, /, *parts: Part) -> ASGIApp:
    """Middleware that starts the client at the server's start and closes it at its end. Use it for applications without a lifespan, such as Django's.

    Args:
        app: the application.
        rag: the client.
        parts: further components that are started after the client and closed before it, such as `contrib.prometheus.Metrics`.

    Examples:
        ```python
        app = asgi.lifespan(get_asgi_application(), rag)
        ```
    """

    async def wrapped(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live((rag, *parts), receive, send)
        else:
            await app(scope, receive, send)

    return wrapped


async def _live(parts: Sequence[Part], receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                for part in parts:
                    await part.start()
            except Exception as error:  # a part may be the user's own
                try:
                    await _close(parts)
                except Exception:
                    logger.exception("closing failed, after the start had failed")
                is_own = isinstance(error, RagcoreError)
                await send(
                    {
                        "type": "lifespan.startup.failed",
                        "message": str(error) if is_own else f"{type(error).__name__}: {error}",
                    }
                )
                if is_own:
                    return
                raise
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await _close(parts)
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _close(parts: Sequence[Part]) -> None:
    """Close the parts, the last one first, even if one of them fails to close."""
    async with AsyncExitStack() as stack:
        for part in parts:
            stack.push_async_callback(part.aclose)
