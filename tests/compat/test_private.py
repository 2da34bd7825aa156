"""The installed releases of other libraries still have the private names that ragcore uses."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import asyncpg
import openai
import pytest

from ragcore import ConfigurationError
from ragcore.compat import private
from ragcore.compat.private import (
    executor_queue,
    ready_of,
    request_is_under_way,
    seeded,
    send_by_openai,
    silence_platform,
    transport_of,
    uvicorn_protocol,
    wrap_network_backend,
)
from ragcore.testing.server import OpenAIServer


@pytest.mark.system
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})])
async def test_a_connection_of_asyncpg_has_its_transport(server: tuple[str, str]) -> None:
    connection = await asyncpg.connect(server[0])
    try:
        transport = transport_of(connection)
        assert transport is not None
        assert transport.get_extra_info("socket").family == socket.AF_UNIX
        assert transport.get_extra_info("ssl_object") is None
    finally:
        await connection.close()


def test_the_class_of_asyncpgs_connections_has_a_transport() -> None:
    """This is the previous check without a server, so that the quick tests also detect a new release of asyncpg."""
    assert "_transport" in asyncpg.Connection.__slots__


def test_a_release_without_the_name_gets_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    private._warn_once.cache_clear()
    other = cast("asyncpg.Connection[asyncpg.Record]", object())
    with caplog.at_level(logging.WARNING, logger="ragcore"):
        assert transport_of(other) is None
        assert transport_of(other) is None
    assert [record.message.split(":")[0] for record in caplog.records] == ["private.missing"]
    private._warn_once.cache_clear()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_default_executor_shows_its_queue_and_its_threads() -> None:
    loop = asyncio.get_running_loop()
    assert executor_queue(loop) == (0, ())
    free = threading.Event()
    executor = ThreadPoolExecutor(1)
    loop.set_default_executor(executor)
    try:
        work = [loop.run_in_executor(None, free.wait) for _ in range(3)]
        await asyncio.sleep(0.01)
        queued, threads = executor_queue(loop)
        assert queued == 2
        assert set(threads) < {thread.ident for thread in threading.enumerate()}
        assert len(threads) == 1
    finally:
        free.set()
        await asyncio.gather(*work)
    assert executor_queue(object()) == (0, ())


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_ready_callbacks_of_a_loop_can_be_reordered() -> None:
    loop, seen = asyncio.get_running_loop(), list[int]()
    for number in range(3):
        loop.call_soon(seen.append, number)
    ready_of(loop).rotate(1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sorted(seen) == [0, 1, 2] != seen
    with pytest.raises(RuntimeError, match="can't order its callbacks"):
        ready_of(cast("asyncio.AbstractEventLoop", object()))


def test_connections_of_the_sdks_client_are_opened_by_the_wrapped_backend() -> None:
    class Wrapper:
        def __init__(self, backend: object) -> None:
            self.backend = backend

    client = openai.AsyncOpenAI(api_key="k", base_url="http://localhost")
    wrap_network_backend(client, Wrapper)
    wrap_network_backend(client, Wrapper)  # a second call has no effect
    pool: Any = client._client._transport._pool  # type: ignore[attr-defined]
    assert isinstance(pool._network_backend, Wrapper)
    assert not isinstance(pool._network_backend.backend, Wrapper)


@pytest.mark.anyio
async def test_a_request_is_sent_by_the_sdk_with_its_key_and_the_response_is_unread() -> None:
    async with OpenAIServer() as server:
        sdk = openai.AsyncOpenAI(api_key="sk-1", base_url=server.base_url)
        silence_platform(sdk)
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "q"}]}).encode()
        response = await send_by_openai(sdk, "/chat/completions", body, {"x-own": "1"})
        try:
            assert response.status_code == 200
            assert not response.is_stream_consumed
            headers = response.request.headers
            assert (headers["authorization"], headers["x-own"]) == ("Bearer sk-1", "1")
            assert headers["x-stainless-os"] == "Unknown"
            assert response.request.content == body
        finally:
            await response.aclose()
        await sdk.close()


@pytest.mark.anyio
async def test_an_unreachable_server_raises_the_sdks_error() -> None:
    sdk = openai.AsyncOpenAI(api_key="k", base_url="http://127.0.0.1:1", max_retries=0)
    silence_platform(sdk)
    with pytest.raises(openai.APIConnectionError):
        await send_by_openai(sdk, "/chat/completions", b"{}", {})
    await sdk.close()


def test_a_seeded_block_restores_everything_and_can_not_be_nested() -> None:
    import anyio._backends._asyncio as on_asyncio
    import trio._core._run as on_trio

    before = on_trio._r
    with seeded(1):
        assert list(vars(on_asyncio)["set"]([3, 1, 2])) == [3, 1, 2]
        assert on_trio._r is not before
        with pytest.raises(RuntimeError, match="already running"), seeded(2):
            pass
    assert "set" not in vars(on_asyncio)
    assert on_trio._r is before


def test_anyio_uses_the_builtin_set_for_tasks() -> None:
    import anyio._backends._asyncio as on_asyncio

    assert "set()" in inspect.getsource(on_asyncio)


def test_uvicorns_protocol_has_the_members_that_ours_uses() -> None:
    protocol = uvicorn_protocol()
    assert protocol.__name__ == "H11Protocol"
    source = inspect.getsource(protocol)
    for name in ("self.connections", "self.cycle", "self.loop", "self.transport"):
        assert name in source
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

    assert "self.response_complete" in inspect.getsource(RequestResponseCycle)


def test_an_unsupported_release_of_uvicorn_is_an_error_with_the_release_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("uvicorn.protocols.http.h11_impl.H11Protocol", type("H11Protocol", (), {}))
    with pytest.raises(ConfigurationError, match=r"no H11Protocol\.connection_made: install uvicorn"):
        uvicorn_protocol()


def test_a_request_is_under_way_until_its_response_is_complete() -> None:
    class Cycle:
        response_complete = False

    class Protocol:
        cycle: Any = None

    protocol = Protocol()
    assert not request_is_under_way(protocol)
    protocol.cycle = Cycle()
    assert request_is_under_way(protocol)
    protocol.cycle.response_complete = True
    assert not request_is_under_way(protocol)
