"""Reads the private names of other libraries that ragcore needs. No other module reads private names.

If a release of a library no longer has such a name, the feature that depends on it is switched off, and one warning in the log names the feature. If
ragcore can't continue without it, an error names the missing name.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import random
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from ragcore.errors import ConfigurationError

if TYPE_CHECKING:
    import asyncpg
    import openai

__all__ = [
    "executor_queue",
    "ray_on_loopback",
    "ready_of",
    "request_is_under_way",
    "seeded",
    "send_by_openai",
    "silence_platform",
    "transport_of",
    "uvicorn_protocol",
    "wrap_network_backend",
]

logger: logging.Logger = logging.getLogger("ragcore")

RAY_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


# asyncio


def executor_queue(loop: object, /) -> tuple[int, tuple[int | None, ...]]:
    """Return the queue length of a loop's default executor and the idents of its threads; (0, ()) if there is no executor.

    Source: `BaseEventLoop._default_executor` and `ThreadPoolExecutor._work_queue`, `._threads`, as in CPython 3.11. uvloop and trio don't have them.
    """
    executor = getattr(loop, "_default_executor", None)
    waiting = getattr(executor, "_work_queue", None)
    if waiting is None:
        return 0, ()
    return waiting.qsize(), tuple(thread.ident for thread in getattr(executor, "_threads", ()))


def ready_of(loop: asyncio.AbstractEventLoop, /) -> deque[Any]:
    """Return the callbacks that a loop runs next, so that a simulation can reorder them.

    Source: `BaseEventLoop._ready`, as in CPython 3.11.

    Raises:
        RuntimeError: this release of Python has no such attribute.
    """
    ready = getattr(loop, "_ready", None)
    if not isinstance(ready, deque):
        raise RuntimeError(  # noqa: TRY004
            "asyncio's event loop has no _ready in this release of Python, so a simulation can't order its callbacks"
        )
    return ready


# asyncpg


def transport_of(connection: asyncpg.Connection[asyncpg.Record]) -> asyncio.BaseTransport | None:
    """Return the transport of an asyncpg connection, which gives access to the socket and TLS; None if this release of asyncpg has no such attribute.

    Source: `Connection._transport` of asyncpg 0.31 and 0.32. asyncpg has no public name for it.
    """
    transport = getattr(connection, "_transport", None)
    # Check for a method instead of the class, because transports of uvloop, TLS and asyncio have no common base class.
    if not callable(getattr(transport, "get_extra_info", None)):
        _warn_once(
            "private.missing: asyncpg's connections have no _transport, so the socket options of a DSN are not set and encryption is "
            "reported as off. Install asyncpg 0.31 or 0.32"
        )
        return None
    return cast("asyncio.BaseTransport", transport)


# httpcore, in the SDK of OpenAI


def wrap_network_backend(client: openai.AsyncOpenAI, wrapper: type, /) -> None:
    """Wrap the network backends of an SDK client's HTTP client. Each transport has a network backend, which opens its connections.

    Source: `AsyncOpenAI._client`, `AsyncClient._transport`, `._mounts`, `AsyncHTTPTransport._pool`, `AsyncConnectionPool._network_backend` of openai 3,
    httpx 0.28, httpx2 2 and httpcore2 2.16. A client with the user's own transport has no pool, so nothing is wrapped and there is no warning.
    """
    http = getattr(client, "_client", None)
    if http is None:
        _warn_once(
            "private.missing: the SDK of OpenAI has no _client, so a cancelled TLS handshake keeps its connection open. Install openai 3"
        )
        return
    for transport in (getattr(http, "_transport", None), *(getattr(http, "_mounts", None) or {}).values()):
        pool = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if pool is not None and backend is not None and not isinstance(backend, wrapper):
            pool._network_backend = wrapper(backend)


# openai


async def send_by_openai(sdk: Any, url: str, body: bytes, headers: Mapping[str, str], /) -> Any:
    """Send a request with the address, the keys and the HTTP client of an SDK client. Return the response with an unread body.

    `AsyncOpenAI.post` is not used, because it retries, follows redirects to other servers with the key, and reads error responses of any size.

    Source: `FinalRequestOptions`, `_prepare_options`, `_build_request`, `_prepare_request`, `_send_request`, `custom_auth` of openai 3.

    Raises:
        openai.APIConnectionError: the server was not reached.
        Exception: the HTTP client could not decode the response.
    """
    import openai

    options = openai._models.FinalRequestOptions.construct(method="post", url=url, content=body, headers=headers)
    options = await sdk._prepare_options(options)  # fetches keys and tokens that expire
    request = sdk._build_request(options)
    await sdk._prepare_request(request)
    auth = {} if sdk.custom_auth is None else {"auth": sdk.custom_auth}
    try:
        return await sdk._send_request(request, stream=True, follow_redirects=False, **auth)
    except openai.OpenAIError:
        raise
    except Exception as error:
        if type(error).__name__ == "DecodingError":
            raise
        raise openai.APIConnectionError(request=request) from error


def silence_platform(sdk: openai.AsyncOpenAI, /) -> None:
    """Prevent the SDK from running a blocking command that finds the platform's name for a header.

    Source: `AsyncOpenAI._platform` of openai 3.
    """
    if not hasattr(sdk, "_platform"):
        _warn_once(
            "private.missing: the SDK of OpenAI has no _platform, so its first request may block the event loop for a moment. Install openai 3"
        )
    sdk._platform = "Unknown"


# Ray


@contextmanager
def ray_on_loopback() -> Iterator[None]:
    """Make Ray, and the processes that it starts, listen on 127.0.0.1 only, and connect to 127.0.0.1 instead of the machine's address, for the block.

    The processes read the environment. This process has read it when it imported Ray, so the constant is changed as well.

    Source: `ray._private.ray_constants.ENABLE_RAY_CLUSTER`, as in Ray 2.60. Despite its name, the variable also works on Linux.
    """
    constants = importlib.import_module("ray._private.ray_constants")
    known = getattr(constants, "ENABLE_RAY_CLUSTER", None)
    if known is None:
        _warn_once(
            "private.missing: Ray has no ENABLE_RAY_CLUSTER, so it may listen on all interfaces. Install Ray 2.60"
        )
    variable = os.environ.get(RAY_VARIABLE)
    os.environ[RAY_VARIABLE] = "0"
    constants.ENABLE_RAY_CLUSTER = False  # type: ignore[attr-defined]  # a module has any attribute
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = known  # type: ignore[attr-defined]  # see above
        if variable is None:
            del os.environ[RAY_VARIABLE]
        else:
            os.environ[RAY_VARIABLE] = variable


# anyio and trio


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make the order of tasks reproducible in the block. Tasks are cancelled in the order of their creation, and the seed determines trio's order.

    Outside the block the order is random: anyio's asyncio backend keeps tasks in sets, which are ordered by address, and trio shuffles with its own
    generator.

    Source: `anyio._backends._asyncio`, which uses the builtin `set`, in anyio 4.16; `trio._core._run._r` and `._ALLOW_DETERMINISTIC_SCHEDULING`
    in trio 0.35.

    Raises:
        RuntimeError: another such block is open, or this release of trio has no such generator.
    """
    import anyio._backends._asyncio as on_asyncio

    if hasattr(on_asyncio, "set"):
        raise RuntimeError("a simulation is already running: run one at a time, and don't nest them")
    on_trio = _trio()
    kept: tuple[object, object] | None = None
    if on_trio is not None:
        if not hasattr(on_trio, "_r") or not hasattr(on_trio, "_ALLOW_DETERMINISTIC_SCHEDULING"):
            raise RuntimeError(
                "this release of trio has no _r or _ALLOW_DETERMINISTIC_SCHEDULING, so a simulation can't seed its order"
            )
        kept = on_trio._r, on_trio._ALLOW_DETERMINISTIC_SCHEDULING
        on_trio._r, on_trio._ALLOW_DETERMINISTIC_SCHEDULING = random.Random(f"{seed}:order"), True  # type: ignore[attr-defined]
    on_asyncio.set = _Ordered  # type: ignore[attr-defined]  # shadows the builtin only in that module
    try:
        yield
    finally:
        del on_asyncio.set  # type: ignore[attr-defined]
        if on_trio is not None and kept is not None:
            on_trio._r, on_trio._ALLOW_DETERMINISTIC_SCHEDULING = kept  # type: ignore[attr-defined]


