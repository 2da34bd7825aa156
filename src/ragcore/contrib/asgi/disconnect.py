"""A handler that ends when its client is gone."""

from __future__ import annotations

import logging
from contextlib import suppress

import anyio

from ragcore.contrib.asgi.exchange import ASGIApp, Message, Receive, Send

__all__ = ["cancel_on_disconnect", "until_disconnect"]

logger: logging.Logger = logging.getLogger("ragcore.asgi")


def cancel_on_disconnect(app: ASGIApp) -> ASGIApp:
    """Middleware that cancels the handler when its client disconnects, which Starlette, FastAPI and Litestar do not.

    The request's body must be read before the handler waits for long: the middleware passes messages on in order.

    Example:
        ```python
        app.add_middleware(asgi.cancel_on_disconnect)
        ```
    """

    async def wrapped(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        await until_disconnect(app, scope, receive, send)

    return wrapped


async def until_disconnect(app: ASGIApp, scope: Message, receive: Receive, send: Send) -> None:
    """Run the application for one request, until it ends or its client is gone."""
    # One message ahead, no more: bodies are held by whoever reads them, who has counted them first.
    sender, receiver = anyio.create_memory_object_stream[Message](1)
    failed: BaseException | None = None
    answered = False

    async def told(message: Message) -> None:
        nonlocal answered
        # What goes on after the answer, as background tasks do, is not the client's: servers call every end a disconnect.
        answered = answered or _is_last(message)
        await send(message)

    async with anyio.create_task_group() as group, sender, receiver:

        async def watch() -> None:
            while True:
                try:
                    message = await receive()
                except Exception:
                    logger.debug("the server's receive failed: taken as a disconnect", exc_info=True)
                    message = {"type": "http.disconnect"}
                if message["type"] == "http.disconnect" and not answered:
                    group.cancel_scope.cancel()
                    return
                with suppress(anyio.BrokenResourceError):  # nobody reads any more
                    await sender.send(message)
                if message["type"] == "http.disconnect":
                    sender.close()
                    return

        async def heard() -> Message:
            try:
                return await receiver.receive()
            except anyio.EndOfStream:  # said before; servers say it as often as they are asked
                return {"type": "http.disconnect"}

        group.start_soon(watch)
        try:
            await app(scope, heard, told)
        except Exception as error:  # raised again outside of the group, as itself
            failed = error
        group.cancel_scope.cancel()
    if failed is not None:
        raise failed


def _is_last(message: Message) -> bool:
    kind = message["type"]
    return kind == "http.response.pathsend" or (kind == "http.response.body" and not message.get("more_body", False))
