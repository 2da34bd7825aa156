"""Names that other libraries keep private and ragcore needs. They are read here alone.

Where a release no longer has one, what depends on it is left out, with one warning in the log that says what that is. Where nothing works without
it, an error says which release has it.
"""

from __future__ import annotations

import asyncio
import logging
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


# asyncio


def executor_queue(loop: object, /) -> tuple[int, tuple[int | None, ...]]:
    """How much work waits for a thread of a loop's default executor, and the idents of its threads; (0, ()) where there is none.

    Source: `BaseEventLoop._default_executor` and `ThreadPoolExecutor._work_queue`, `._threads`, as CPython 3.11 has them. uvloop and trio have none.
    """
    executor = getattr(loop, "_default_executor", None)
    waiting = getattr(executor, "_work_queue", None)
    if waiting is None:
        return 0, ()
    return waiting.qsize(), tuple(thread.ident for thread in getattr(executor, "_threads", ()))


def ready_of(loop: asyncio.AbstractEventLoop, /) -> deque[Any]:
    """The callbacks that a loop runs next, to be put in another order.

    Source: `BaseEventLoop._ready`, as CPython 3.11 has it.

    Raises:
        RuntimeError: this Python keeps them elsewhere.
    """
    ready = getattr(loop, "_ready", None)
    if not isinstance(ready, deque):
        raise RuntimeError("asyncio keeps what is ready elsewhere in this Python: a simulation can't order it")  # noqa: TRY004
    return ready


# asyncpg


def transport_of(connection: asyncpg.Connection[asyncpg.Record]) -> asyncio.BaseTransport | None:
    """The transport below a connection of asyncpg, which knows the socket and TLS; None if this release of asyncpg does not keep it there.

    Source: `Connection._transport` of asyncpg 0.31 and 0.32. asyncpg has no public name for it.
    """
    transport = getattr(connection, "_transport", None)
    # By its method: uvloop's transports and those of TLS have no class in common with asyncio's own.
    if not callable(getattr(transport, "get_extra_info", None)):
        _warn_once(
            "private.missing: asyncpg's connections have no _transport, so the socket options of a DSN are not set and encryption is "
            "reported as off. Install asyncpg 0.31 or 0.32"
        )
        return None
    return cast("asyncio.BaseTransport", transport)


# httpcore, by way of the SDK of OpenAI


def wrap_network_backend(client: openai.AsyncOpenAI, wrapper: type, /) -> None:
    """Put a wrapper around what opens the connections of a client's HTTP client, for each of its transports.

    Source: `AsyncOpenAI._client`, `AsyncClient._transport`, `._mounts`, `AsyncHTTPTransport._pool`, `AsyncConnectionPool._network_backend` of openai 3,
    httpx 0.28, httpx2 2 and httpcore2 2.16. A client with a transport of the user's has no pool: nothing is wrapped, and nobody is warned.
    """
    http = getattr(client, "_client", None)
    if http is None:
        _warn_once(
            "private.missing: the SDK of OpenAI has no _client: a TLS handshake that is cancelled keeps its connection open"
        )
        return
    for transport in (getattr(http, "_transport", None), *(getattr(http, "_mounts", None) or {}).values()):
        pool = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if pool is not None and backend is not None and not isinstance(backend, wrapper):
            pool._network_backend = wrapper(backend)


# openai


