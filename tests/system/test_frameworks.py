"""The service of each framework's page runs as written, on a real server over real sockets."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import httpx2
import pytest

from ragcore import Document, OpenAIEmbedder, PgVectorStore
from ragcore.ingest import Ingestor
from ragcore.store import migrate
from ragcore.testing import OpenAIServer

pytestmark = [
    pytest.mark.system,
    pytest.mark.anyio,
    pytest.mark.blocking_allowed,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
]
PAGES = Path(__file__).parents[2] / "docs" / "how-to" / "frameworks"
MEMBER = {"x-member": "ann"}
FACT = "$1,500"
AT_ONCE = 50
IN_FLIGHT = 20
# The pages use 10 s, which is too long for a test.
GRACE = 2


def services() -> list[tuple[str, str, str]]:
    """Return (name, service.py, command) for each page. Django's page has two."""
    found = []
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text()
        files = re.findall(r"^```python\n# service\.py\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        commands = [
            block for block in re.findall(r"^```sh\n(.*?)\n```", text, re.DOTALL | re.MULTILINE) if "service" in block
        ]
        assert len(files) == len(commands), page
        commands = [command.splitlines()[-1] for command in commands]  # earlier lines install packages
        found += [
            (f"{page.stem}-{number}" if number else page.stem, *pair)
            for number, pair in enumerate(zip(files, commands, strict=True))
        ]
    return found


SERVICES = services()
# These servers don't tell the application that a client has disconnected.
WSGI = ("flask", "django-1")


class World:
    """A service, its process and its dependencies."""

    def __init__(self, url: str, model: OpenAIServer, process: subprocess.Popen[bytes], owner: Any, log: Path) -> None:
        self.url = url
        self.model = model
        self.process = process
        self.owner = owner
        self.log = log

    async def connections(self) -> int:
        return int(
            await self.owner.fetchval(
                "select count(*) from pg_stat_activity where usename = 'ragcore' and datname = current_database()"
            )
        )


@asynccontextmanager
async def serving(
    service: str, command: str, folder: Path, database: tuple[str, str]
) -> AsyncIterator[tuple[World, httpx2.AsyncClient]]:
    plain, owner_dsn = database
    await migrate(owner_dsn, model="fake", dimension=64, role="ragcore")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (folder / "service.py").write_text(
        service.replace("8000", port)
        .replace("shutdown_timeout=10", f"shutdown_timeout={GRACE}")
        .replace("TIMEOUT = 10.0", f"TIMEOUT = {GRACE}.0")
    )
    told = command.replace("8000", port).replace("-timeout 10", f"-timeout {GRACE}")
    told = told.replace("graceful-shutdown 10", f"graceful-shutdown {GRACE}")
    async with OpenAIServer(dimension=64) as embedding, OpenAIServer() as model:
        async with (
            PgVectorStore(plain) as store,
            OpenAIEmbedder("fake", dimension=64, base_url=embedding.base_url, api_key="none") as embedder,
        ):
            documents = [
                Document("plan", f"# Plan\n\nYour deductible is {FACT} per calendar year, and so on and so on.")
            ]
            await Ingestor(embedder=embedder, store=store).add(documents, tenant="ann")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DATABASE_URL": plain,
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": model.base_url,
            "RAGCORE_EMBEDDING_MODEL": "fake",
            "RAGCORE_EMBEDDING_DIMENSION": "64",
            "RAGCORE_MODELS": "fake",
            "RAGCORE_DRAIN": str(GRACE),
        }
        owner = await asyncpg.connect(owner_dsn)
        log = folder / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                shlex.split(told), cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True
            )
        try:
            world = World(f"http://127.0.0.1:{port}", model, process, owner, log)
            limits = httpx2.Limits(max_connections=None)
            async with httpx2.AsyncClient(base_url=world.url, headers=MEMBER, timeout=30, limits=limits) as client:
                await until_up(world, client)
                yield world, client
        finally:
            with anyio.CancelScope(shield=True):
                await owner.close(timeout=2)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def until_up(world: World, client: httpx2.AsyncClient) -> None:
    with anyio.fail_after(60):
        while True:
            assert world.process.poll() is None, world.log.read_text()
            try:
                await client.get("/nothing")
                return
            except httpx2.TransportError:
                await anyio.sleep(0.1)


