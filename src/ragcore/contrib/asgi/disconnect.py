"""Cancels a handler when its client disconnects."""

from __future__ import annotations

import logging
from contextlib import suppress

import anyio

from ragcore.contrib.asgi.exchange import ASGIApp, Message, Receive, Send

__all__ = ["cancel_on_disconnect", "until_disconnect"]

logger: logging.Logger = logging.getLogger("ragcore.asgi")


def cancel_on_disconnect(app: ASGIApp) -> ASGIApp:
    """Middleware that cancels the handler when its client disconnects. Starlette, FastAPI and Litestar don't do that.

    The handler must read the request's body before it waits for long, because the middleware receives a disconnect only after all earlier messages.

    Examples:
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
    """Run the application for one request, until it ends or its client disconnects."""
    # Read only one message ahead. The handler must hold the rest of the body, because it counts the bytes in memory.
    sender, receiver = anyio.create_memory_object_stream[Message](1)
    failed: BaseException | None = None
    answered = False

    async def forward(message: Message) -> None:
        nonlocal answered
        # Servers report a disconnect after every response. Then work that follows the response, such as background tasks, must continue.
        answered = answered or _is_last(message)
        await send(message)

    async with anyio.create_task_group() as group, sender, receiver:

        async def watch() -> None:
            while True:
                try:
                    message = await receive()
                except Exception:
                    logger.debug("the server's receive() failed; treated as a disconnect", exc_info=True)
                    message = {"type": "http.disconnect"}
                if message["type"] == "http.disconnect" and not answered:
                    group.cancel_scope.cancel()
                    return
                with suppress(anyio.BrokenResourceError):  # the application has ended
                    await sender.send(message)
                if message["type"] == "http.disconnect":
                    sender.close()
                    return

        async def next_message() -> Message:
            try:
                return await receiver.receive()
            except anyio.EndOfStream:
                # The disconnect was already passed on. Like a server, return it again at every call.
                return {"type": "http.disconnect"}

        group.start_soon(watch)
        try:
            await app(scope, next_message, forward)
        except Exception as error:  # it is raised again outside of the group, so that no ExceptionGroup wraps it
            failed = error
        group.cancel_scope.cancel()
    if failed is not None:
        raise failed


def _is_last(message: Message) -> bool:
    kind = message["type"]
    return kind == "http.response.pathsend" or (kind == "http.response.body" and not message.get("more_body", False))
