"""Starts and closes a client together with the server."""

from __future__ import annotations

from ragcore.client.rag import RAG
from ragcore.contrib.asgi.exchange import ASGIApp, Message, Receive, Send
from ragcore.errors import RagcoreError

__all__ = ["lifespan"]


def lifespan(app: ASGIApp, rag: RAG, /) -> ASGIApp:
    """Middleware that starts the client at the server's start and closes it at its end. Use it for applications without a lifespan, such as Django's.

    Examples:
        ```python
        app = asgi.lifespan(get_asgi_application(), rag)
        ```
    """

    async def wrapped(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(rag, receive, send)
        else:
            await app(scope, receive, send)

    return wrapped


async def _live(rag: RAG, receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                await rag.start()
            except RagcoreError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await rag.aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return
