"""A canary is hidden in every secret, question and text of a real `ragcore serve` with a database. No log or answer may show it to the wrong reader."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import anyio
import asyncpg
import httpx
import numpy as np
import pytest

from ragcore import (
    RAG,
    Document,
    EmbeddedDocument,
    ExtractiveGenerator,
    PgVectorStore,
    Query,
    RagcoreError,
    Retriever,
    Settings,
    Turn,
    meta,
)
from ragcore.testing import Fail, FakeEmbedder, Hang, OpenAIServer, Slow
from ragcore.types import Chunk

from ..test_canary import (
    ADMINISTRATOR,
    ANSWER,
    ASKED,
    DOCUMENT,
    HEADER,
    HISTORY,
    INSTRUCTIONS,
    KEY,
    METADATA,
    PASSWORD,
    QUESTION,
    SAID,
    STOLEN,
    TEXT,
    TITLE,
    TOKEN,
    Seen,
    said,
)

pytestmark = [
    pytest.mark.system,
    pytest.mark.anyio,
    pytest.mark.blocking_allowed,
    pytest.mark.timeout(150),
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
]

# An operator could add this hook to the application. It writes all logs and events to one file, and the variables of each traceback frame to another.
HOOK = """
import json, logging, traceback
from ragcore import events
from ragcore.contrib import asgi

lines = open("everything.log", "a", buffering=1)
variables = open("variables.log", "a", buffering=1)

class Everything(logging.Handler):
    def emit(self, record):
        print(self.format(record), record.__dict__, file=lines)
        if record.exc_info and record.exc_info[1] is not None:
            whole = traceback.TracebackException.from_exception(record.exc_info[1], capture_locals=True)
            print("".join(whole.format()), file=variables)

logging.getLogger().addHandler(Everything())
logging.getLogger().setLevel(logging.DEBUG)
events.subscribe(lambda event: print(json.dumps(event.to_dict(), default=repr), file=lines))
who = asgi.from_tokens("tokens.json")

async def authenticate(scope):
    return await who(scope)
