"""An ASGI application served on loopback, in a process of its own."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import uvicorn
from tests.support.child import Child, child, obey

__all__ = ["serve", "served"]


@asynccontextmanager
async def served(module: str, options: Any) -> AsyncIterator[tuple[str, Child]]:
    """(address, process) of the application that the module serves."""
    async with child(module, options) as process:
        yield str(process.said["url"]), process


async def serve(app: Any) -> None:
    """In that process: serve the application until the process that started it is gone."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="auto", timeout_graceful_shutdown=1))
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve, [listener])
        print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
        async for _ in obey():
            pass
        server.should_exit = True
