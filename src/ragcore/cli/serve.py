"""`ragcore serve`: serves the application of `ragcore.contrib.asgi` on a port."""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, cast

import anyio

from ragcore.audit import AuditLog
from ragcore.cli.session import Options, messages
from ragcore.client.rag import RAG
from ragcore.compat.extras import require
from ragcore.compat.private import request_is_under_way, uvicorn_protocol
from ragcore.config import Config
from ragcore.contrib.asgi import Authenticate, app, from_tokens
from ragcore.contrib.asgi.exchange import WRITE_SECONDS, ASGIApp
from ragcore.contrib.prometheus.metrics import Metrics
from ragcore.errors import ConfigurationError
from ragcore.operating.watchdog import blocking_allowed

__all__ = ["bound", "hook_of", "serve", "serve_application", "with_limits"]

GRACE_SECONDS = 2
# An idle connection is closed if the head of its next request is not complete within this time.
REQUEST_SECONDS = 10.0
MOST_CONNECTIONS = 10_000
RESERVED_FILES = 128
AT_ONCE, BACKLOG = 32, 2_048
READ_AHEAD = 65_536
# Limits of each tenant, unless the environment sets others.
REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE, CALLS_AT_ONCE = 120, 400_000, 16


async def serve(
    options: Options,
    *,
    host: str,
    port: int,
    tokens: Path | None,
    hook: str | None,
    origins: Sequence[str],
    client_instructions: Literal["append", "ignore"],
    similarity_by_get: bool,
    console: bool,
    trusted_proxies: str,
    audit: Path | None,
    metrics: bool,
    metrics_port: int | None,
    metrics_host: str,
) -> int:
    """Serve until interrupted. After that, running calls have the client's drain time to end.

    Raises:
        ConfigurationError: uvicorn is missing, the hook can't be imported, the tokens can't be read, or the port is not available.
    """
    require("uvicorn", extra="serve", purpose="ragcore serve")
    authenticate = hook_of(tokens, hook)
    if authenticate is None:
        messages.print(
            "no authentication is configured, so every route except /livez, /readyz and /health returns 401: "
            "pass --tokens FILE or --authenticate module:function",
            style="yellow",
        )
    config = with_limits(options.config())
    listeners = bound(host, port)
    if not options.has_database():
        messages.print(f"there is no database yet: creating {options.where()}", style="yellow", markup=False)
    rag = RAG.from_config(config)
    measured = Metrics(rag, port=metrics_port, host=metrics_host) if metrics or metrics_port is not None else None
    application = app(
        rag,
        authenticate=authenticate,
        origins=origins,
        client_instructions=client_instructions,
        similarity_by_get=similarity_by_get,
        metrics=measured if metrics else None,
        parts=() if measured is None else (measured,),
        console=console,
    )
    return await serve_application(
        application,
        rag,
        host=host,
        listeners=listeners,
        verbose=options.verbose,
        trusted_proxies=trusted_proxies,
        audit=audit,
    )


async def serve_application(
    application: ASGIApp,
    rag: RAG,
    *,
    host: str,
    listeners: Sequence[socket.socket],
    verbose: bool,
    trusted_proxies: str,
    audit: Path | None,
    path: str = "",
) -> int:
    """Serve an application and its client until interrupted, and return the exit code.

    Args:
        application: its lifespan starts and closes the client.
        rag: the client.
        host: the host's name, for the message at the start.
        listeners: bound sockets. They are closed at the end.
        verbose: whether to log more.
        trusted_proxies: addresses of proxies whose headers count, separated by commas; "": none.
        audit: the file of the audit log; None: there is none.
        path: the path that the message at the start shows.
    """
    uvicorn = require("uvicorn", extra="serve", purpose="serving HTTP")
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            # uvicorn has two parsers. Only this one reports a disconnect if the next request has already arrived.
            http=_with_timeouts(uvicorn_protocol()),
            # asyncio accepts up to this many connections in one step, and none can be refused in between. The sockets' backlog is raised after the start.
            backlog=AT_ONCE,
            lifespan="on",
            log_level="info" if verbose else "warning",
            # ragcore has its own access log, "ragcore.access", without the query string, which may contain a question.
            access_log=False,
            server_header=False,
            # These headers are ignored without --trust-proxy, because any client can send X-Forwarded-For.
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=trusted_proxies or None,
            # After the client's drain time, uvicorn must end running streams: by default it waits for them without limit.
            timeout_graceful_shutdown=round(rag.settings.drain) + GRACE_SECONDS,
        )
    )
    startup, shutdown, handle_exit = server.startup, server.shutdown, server.handle_exit

    async def announced(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets)
        if server.started:
            # These objects live as long as the server. If they were not frozen, each full garbage collection would visit them and block the loop for 50 ms.
            with blocking_allowed():
                gc.collect()
                gc.freeze()
            for listener in listeners:
                listener.listen(BACKLOG)
            where = f"[{host}]" if ":" in host else host
            messages.print(
                f"serving at http://{where}:{listeners[0].getsockname()[1]}{path} (stop with Ctrl-C)", markup=False
            )

    async def drained(sockets: list[socket.socket] | None = None) -> None:
        async with anyio.create_task_group() as group:
            # The client cancels late calls with an error that the caller sees; uvicorn would only close their connections.
            group.start_soon(rag.aclose)
            await shutdown(sockets)
            if server.force_exit:  # the user pressed Ctrl-C a second time
                await rag.aclose(drain=0.0)

    interrupted = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = interrupted or signum == signal.SIGINT
        handle_exit(signum, frame)

    server.startup, server.shutdown, server.handle_exit = announced, drained, stop
    log = None if audit is None else AuditLog(audit)
    try:
        if log is not None:
            await log.start()
        await server.serve(list(listeners))
    finally:
        if log is not None:
            with anyio.CancelScope(shield=True):
                await log.aclose()
        for listener in listeners:
            listener.close()
    # When uvicorn ends, it raises SIGINT again, which cancels this task. A clean-up may swallow that cancellation, so the exit code is determined here.
    return 130 if interrupted else 0 if server.started else 1