def _trio() -> ModuleType | None:
    try:
        import trio._core._run
    except ImportError:  # trio is not a dependency of ragcore
        return None
    return trio._core._run


class _Ordered(dict[Any, None]):
    """A set that keeps the insertion order of its elements."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        super().__init__(dict.fromkeys(items))

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    def remove(self, item: Any) -> None:
        del self[item]


# uvicorn

# The methods of uvicorn's protocol that ragcore's subclass uses.
PROTOCOL = (
    "connection_made",
    "data_received",
    "on_response_complete",
    "pause_writing",
    "resume_writing",
    "connection_lost",
)


def uvicorn_protocol() -> type:
    """Return uvicorn's protocol class for HTTP/1.1 with h11, as a base class.

    Source: `uvicorn.protocols.http.h11_impl.H11Protocol`, with its attributes `connections`, `cycle`, `loop` and `transport`, as in uvicorn 0.54.

    Raises:
        ConfigurationError: this release of uvicorn has no such class.
    """
    import importlib

    try:
        found: type = importlib.import_module("uvicorn.protocols.http.h11_impl").H11Protocol
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"this release of uvicorn has no H11Protocol ({error}): install uvicorn 0.54"
        ) from error
    missing = [name for name in PROTOCOL if not callable(getattr(found, name, None))]
    if missing:
        raise ConfigurationError(f"this release of uvicorn has no H11Protocol.{missing[0]}: install uvicorn 0.54")
    return found


def request_is_under_way(protocol: Any, /) -> bool:
    """Return whether a connection has a request whose response is not complete.

    Source: `H11Protocol.cycle` and `RequestResponseCycle.response_complete`, as in uvicorn 0.54.
    """
    return protocol.cycle is not None and not protocol.cycle.response_complete


@cache
def _warn_once(message: str) -> None:
    """Log a warning once per process, so that it is not repeated for each connection."""
    logger.warning("%s", message)
