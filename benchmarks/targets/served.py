"""Serves an ASGI application on loopback, in its own process."""

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
    """Start the application that the module serves. Yields its address and its process."""
    async with child(module, options) as process:
        yield str(process.said["url"]), process


async def serve(app: Any) -> None:
    """Serve the application until the parent process has ended. Runs in the child process."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="auto", timeout_graceful_shutdown=1))
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve, [listener])
        print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
        async for _ in obey():
            pass
        server.should_exit = True
