"""`ragcore serve`: the reference application on a port."""

from __future__ import annotations

import importlib
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
        ConfigurationError: uvicorn is missing, the hook can't be imported, or the tokens can't be read.
    """
    uvicorn = require("uvicorn", extra="serve", purpose="ragcore serve")
    authenticate = _authenticate(tokens, hook)
    if authenticate is None:
        messages.print(
            "nobody can be told apart, so every route but /livez refuses: pass --tokens FILE or --authenticate module:function",
            style="yellow",
        )
    config = options.config()
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
    messages.print(f"serving at http://{host}:{port} (stop with Ctrl-C)", markup=False)
    await server.serve()
    return 0 if server.started else 1


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