"""


@pytest.fixture
async def model() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer(text=f"You pay {ANSWER} [1].") as made:
        yield made


@pytest.fixture
async def migrated(migrated: tuple[str, str]) -> tuple[str, str]:
    """Return (plain DSN, owner DSN) of a migrated database. The plain DSN contains a password."""
    return migrated[0].replace("ragcore@", f"ragcore:{PASSWORD}@"), migrated[1]


def environment(dsn: str, model: OpenAIServer) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": dsn,
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": model.base_url,
        "RAGCORE_EMBEDDING_MODEL": "fake",
        "RAGCORE_EMBEDDING_DIMENSION": "64",
        "RAGCORE_MODELS": "fake",
        "RAGCORE_INSTRUCTIONS": INSTRUCTIONS,
        "RAGCORE_TIMEOUT": "3",
        "RAGCORE_DRAIN": "0.5",
        "PYTHONASYNCIODEBUG": "1",
    }


async def command(*arguments: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run `ragcore …` and return its exit status and output."""
    line = [sys.executable, "-m", "ragcore", "--verbose", *arguments]
    done = await anyio.run_process(line, check=False, cwd=folder, env=environment, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode()


@asynccontextmanager
async def serving(folder: Path, environment: dict[str, str]) -> AsyncIterator[str]:
    """Start a server and yield its address. At the end of the block it gets SIGTERM while a call is running."""
    options = "--port 0 --authenticate hook:authenticate --audit audit.jsonl".split()
    with (folder / "printed.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ragcore", "--verbose", "serve", *options],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        found = None
        with anyio.fail_after(40):
            while found is None:
                assert process.poll() is None, (folder / "printed.log").read_text()
                await anyio.sleep(0.1)
                found = re.search(r"serving at (\S+)", (folder / "printed.log").read_text())
        yield found[1]
        process.send_signal(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(lambda: process.wait(20)) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


class Web:
    """Asks over the socket and records which reader received each text."""

    def __init__(self, url: str, seen: Seen) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=20)
        self._seen = seen

    async def ask(self, method: str, path: str, body: object = None, *, token: str = TOKEN, accept: str = "*/*") -> int:
        headers = {
            "authorization": f"Bearer {token}",
            "accept": accept,
            "x-secret": HEADER,
            "cookie": f"session={HEADER}",
            "x-forwarded-for": HEADER,
            "user-agent": HEADER,
        }
        answer = await self._client.request(method, path, json=body, headers=headers)
        got = f"{answer.headers} {answer.text}"
        who = {TOKEN: "member", ADMINISTRATOR: "administrator"}.get(token, "stranger")
        if answer.status_code >= 400 and who != "stranger":
            who = "refusal" if who == "member" else "refusal to an administrator"
        self._seen.add(who, got)
        return answer.status_code

    async def in_every_way(self) -> set[int]:
        """Ask on each route, as each of both users."""
        statuses = set()
        turns = [{"role": "user", "content": HISTORY}, {"role": "assistant", "content": HISTORY}]
        for token in (TOKEN, ADMINISTRATOR):
            for accept in ("application/json", "text/event-stream"):
                chat = {"message": ASKED, "history": turns}
                statuses.add(await self.ask("POST", "/chat", chat, token=token, accept=accept))
            for stream in (False, True):
                messages = [*turns, {"role": "user", "content": ASKED}]
                completions = {"messages": messages, "stream": stream}
                statuses.add(await self.ask("POST", "/v1/chat/completions", completions, token=token))
            statuses.add(await self.ask("POST", "/debug/rag-similarity/m", {"query": ASKED}, token=token))
            for path in ("/health", "/readyz", "/debug/inflight"):
                statuses.add(await self.ask("GET", path, token=token))
        statuses.add(await self.ask("GET", f"/debug/rag-similarity/m?query={QUESTION}", token=ADMINISTRATOR))
        return statuses

    async def abandoned(self, accept: str) -> None:
        """Ask a question and disconnect."""
        with anyio.move_on_after(0.3):
            await self.ask("POST", "/chat", {"message": f"{ASKED} gone"}, accept=accept)

    async def aclose(self) -> None:
        await self._client.aclose()


async def test_a_real_service_leaks_no_secret_question_or_text(
    migrated: tuple[str, str], model: OpenAIServer, tmp_path: Path
) -> None:
    seen = Seen()
    (tmp_path / "hook.py").write_text(HOOK)
    tokens = {TOKEN: {"tenant": "m"}, ADMINISTRATOR: {"tenant": "m", "admin": True}}
    (tmp_path / "tokens.json").write_text(json.dumps(tokens))
    set_up = environment(migrated[0], model)
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "plan.md").write_text(f"# {TITLE}\n\n{DOCUMENT.text}")
    (documents / "broken.pdf").write_text(f"%PDF-1.7 {TEXT}")
    rows = [{"id": "a", "text": DOCUMENT.text, "title": TITLE, "metadata": {"kind": METADATA}}, {"id": "b", "text": 1}]
    (documents / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + f"\n{TEXT}\n")
    code, printed = await command("ingest", str(documents), "--tenant", "m", folder=tmp_path, environment=set_up)
    assert code == 1, printed  # some documents failed
    seen.add("log", printed)
    owner = await asyncpg.connect(migrated[1])
    async with serving(tmp_path, set_up) as url:
        web = Web(url, seen)
        assert await web.in_every_way() == {200}
        assert await web.ask("GET", "/v1/models", token=STOLEN) == 401
        assert await web.ask("POST", "/chat", {"message": ASKED * 1_000}) == 400
        with suppress(httpx.TransportError):  # the server closes the connection while the client still sends
            assert await web.ask("POST", "/chat", {"message": ASKED * 100_000}) == 413
        model.faults.always(said(f"{SAID} {KEY}", 503))
        await web.in_every_way()
        model.faults.always(Slow(20))
        for accept in ("application/json", "text/event-stream"):
            await web.abandoned(accept)
        model.faults.always(None)
        # Make the database unavailable: end all sessions and refuse new ones.
        name = await owner.fetchval("select current_database()")
        elsewhere = await asyncpg.connect(migrated[1].replace(f"/{name}?", "/ragcore?"))
        await owner.close()
        await elsewhere.execute(f"alter database {name} allow_connections false")
        await elsewhere.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)
        statuses = await web.in_every_way()
        assert statuses & {500, 503, 504}, statuses
        await elsewhere.execute(f"alter database {name} allow_connections true")
        await elsewhere.close()
        model.faults.always(Hang())
        async with anyio.create_task_group() as group:
            group.start_soon(web.abandoned, "text/event-stream")
            await anyio.sleep(0.1)
        await web.aclose()
    seen.add("log", (tmp_path / "printed.log").read_text(), (tmp_path / "everything.log").read_text())
    seen.add("traceback", (tmp_path / "variables.log").read_text())
    seen.add("audit", (tmp_path / "audit.jsonl").read_text())
    assert "POST /chat 200" in "".join(seen.texts["log"])
    assert "call.finished" in "".join(seen.texts["log"])
    for canary in (QUESTION, TEXT, TITLE, ANSWER):
        assert seen.holds(canary, "member"), canary
    assert seen.leaks() == []


