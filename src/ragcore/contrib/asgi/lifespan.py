"""Starts and closes a client together with the server."""

from __future__ import annotations

from collections.abc import Sequence

from ragcore.contrib.asgi.exchange import ASGIApp, Message, Receive, Send
from ragcore.errors import RagcoreError
from ragcore.lifecycle.part import Part

__all__ = ["lifespan"]


def lifespan(app: ASGIApp, rag: Part, /, *others: Part) -> ASGIApp:
    """Middleware that starts the client at the server's start and closes it at its end. Use it for applications without a lifespan, such as Django's.

    Args:
        app: the application.
        rag: the client.
        others: further parts, such as a `Rollout`. They are started after the client, and closed before it.

    Examples:
        ```python
        app = asgi.lifespan(get_asgi_application(), rag)
        ```
    """

    async def wrapped(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live((rag, *others), receive, send)
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
            except RagcoreError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            for part in reversed(parts):
                await part.aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return
