"""Secrets don't appear in any text: a repr, a message, or a traceback that shows local variables."""

from __future__ import annotations

import socket
import traceback
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from ragcore import Config, OpenAIEmbedder, OpenAIGenerator, PgVectorStore, Prompt, RagcoreError
from ragcore.client.components import make_store
from ragcore.config import Policies
from ragcore.resilience import Policy, deadline
from ragcore.store import migrate
from ragcore.testing import Fail, FakeEmbedder, OpenAIServer
from ragcore.types.secret import Secret, without_credentials

CANARY = "canary-d41d8cd9"


def shown(error: BaseException) -> str:
    """Return the traceback with the variables of each frame, as some tools show it. Frames of these tests are left out."""
    whole = traceback.TracebackException.from_exception(error, capture_locals=True)
    left: list[traceback.TracebackException | None] = [whole]
    while left:
        one = left.pop()
        if one is not None:
            one.stack[:] = [frame for frame in one.stack if frame.filename != __file__]
            left += [one.__cause__, one.__context__]
    return "".join(whole.format())


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    "url",
    [f"https://user:{CANARY}@models.example.org/v1", f"https://{CANARY}@models.example.org:8443/v1?key={CANARY}"],
)
def test_credentials_in_an_address_are_not_shown(url: str) -> None:
    config = Config(base_url=url, embedding_base_url=url, generation_base_url=url, dsn=Secret(CANARY))
    assert CANARY not in repr(config)
    assert CANARY not in str(config)
    assert config.base_url == url
    assert CANARY not in without_credentials(url)
    assert "models.example.org" in without_credentials(url)


@pytest.mark.parametrize(
    "url", ["https://models.example.org/v1", "http://[::1]:8080/v1", "not an address", "", "https://[broken"]
)
def test_an_address_without_credentials_stays_as_it_is(url: str) -> None:
    assert without_credentials(url) == url


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestDatabase:
    async def failure(self, dsn: Any) -> BaseException:
        async with PgVectorStore(dsn, policy=Policy("database", retry=False)) as store:
            with pytest.raises(RagcoreError) as caught, deadline(5):
                await store.count(tenant="a")
        return caught.value

    async def test_no_frame_of_a_failed_connection_holds_the_dsn(self, closed_port: int) -> None:
        dsn = Secret(f"postgresql://app:{CANARY}@127.0.0.1:{closed_port}/x")
        assert CANARY not in shown(await self.failure(dsn))

    async def test_no_frame_of_an_interrupted_connection_holds_the_dsn(self) -> None:
        async def slam(stream: anyio.abc.SocketStream) -> None:
            await stream.aclose()

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, slam)
            error = await self.failure(Secret(f"postgresql://app:{CANARY}@127.0.0.1:{port}/x"))
            group.cancel_scope.cancel()
        await listener.aclose()
        assert CANARY not in shown(error)

    async def test_a_migration_that_fails_shows_no_password(self, closed_port: int) -> None:
        dsn = Secret(f"postgresql://owner:{CANARY}@127.0.0.1:{closed_port}/x")
        with pytest.raises(RagcoreError) as caught:
            await migrate(dsn, model="m", dimension=3, role="r")
        assert CANARY not in shown(caught.value)

    @pytest.mark.parametrize(
        "dsn",
        [
            f"postgresql://app:{CANARY}@h/x?surprise=1",
            f"mysql://app:{CANARY}@h/x",
            f"postgresql://app:{CANARY}@h:notaport/x",
            f"postgresql://app:{CANARY}@h/x?sslmode=odd",
            CANARY,
        ],
    )
    async def test_no_frame_of_an_invalid_dsn_holds_the_password(self, dsn: str) -> None:
        config = Config(dsn=Secret(dsn))
        with pytest.raises(RagcoreError) as caught:
            make_store(config, Policies(), FakeEmbedder())
        assert CANARY not in shown(caught.value)


@pytest.fixture
async def server(anyio_backend: str) -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer() as made:
        yield made


@pytest.mark.anyio
@pytest.mark.parametrize("key", [CANARY, Secret(CANARY)], ids=["str", "Secret"])
async def test_no_frame_of_a_failed_request_holds_the_key(server: OpenAIServer, key: Any) -> None:
    server.faults.always(Fail(401))
    policy = Policy("model", retry=False)
    async with OpenAIGenerator("fake", base_url=server.base_url, api_key=key, policy=policy) as generator:
        with pytest.raises(RagcoreError) as caught:
            await generator.generate(Prompt("question"))
    assert CANARY not in str(caught.value)
    assert CANARY not in shown(caught.value)


@pytest.mark.anyio
async def test_no_frame_of_an_unreachable_server_holds_the_key(closed_port: int) -> None:
    url = f"http://user:{CANARY}@127.0.0.1:{closed_port}/v1"
    policy = Policy("embedding", retry=False)
    async with OpenAIEmbedder("fake", dimension=8, base_url=url, api_key=Secret(CANARY), policy=policy) as embedder:
        with pytest.raises(RagcoreError) as caught:
            await embedder.embed(["text"], kind="document")
    assert CANARY not in str(caught.value)
    assert CANARY not in shown(caught.value)