async def until(what: str, seconds: float, condition: Any) -> None:
    """Wait for a condition for `seconds`, plus one second for a busy machine."""
    with anyio.move_on_after(seconds + 1):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await anyio.sleep(0.02)
    raise AssertionError(f"did not happen within {seconds:g} s: {what}")


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("name", "service", "command"),
    # One service of each kind runs at each change: on ASGI, and in threads.
    [
        pytest.param(*one, id=one[0], marks=() if one[0] in {"fastapi", "flask"} else pytest.mark.thorough)
        for one in SERVICES
    ],
)
async def test_the_service_of_each_page_works_as_written(
    name: str, service: str, command: str, tmp_path: Path, database: tuple[str, str]
) -> None:
    async with serving(service, command, tmp_path, database) as (world, client):
        await fifty_at_once(client)
        await streamed(client)
        await refused(client)
        await disconnected(world, client, whole=name not in WSGI)
        assert "Traceback" not in world.log.read_text(), world.log.read_text()
        await shut_down(world, client)


async def refused(client: httpx2.AsyncClient) -> None:
    """Check that wrong requests get the right status, and that no answer reveals how many documents other tenants have."""
    for body in (
        b"",
        b"null",
        b"[]",
        b'{"text": "?"}',
        b'{"message": ""}',
        b'{"message": ["?"]}',
        b'{"message": "?", "more": 1}',
    ):
        for path in ("/chat", "/chat/stream"):
            answer = await client.post(path, content=body, headers={"content-type": "application/json"})
            told = answer.text
            at_once = answer.status_code in (400, 422)
            assert at_once or (answer.status_code == 200 and told.startswith("event: error")), (path, body, told)
            assert "Traceback" not in told
    nobody = await client.post("/chat", json={"message": "?"}, headers={"x-member": ""})
    assert nobody.status_code in (400, 401, 422), nobody.text
    # gunicorn closes a connection with unread data, and the answer may be lost.
    with suppress(httpx2.TransportError):
        large = await client.post("/chat", json={"message": "x" * 1_000_000}, headers={"connection": "close"})
        assert large.status_code in (400, 413), large.text
    empty = await client.post("/chat", json={"message": "?"}, headers={"x-member": "nobody"})
    assert (empty.json()["found"], "for all tenants" in empty.text) == (False, False)


async def fifty_at_once(client: httpx2.AsyncClient) -> None:
    right = 0

    async def one() -> None:
        nonlocal right
        answer = await client.post("/chat", json={"message": "What is my deductible?"})
        assert answer.status_code == 200, answer.text
        right += FACT in answer.json()["text"]

    async with anyio.create_task_group() as group:
        for _ in range(AT_ONCE):
            group.start_soon(one)
    assert right == AT_ONCE


async def streamed(client: httpx2.AsyncClient) -> None:
    async with client.stream("POST", "/chat/stream", json={"message": "What is my deductible?"}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.aiter_lines()]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert (names[0], names[1], names[-1]) == ("retrieved", "delta", "done")
    last = json.loads([line for line in lines if line.startswith("data: ")][-1].removeprefix("data: "))
    assert FACT in last["answer"]["text"]


async def disconnected(world: World, client: httpx2.AsyncClient, *, whole: bool) -> None:
    """Check that the request to the model ends within a second if a client disconnects during an answer."""
    world.model.token_latency = 0.2
    async with client.stream("POST", "/chat/stream", json={"message": "What is my deductible?"}) as response:
        async for line in response.aiter_lines():
            if line == "event: delta":
                break
        assert world.model.active == 1
    await until("the model's request of a stream is gone", 1.0, lambda: world.model.active == 0)
    if not whole:
        return
    world.model.first_token_latency = 20.0
    with anyio.move_on_after(0.5):
        await client.post("/chat", json={"message": "What is my deductible?"})
    await until("the model's request of an answer is gone", 1.0, lambda: world.model.active == 0)


async def shut_down(world: World, client: httpx2.AsyncClient) -> None:
    """Stop the server with calls in flight: they are drained or cancelled in time, and no connection is left."""
    world.model.first_token_latency = 25.0
    async with anyio.create_task_group() as group:

        async def one() -> None:
            with suppress(httpx2.TransportError):
                await client.post("/chat", json={"message": "What is my deductible?"})

        for _ in range(IN_FLIGHT):
            group.start_soon(one)
        await until("all calls are at the model", 5.0, lambda: world.model.active == IN_FLIGHT)
        assert await world.connections() > 0
        world.process.send_signal(signal.SIGTERM)
        # The server's grace period, the client's drain, and the time to end a process.
        await until("the process has ended", 2 * GRACE + 3, lambda: world.process.poll() is not None)
        group.cancel_scope.cancel()

    async def nobody() -> bool:
        return await world.connections() == 0

    await until("no connection is left", 1.0, nobody)
    await until("no request is left at the model", 1.0, lambda: world.model.active == 0)