@pytest.mark.thorough
async def test_failing_commands_show_no_secret(migrated: tuple[str, str], model: OpenAIServer, tmp_path: Path) -> None:
    seen = Seen()
    (tmp_path / "tokens.json").write_text(json.dumps({TOKEN: {"tenant": "m"}}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nowhere = f"postgresql://ragcore:{PASSWORD}@127.0.0.1:{port}/chat"
    production = ["doctor", "--production", "--tokens", "tokens.json", "--audit", "audit.jsonl"]
    cases = [
        (migrated[0], None, production),
        (migrated[0], said(f"{SAID} {KEY}", 401), [*production, "--json"]),
        (migrated[0], Fail(ConnectionResetError()), ["similarity", ASKED, "--tenant", "m"]),
        (nowhere, None, production),
        (nowhere, None, ["ask", ASKED, "--tenant", "m"]),
        (nowhere, None, ["migrate", "--role", "ragcore"]),
        (f"{nowhere}?sslmode=odd", None, ["ask", ASKED, "--tenant", "m"]),
    ]
    for dsn, fault, arguments in cases:
        model.faults.always(None)
        if fault is not None:
            model.faults.always(fault)
        set_up = {**environment(dsn, model), "RAGCORE_OWNER_DSN": dsn}
        code, printed = await command(*arguments, folder=tmp_path, environment=set_up)
        assert code != 0, printed
        assert printed
        seen.add("doctor", printed)
    assert seen.leaks() == []


async def test_an_error_about_a_value_that_postgresql_refuses_does_not_quote_it(migrated: tuple[str, str]) -> None:
    seen = Seen()
    embedder, refused = FakeEmbedder(), 0
    async with PgVectorStore(migrated[0]) as store:
        retriever = Retriever(store=store, embedder=embedder)
        settings = Settings(watchdog=False)
        async with RAG(retriever=retriever, generator=ExtractiveGenerator(), settings=settings) as rag:
            await rag.add([DOCUMENT], tenant="m")
            for value in (f"{QUESTION}\ud800", f"{QUESTION}\0", f"{QUESTION} " + "a" * 3_000):
                for asked in (
                    partial(rag.retrieve, value, tenant="m", mode="text"),
                    partial(rag.ask, value, tenant="m", mode="hybrid"),
                    partial(rag.ask, ASKED, tenant="m", history=[Turn("user", value)]),
                    partial(rag.ask, ASKED, tenant="m", instructions=value),
                    partial(rag.similarity, value, tenant="m"),
                    partial(rag.delete, [value], tenant="m"),
                    partial(_filtered, rag, value),
                ):
                    try:
                        await asked()
                    except RagcoreError as error:
                        seen.error(error)
                        refused += 1
    assert refused >= 14
    assert seen.leaks() == []


async def _filtered(rag: RAG, value: str) -> None:
    await rag.retrieve(ASKED, tenant="m", filter=meta("kind").gt(value) | meta(value).eq(value))


async def test_a_store_without_a_client_quotes_no_value_either(migrated: tuple[str, str]) -> None:
    """An error of the driver itself would quote the value."""
    seen = Seen()
    vector = np.ones(64, dtype=np.float32)

    def chunk(text: str, metadata: str = "") -> EmbeddedDocument:
        made = Chunk(id="d#0", text=text, start=0, end=1, metadata={"kind": metadata})
        return EmbeddedDocument(
            document=Document("d", "x"), content_hash="h", model="fake", chunks=(made,), vectors=vector[None]
        )

    async with PgVectorStore(migrated[0]) as store:
        for call in (
            partial(store.search, Query(question=f"{QUESTION}\ud800", tenant="m", mode="text", top_k=3)),
            partial(store.upsert, [chunk(f"{TEXT}\ud800")], tenant="m"),
            partial(store.upsert, [chunk("x", f"{METADATA}\ud800")], tenant="m"),
        ):
            with pytest.raises(RagcoreError) as caught:
                await call()
            seen.error(caught.value)
    assert seen.leaks() == []