async def send_by_openai(sdk: Any, url: str, body: bytes, headers: Mapping[str, str], /) -> Any:
    """Send a request with the address, the keys and the HTTP client of an SDK, and return the response, whose body is unread.

    Not by `AsyncOpenAI.post`: that retries, follows redirects to other servers with the key, and reads refusals without a bound.

    Source: `FinalRequestOptions`, `_prepare_options`, `_build_request`, `_prepare_request`, `_send_request`, `custom_auth` of openai 3.

    Raises:
        openai.APIConnectionError: the server was not reached. Else what the HTTP client raises while it decodes.
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
    """Keep the SDK from running a blocking command to find out the platform, which it would send to the server.

    Source: `AsyncOpenAI._platform` of openai 3.
    """
    if not hasattr(sdk, "_platform"):
        _warn_once(
            "private.missing: the SDK of OpenAI has no _platform: its first request may block the event loop for a moment"
        )
    sdk._platform = "Unknown"


# anyio and trio


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """In the block, tasks are cancelled in the order in which they were made, and trio runs them in an order of the seed's.

    anyio's backend for asyncio keeps tasks in sets, whose order is that of addresses; trio shuffles by a generator of its own.

    Source: `anyio._backends._asyncio`, which uses the builtin `set`, in anyio 4.16; `trio._core._run._r` and `._ALLOW_DETERMINISTIC_SCHEDULING`
    in trio 0.35.

    Raises:
        RuntimeError: another such block is open, or trio keeps its generator elsewhere.
    """
    import anyio._backends._asyncio as on_asyncio

    if hasattr(on_asyncio, "set"):
        raise RuntimeError("a simulation is running already: one at a time, and none within another")
    on_trio = _trio()
    kept: tuple[object, object] | None = None
    if on_trio is not None:
        if not hasattr(on_trio, "_r") or not hasattr(on_trio, "_ALLOW_DETERMINISTIC_SCHEDULING"):
            raise RuntimeError(
                "trio keeps the generator of its order elsewhere in this release: a simulation can't seed it"
            )
        kept = on_trio._r, on_trio._ALLOW_DETERMINISTIC_SCHEDULING
        on_trio._r, on_trio._ALLOW_DETERMINISTIC_SCHEDULING = random.Random(f"{seed}:order"), True  # type: ignore[attr-defined]
    on_asyncio.set = _Ordered  # type: ignore[attr-defined]  # shadows the builtin in that module alone
    try:
        yield
    finally:
        del on_asyncio.set  # type: ignore[attr-defined]
        if on_trio is not None and kept is not None:
            on_trio._r, on_trio._ALLOW_DETERMINISTIC_SCHEDULING = kept  # type: ignore[attr-defined]


def _trio() -> ModuleType | None:
    try:
        import trio._core._run
    except ImportError:  # it is no dependency
        return None
    return trio._core._run


class _Ordered(dict[Any, None]):
    """A set that remembers the order of its members."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        super().__init__(dict.fromkeys(items))

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    def remove(self, item: Any) -> None:
        del self[item]


# uvicorn

# What a protocol of ours looks at in uvicorn's.
PROTOCOL = (
    "connection_made",
    "data_received",
    "on_response_complete",
    "pause_writing",
    "resume_writing",
    "connection_lost",
)


def uvicorn_protocol() -> type:
    """uvicorn's protocol for HTTP/1.1 by h11, to be extended.

    Source: `uvicorn.protocols.http.h11_impl.H11Protocol`, with its attributes `connections`, `cycle`, `loop` and `transport`, as uvicorn 0.54 has them.

    Raises:
        ConfigurationError: this release has no such protocol.
    """
    import importlib

    try:
        found: type = importlib.import_module("uvicorn.protocols.http.h11_impl").H11Protocol
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"this release of uvicorn has no H11Protocol ({error}): install uvicorn 0.54, which has it"
        ) from error
    missing = [name for name in PROTOCOL if not callable(getattr(found, name, None))]
    if missing:
        raise ConfigurationError(
            f"this release of uvicorn has no H11Protocol.{missing[0]}: install uvicorn 0.54, which has it"
        )
    return found


def request_is_under_way(protocol: Any, /) -> bool:
    """Whether a connection has a request that is not answered to its end.

    Source: `H11Protocol.cycle` and `RequestResponseCycle.response_complete`, as uvicorn 0.54 has them.
    """
    return protocol.cycle is not None and not protocol.cycle.response_complete


@cache
def _warn_once(message: str) -> None:
    """Log a warning, once in a process: it would otherwise repeat with each connection."""
    logger.warning("%s", message)
