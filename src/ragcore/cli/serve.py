"""`ragcore serve`: the reference application on a port."""

from __future__ import annotations

import importlib
import socket
from pathlib import Path
from typing import cast

from ragcore.cli.session import Options, messages
from ragcore.contrib.asgi import Authenticate, app, from_tokens
from ragcore.errors import ConfigurationError
from ragcore.extras import require
from ragcore.rag import RAG

__all__ = ["serve"]


async def serve(options: Options, *, host: str, port: int, tokens: Path | None, hook: str | None) -> int:
    """Serve until interrupted; running calls get the client's drain time to end.

    Raises:
        ConfigurationError: uvicorn is missing, the hook can't be imported, the tokens can't be read, or the port can't be had.
    """
    uvicorn = require("uvicorn", extra="serve", purpose="ragcore serve")
    authenticate = _authenticate(tokens, hook)
    if authenticate is None:
        messages.print(
            "nobody can be told apart, so every route but /livez refuses: pass --tokens FILE or --authenticate module:function",
            style="yellow",
        )
    config = options.config()
    listener = _bound(host, port)
    application = app(RAG.from_config(config), authenticate=authenticate)
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            host=host,
            port=port,
            lifespan="on",
            log_level="info" if options.verbose else "warning",
            # Streams that go on are cut off, or uvicorn would wait for them for ever.
            timeout_graceful_shutdown=max(1, round(config.settings.drain)),
        )
    )
    startup = server.startup

    async def announced(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets)
        if server.started:
            where = f"[{host}]" if ":" in host else host
            messages.print(f"serving at http://{where}:{listener.getsockname()[1]} (stop with Ctrl-C)", markup=False)

    server.startup = announced
    try:
        await server.serve([listener])
    finally:
        listener.close()
    return 0 if server.started else 1


def _bound(host: str, port: int) -> socket.socket:
    """Bound, but not listening yet: found out before anything is started, and refused until all is."""
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        message = f"{host}:{port} can't be had ({error.strerror}): choose another --host or --port, or end what has it"
        raise ConfigurationError(message) from error
    return listener


def _authenticate(tokens: Path | None, hook: str | None) -> Authenticate | None:
    if tokens is not None and hook is not None:
        raise ConfigurationError("--tokens and --authenticate are two ways to say who asks: choose one")
    if tokens is not None:
        return from_tokens(tokens)
    if hook is None:
        return None
    module, _, name = hook.partition(":")
    try:
        return cast("Authenticate", getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"--authenticate {hook} can't be imported: {error}; it is module:function") from error