def with_limits(config: Config) -> Config:
    """Return the configuration, with the default for each limit of tenants that is not set. 0 means no limit."""
    settings = config.settings
    return replace(
        config,
        settings=replace(
            settings,
            requests_per_minute=_default(settings.requests_per_minute, REQUESTS_PER_MINUTE),
            tokens_per_minute=_default(settings.tokens_per_minute, TOKENS_PER_MINUTE),
            calls_at_once=_default(settings.calls_at_once, CALLS_AT_ONCE),
        ),
    )


def _default(given: int | None, default: int) -> int:
    return default if given is None else given


def _with_timeouts(protocol: Any) -> Any:
    """Return the protocol with limits that uvicorn lacks: a number of connections, and timeouts for a slow request head and for a client that doesn't read."""
    most = _most_connections()

    class WithTimeouts(protocol):  # type: ignore[misc]  # uvicorn is an extra
        waits: asyncio.TimerHandle | None = None
        stalls: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            # Limit the bytes that are read before the application can refuse the request.
            if hasattr(transport, "max_size"):
                transport.max_size = READ_AHEAD
            if len(self.connections) > most:
                transport.abort()
            self._check_idle()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._check_idle()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._check_idle()

        def _check_idle(self) -> None:
            """If no request runs, start a timeout for the rest of the last body and for the next request head. Partial data doesn't extend the timeout."""
            if request_is_under_way(self):
                self.waits = _cancelled(self.waits)
            elif self.waits is None:
                self.waits = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.stalls = _cancelled(self.stalls) or self.loop.call_later(2 * WRITE_SECONDS, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self.stalls = _cancelled(self.stalls)

        def connection_lost(self, error: Exception | None) -> None:
            self.waits, self.stalls = _cancelled(self.waits), _cancelled(self.stalls)
            super().connection_lost(error)

    return WithTimeouts


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Cancel a timer. Returns None, so that `timer = _cancelled(timer)` also forgets the timer."""
    if timer is not None:
        timer.cancel()
    return None


def _most_connections() -> int:
    """Return the limit of connections. Some file descriptors of the process are kept free for the database and for connections that are refused."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MOST_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(MOST_CONNECTIONS, soft - RESERVED_FILES))


def bound(host: str, port: int) -> list[socket.socket]:
    """Bind a socket to each address of the host. This is the first step of the start, so that an address in use is reported at once."""
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            if os.name == "posix":  # on Windows, this option would let a second process use the same port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # With --port 0, all addresses get the port of the first one.
            listener.bind((address[0], port or listeners[0].getsockname()[1], *address[2:]))
    except (OSError, UnicodeError) as error:
        for listener in listeners:
            listener.close()
        reason = error.strerror if isinstance(error, OSError) else "invalid host name"
        message = f"cannot bind {host[:100]}:{port} ({reason}): choose another --host or --port, or stop the program that uses it"
        raise ConfigurationError(message) from error
    return listeners


def hook_of(tokens: Path | None, hook: str | None) -> Authenticate | None:
    """Return the hook that identifies callers; None if neither option is given."""
    if tokens is not None and hook is not None:
        raise ConfigurationError("--tokens and --authenticate are both given: choose one")
    if tokens is not None:
        return from_tokens(tokens)
    if hook is None:
        return None
    module, _, name = hook.partition(":")
    sys.path.insert(0, "")  # like other servers, import modules from the working folder
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # the user's module may raise any exception
        raise ConfigurationError(
            f"cannot import --authenticate {hook} ({type(error).__name__}: {error}): it must be module:function"
        ) from error
    if not callable(found) or (inspect.isfunction(found) and not inspect.iscoroutinefunction(found)):
        raise ConfigurationError(f"--authenticate {hook} is not a coroutine function: write `async def {name}(scope)`")
    return cast("Authenticate", found)
