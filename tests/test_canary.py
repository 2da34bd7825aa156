"""Every secret, question and text contains a canary. None may appear in a log, span, event, metric, error, repr, snapshot, report or line of the audit log."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import socket
import time
import traceback
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import Span, SpanContext, StatusCode, Tracer

from ragcore import (
    RAG,
    Config,
    Document,
    IngestReport,
    MemoryStore,
    RagcoreError,
    Settings,
    SimilarityReport,
    Turn,
    Vector,
    audit,
    events,
)
from ragcore.cli.doctor import CheckResults, examine
from ragcore.cli.production import review
from ragcore.cli.session import Options
from ragcore.config import Policies
from ragcore.contrib import asgi
from ragcore.contrib.otel import Telemetry
from ragcore.contrib.prometheus import Metrics, alerts, board
from ragcore.ingest import read
from ragcore.resilience import Policy
from ragcore.testing import Broken, Fail, FakeEmbedder, FakeStore, Fault, Hang, OpenAIServer, Reply
from ragcore.types import Kind
from ragcore.types.secret import Secret

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

TESTS = str(Path(__file__).parent)
# Single words, so that escaping, quoting or wrapping can't change them.
PASSWORD, KEY, LOGIN = "zqpassword7f3a", "zqkey51c0e2", "zqlogin9d2b44"
TOKEN, ADMINISTRATOR, STOLEN = "zqtoken3b81aa61", "zqadministrator6e0d", "zqstolen0c7f92"
SECRETS = (PASSWORD, KEY, LOGIN, TOKEN, ADMINISTRATOR, STOLEN)
QUESTION, HISTORY, INSTRUCTIONS = "zqquestion44d1", "zqhistory8ac6", "zqinstructions2f5e"
TEXT, TITLE, METADATA = "zqtext90b3e7", "zqtitle6d4f21", "zqmetadata1e8c"
ANSWER, SAID, HEADER = "zqanswer5c9a0b", "zqsaid72e6d3", "zqheader0a4b8f"
TENANT = "zqtenant2d8f06"
TEXTS = (QUESTION, HISTORY, INSTRUCTIONS, TEXT, TITLE, METADATA, ANSWER, HEADER)

# Places at which ragcore writes, raises or shows something. A body is named after the caller that gets it.
OURS = (
    "log",
    "access",
    "span",
    "event",
    "audit",
    "metrics",
    "error",
    "repr",
    "snapshot",
    "report",
    "doctor",
    "console",
)
# The page and the data that it polls. They show no text at all, also not to administrators.
OF_CONSOLE = ("/debug/console", "/debug/status")
BODIES = ("member", "administrator", "refusal", "refusal to an administrator", "stranger")
PLACES = (*OURS, *BODIES, "traceback")
# The places at which a canary may appear. A traceback with local variables may show the question, since the caller knows it, but no secret. A tenant may
# see its own data, and a value of its own that is refused.
ALLOWED: dict[str, set[str]] = {
    QUESTION: {"member", "administrator", "refusal", "refusal to an administrator", "traceback"},
    HISTORY: {"refusal", "refusal to an administrator", "traceback"},
    INSTRUCTIONS: {"traceback"},
    TEXT: {"member", "administrator", "traceback"},
    TITLE: {"member", "administrator", "traceback"},
    METADATA: {"member", "administrator", "traceback"},
    ANSWER: {"member", "administrator", "traceback"},
    # Messages of the model server show the operator what is wrong. Tenants never see them.
    # The name of a tenant is for operators and for itself. Logs have a hash of it, except that of requests, which has the paths.
    TENANT: {"access", "audit", "console", "snapshot", "repr", "member", "administrator", "traceback"},
    SAID: {"log", "error", "refusal to an administrator", "administrator", "doctor", "traceback", "report"},
}


def forms(canary: str) -> Iterator[str]:
    """Yield the canary, and its Base64 encoding at each offset in a text."""
    yield canary
    for shift in range(3):
        packed = base64.b64encode(b"?" * shift + canary.encode()).decode()
        yield packed[(0, 2, 3)[shift] : len(packed) - 4]


@dataclass(repr=False)
class Seen:
    """Everything that ragcore has shown, by place."""

    texts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, place: str, *values: object) -> None:
        assert place in PLACES, place
        self.texts[place] += [value if isinstance(value, str) else repr(value) for value in values]

    def error(self, error: BaseException) -> None:
        """Add an error as loggers, pickle and error trackers show it."""
        left: list[BaseException | None] = [error]
        while left:
            one = left.pop()
            if one is not None:
                self.add("error", str(one), repr(one), "".join(traceback.format_exception_only(one)))
                left += [one.__cause__, None if one.__suppress_context__ else one.__context__]
        if isinstance(error, RagcoreError):
            self.add("error", pickle.dumps(error).decode("latin-1"))
        self.traceback(error)

    def traceback(self, error: BaseException) -> None:
        """Add a traceback with the variables of each frame. The frames of these tests are left out."""
        whole = traceback.TracebackException.from_exception(error, capture_locals=True)
        left: list[traceback.TracebackException | None] = [whole]
        while left:
            one = left.pop()
            if one is not None:
                one.stack[:] = [frame for frame in one.stack if not frame.filename.startswith(TESTS)]
                left += [one.__cause__, one.__context__]
        self.add("traceback", "".join(whole.format()))

    def leaks(self) -> list[str]:
        """Return the canaries at forbidden places, with the text around them."""
        found = []
        for canary in (*SECRETS, *TEXTS, TENANT, SAID):
            for place in set(PLACES) - ALLOWED.get(canary, set()):
                for text in self.texts[place]:
                    at = next((text.find(form) for form in forms(canary) if form in text), -1)
                    if at >= 0:
                        found.append(f"{canary} in {place}: …{text[max(0, at - 150) : at + 60]}…")
                        break
        return found

    def holds(self, canary: str, place: str) -> bool:
        """Return whether a canary appears at a place. Tests also check allowed places, because a test that does nothing would find no leak."""
        return any(canary in text for text in self.texts[place])


class Spans(SpanProcessor):
    """Adds each span as an exporter sends it."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def on_end(self, span: ReadableSpan) -> None:
        self.seen.add("span", span.to_json())


class Everything(logging.Handler):
    """Adds each record of each logger as a formatter, a structured logger and an error tracker show it."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(logging.DEBUG)
        self.seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        # Both have the path of the request.
        of_request = record.name == "ragcore.access" or str(record.msg).startswith("unhandled exception in %s")
        place = "access" if of_request else "log"
        self.seen.add(place, self.format(record), record.__dict__)
        if record.exc_info and record.exc_info[1] is not None:
            self.seen.traceback(record.exc_info[1])


@pytest.fixture
def seen() -> Iterator[Seen]:
    """Collect the log of the whole process at level DEBUG, and all events."""
    made = Seen()
    handler, root = Everything(made), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    unsubscribe = events.subscribe(
        # The event "audit" is the line of the audit log.
        lambda event: made.add(
            "audit" if event.name == "audit" else "event", event, json.dumps(event.to_dict(), default=repr)
        )
    )
    provider = TracerProvider()
    provider.add_span_processor(Spans(made))
    try:
        with Telemetry(tracer_provider=provider):
            yield made
    finally:
        unsubscribe()
        root.setLevel(level)
        root.removeHandler(handler)


@pytest.fixture
def tracer(seen: Seen) -> Tracer:
    provider = TracerProvider()
    provider.add_span_processor(Spans(seen))
    return provider.get_tracer("test")


@pytest.mark.parametrize("canary", [QUESTION, KEY, TENANT])
@pytest.mark.parametrize(
    "leak",
    [
        lambda span, text: span.set_attribute("a", text),
        lambda span, text: span.set_attribute("a", ["b", text]),
        lambda span, text: span.set_attribute(text, 1),
        lambda span, text: span.update_name(text),
        lambda span, text: span.add_event("a", {"b": text}),
        lambda span, text: span.add_event(text),
        lambda span, text: span.record_exception(ValueError(text)),
        lambda span, text: span.set_status(StatusCode.ERROR, text),
        lambda span, text: span.add_link(SpanContext(1, 1, is_remote=False), {"a": text}),
    ],
    ids=["attribute", "list", "key", "name", "event", "event's name", "exception", "status", "link"],
)
async def test_a_canary_anywhere_in_a_span_is_found(
    seen: Seen, tracer: Tracer, leak: Callable[[Span, str], object], canary: str
) -> None:
    with tracer.start_as_current_span("a") as span:
        leak(span, f"before {canary} after")
    assert [found.split(":")[0] for found in seen.leaks()] == [f"{canary} in span"]


async def test_a_canary_in_an_exception_that_ends_a_span_is_found(seen: Seen, tracer: Tracer) -> None:
    with suppress(ValueError), tracer.start_as_current_span("a"):
        raise ValueError(ASKED)
    assert [found.split(":")[0] for found in seen.leaks()] == [f"{QUESTION} in span"]


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer(text=f"You pay {ANSWER} [1].") as made:
        yield made


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def config(server: OpenAIServer, port: int, **settings: object) -> Config:
    return Config(
        dsn=Secret(f"postgresql://app:{PASSWORD}@127.0.0.1:{port}/chat"),
        api_key=Secret(KEY),
        base_url=server.base_url,
        embedding_model="fake",
        embedding_dimension=64,
        models=("fake",),
        settings=replace(Settings(watchdog=False, drain=0.0, timeout=5.0), **settings),  # type: ignore[arg-type]
    )


def policies() -> Policies:
    """Policies without retries, and with separate circuit breakers for each test."""
    return Policies(
        embedding=Policy("embedding", retry=False),
        store=Policy("store", retry=False),
        store_writes=Policy("store writes", retry=False),
        generation=Policy("generation", retry=False),
    )


DOCUMENT = Document(
    "plan",
    f"Your deductible is {TEXT}.",
    title=f"Plan {TITLE}",
    source="plan.md",
    metadata={"kind": METADATA},
)
ASKED = f"What is my deductible {QUESTION}?"
IN_CONSOLE = {"message": ASKED, "tenant": TENANT, "threshold": -1.0}
JSON = {"content_type": "application/json"}
HISTORY_OF_CALL = [Turn("user", f"I said {HISTORY}"), Turn("assistant", f"Yes, {HISTORY}")]


class Application:
    """The application around a client, in this process, with tokens from a file."""

    def __init__(self, rag: RAG, folder: Path, seen: Seen, **options: object) -> None:
        tokens = folder / "tokens.json"
        tokens.write_text(json.dumps({TOKEN: {"tenant": TENANT}, ADMINISTRATOR: {"tenant": TENANT, "admin": True}}))
        tokens.chmod(0o600)
        self.hook = asgi.from_tokens(tokens)
        self.app = asgi.app(rag, authenticate=self.hook, **options)  # type: ignore[arg-type]
        self.seen = seen

    async def ask(
        self, method: str, path: str, body: object = None, *, token: str = TOKEN, query: str = "", **headers: str
    ) -> int:
        """Send a request with a token, and record the response. Returns the status."""
        sent: list[asgi.Message] = []
        whole = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        pieces = [{"type": "http.request", "body": whole, "more_body": False}]
        headers = {"authorization": f"Bearer {token}", "x-secret": HEADER, "cookie": f"session={HEADER}", **headers}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }

        async def receive() -> asgi.Message:
            if pieces:
                return pieces.pop()
            await anyio.sleep_forever()
            raise AssertionError

        async def send(message: asgi.Message) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        status: int = sent[0]["status"]
        got = repr(sent[0]["headers"]) + b"".join(one.get("body", b"") for one in sent[1:]).decode()
        self.seen.add(_who(token, refused=status >= 400), got)
        if path in OF_CONSOLE:
            self.seen.add("console", got)
        return status


def _who(token: str, *, refused: bool) -> str:
    if token not in (TOKEN, ADMINISTRATOR):
        return "stranger"
    if refused:
        return "refusal" if token == TOKEN else "refusal to an administrator"
    return "member" if token == TOKEN else "administrator"


async def snapshots(rag: RAG, seen: Seen) -> None:
    """Add everything that a client reports about itself."""
    parts = [rag, rag.settings, rag.retriever, rag.retriever.store, rag.retriever.embedder, rag._generators]
    seen.add("repr", *parts, *map(str, parts), rag.for_tenant(TENANT))
    stats, health = rag.stats(), await rag.health()
    seen.add("snapshot", rag.inflight(), rag.recent(), stats, stats.to_dict(), health, health.to_dict())
    seen.add("snapshot", await rag.describe(), rag.limits(tenant=TENANT), rag.used())


@asynccontextmanager
async def running(rag: RAG, folder: Path) -> AsyncIterator[None]:
    """Run a client with its audit log and its metrics."""
    async with audit.AuditLog(folder / "audit.jsonl"), rag, Metrics(rag) as metrics:
        yield
        await metrics._sample()
        (folder / "metrics").write_bytes(metrics.exposition()[1])


def audited(folder: Path, seen: Seen) -> None:
    lines = (folder / "audit.jsonl").read_text()
    assert lines
    seen.add("audit", lines)
    metrics = (folder / "metrics").read_text()
    assert "ragcore_calls_total" in metrics
    seen.add("metrics", metrics, alerts(), json.dumps(board()))


async def test_successful_calls_leak_nothing(
    server: OpenAIServer, closed_port: int, seen: Seen, tmp_path: Path
) -> None:
    made = config(server, closed_port)
    seen.add("repr", made, made.dsn, made.api_key, policies(), made.settings)
    rag = RAG.from_config(made, store=MemoryStore(), policies=policies())
    web = Application(rag, tmp_path, seen)
    async with running(rag, tmp_path):
        report = await rag.add([DOCUMENT], tenant=TENANT)
        assert report.added == 1
        seen.add("report", report)
        await rag.ask(ASKED, tenant=TENANT, history=HISTORY_OF_CALL, instructions=INSTRUCTIONS)
        chat = {
            "message": ASKED,
            "history": [{"role": turn.role, "content": turn.content} for turn in HISTORY_OF_CALL],
        }
        messages = [{"role": "system", "content": INSTRUCTIONS}, *chat["history"], {"role": "user", "content": ASKED}]
        for token in (TOKEN, ADMINISTRATOR):
            for accept in ("application/json", "text/event-stream"):
                assert await web.ask("POST", "/chat", chat, token=token, accept=accept) == 200
            for stream in (False, True):
                body = {"messages": messages, "stream": stream, "stream_options": {"include_usage": True}}
                assert await web.ask("POST", "/v1/chat/completions", body, token=token) == 200
            assert await web.ask("POST", f"/debug/rag-similarity/{TENANT}", {"query": ASKED}, token=token) == 200
            for path in ("/debug/inflight", "/health", "/readyz", "/livez", "/v1/models", "/openapi.json"):
                assert await web.ask("GET", path, token=token) == 200
        query = f"query={QUESTION}"
        assert await web.ask("GET", f"/debug/rag-similarity/{TENANT}", query=query, token=ADMINISTRATOR) == 200
        for path in ("/debug-env", *OF_CONSOLE):
            assert await web.ask("GET", path, token=ADMINISTRATOR) == 200
        for accept in ("application/json", "text/event-stream"):
            assert await web.ask("POST", "/debug/ask", IN_CONSOLE, token=ADMINISTRATOR, accept=accept, **JSON) == 200
            assert await web.ask("POST", "/debug/ask", IN_CONSOLE, accept=accept, **JSON) == 403
        assert await web.ask("GET", "/debug/status") == 403
        await snapshots(rag, seen)
        assert len(await rag.documents(tenant=TENANT)) == 1
        assert await rag.delete(["plan"], tenant=TENANT) == 1
        await rag.delete_tenant(tenant=TENANT)
    audited(tmp_path, seen)
    for canary in (QUESTION, TEXT, TITLE, METADATA, ANSWER):
        assert seen.holds(canary, "member"), canary
    # The requests were sent, and the model server received the key.
    assert any(INSTRUCTIONS in repr(asked) and HISTORY in repr(asked) for _, asked in server.requests)
    assert KEY in repr(server.headers)
    assert any(record.startswith("POST /chat 200") for record in seen.texts["access"])
    # Spans and the log of calls were written.
    assert all(seen.holds(name, "span") for name in ("invoke_workflow ragcore.stream", "chat fake", "retrieval"))
    assert seen.holds("ask ok in ", "log")
    assert seen.leaks() == []


def said(message: str, status: int) -> Reply:
    """Return a refusal with this message, as the model server sends it."""
    body = json.dumps({"error": {"message": message, "type": "server_error", "param": None, "code": None}})
    return Reply(status, body.encode(), {"content-type": "application/json"})


@pytest.mark.parametrize("status", [400, 401, 413, 429, 503])
@pytest.mark.parametrize("degrade", [True, False])
async def test_a_model_server_that_refuses_leaks_nothing(
    server: OpenAIServer, closed_port: int, seen: Seen, tmp_path: Path, status: int, degrade: bool
) -> None:
    rag = RAG.from_config(config(server, closed_port, degrade=degrade), store=MemoryStore(), policies=policies())
    web = Application(rag, tmp_path, seen)
    async with running(rag, tmp_path):
        await rag.add([DOCUMENT], tenant=TENANT)
        server.faults.always(said(f"{SAID}: Authorization: Bearer {KEY}, or {KEY}", status))
        await asked_in_every_way(web, rag, seen)
        try:
            report = await rag.add([replace(DOCUMENT, id="other")], tenant=TENANT)
        except RagcoreError as error:
            seen.error(error)
        else:
            assert report.failed
            seen.add("report", report)
    audited(tmp_path, seen)
    assert seen.leaks() == []


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def asked_in_every_way(web: Application, rag: RAG, seen: Seen) -> None:
    """Ask a question by each method and route, whether or not it fails."""
    for method in (rag.ask, rag.retrieve, rag.similarity):
        try:
            await method(ASKED, tenant=TENANT)
        except RagcoreError as error:
            seen.error(error)
    try:
        async with rag.stream(ASKED, tenant=TENANT, history=HISTORY_OF_CALL, instructions=INSTRUCTIONS) as stream:
            async for _ in stream:
                pass
    except RagcoreError as error:
        seen.error(error)
    for token in (TOKEN, ADMINISTRATOR):
        for accept in ("application/json", "text/event-stream"):
            await web.ask("POST", "/chat", {"message": ASKED}, token=token, accept=accept)
        for streamed in (False, True):
            messages = [{"role": "system", "content": INSTRUCTIONS}, _user(ASKED)]
            await web.ask("POST", "/v1/chat/completions", {"messages": messages, "stream": streamed}, token=token)
        await web.ask("POST", f"/debug/rag-similarity/{TENANT}", {"query": ASKED}, token=token)
        await web.ask("POST", "/debug/ask", IN_CONSOLE, token=token, accept="text/event-stream", **JSON)
        for path in ("/health", "/readyz", "/debug/inflight", "/debug-env", *OF_CONSOLE):
            await web.ask("GET", path, token=token)
    await snapshots(rag, seen)


@pytest.mark.parametrize("degrade", [True, False])
@pytest.mark.parametrize("fault", [Fail(ConnectionResetError()), Broken(1, "clean")])
async def test_a_model_that_breaks_off_leaks_nothing(
    server: OpenAIServer, closed_port: int, seen: Seen, tmp_path: Path, fault: Fault, degrade: bool
) -> None:
    made = config(server, closed_port, degrade=degrade)
    rag = RAG.from_config(made, embedder=FakeEmbedder(), store=MemoryStore(), policies=policies())
    web = Application(rag, tmp_path, seen)
    async with running(rag, tmp_path):
        await rag.add([DOCUMENT], tenant=TENANT)
        server.faults.always(fault)
        await asked_in_every_way(web, rag, seen)
    audited(tmp_path, seen)
    assert seen.leaks() == []


async def test_a_database_that_is_down_leaks_nothing(
    server: OpenAIServer, closed_port: int, seen: Seen, tmp_path: Path
) -> None:
    rag = RAG.from_config(config(server, closed_port), policies=policies())
    web = Application(rag, tmp_path, seen)
    async with running(rag, tmp_path):
        with pytest.raises(RagcoreError) as caught:
            await rag.add([DOCUMENT], tenant=TENANT)
        seen.error(caught.value)
        await asked_in_every_way(web, rag, seen)
        with pytest.raises(RagcoreError) as caught:
            await rag.delete(["plan"], tenant=TENANT)
        seen.error(caught.value)
    audited(tmp_path, seen)
    assert any("can't be reached" in text for text in seen.texts["log"])
    assert seen.leaks() == []


async def test_refused_requests_leak_nothing(
    server: OpenAIServer, closed_port: int, seen: Seen, tmp_path: Path
) -> None:
    made = config(server, closed_port, requests_per_minute=4)
    rag = RAG.from_config(made, store=MemoryStore(), policies=policies())
    web = Application(rag, tmp_path, seen, max_body=10_000)
    chat, similarity = "/chat", "/debug/rag-similarity/"
    async with running(rag, tmp_path):
        await rag.add([DOCUMENT], tenant=TENANT)
        statuses = [
            await web.ask("POST", chat, {"message": ASKED}, token=STOLEN),
            await web.ask("POST", chat, {"message": ASKED}, token=STOLEN, api_key=TOKEN),
            await web.ask("POST", f"{similarity}ops", {"query": ASKED}),
            await web.ask("GET", f"{similarity}{TENANT}", query=f"query={QUESTION}"),
            await web.ask("GET", f"{similarity}{TENANT}", query=f"query=a&threshold={QUESTION}", token=ADMINISTRATOR),
            await web.ask("POST", "/elsewhere", {"message": ASKED}),
            await web.ask("DELETE", chat, {"message": ASKED}),
            await web.ask("POST", chat, {"message": ASKED * 1_000}),
            await web.ask("POST", chat, {"message": ASKED}, content_encoding=HEADER),
            await web.ask("POST", chat, {"message": ASKED, "x": QUESTION}),
            await web.ask("POST", chat, {"message": [ASKED]}),
            await web.ask("POST", chat, {"message": ASKED, "history": [{"role": HISTORY, "content": HISTORY}]}),
            await web.ask("POST", chat, ASKED.encode() + b"\xff"),
            await web.ask("POST", chat, {"message": ASKED + "\ud800"}),
            await web.ask("POST", chat, {"message": ASKED + "\0"}),
            await web.ask("POST", "/v1/chat/completions", {"messages": [_user(ASKED)], "n": 2}),
            await web.ask("POST", "/v1/chat/completions", {"messages": [{"role": QUESTION, "content": ASKED}]}),
            await web.ask("POST", "/v1/chat/completions", {"messages": [_user(ASKED)], "temperature": QUESTION}),
        ]
        for _ in range(6):
            statuses.append(await web.ask("POST", chat, {"message": ASKED}))
        await snapshots(rag, seen)
    audited(tmp_path, seen)
    assert {400, 401, 403, 404, 405, 413, 415, 429} <= set(statuses)
    assert seen.leaks() == []


class Nowhere(RAG):
    """A client that raises an unexpected exception."""

    async def similarity(self, question: str, /, **options: object) -> SimilarityReport:
        raise RuntimeError("it broke")


async def test_an_unhandled_exception_leaks_nothing(
    server: OpenAIServer, closed_port: int, seen: Seen, tmp_path: Path
) -> None:
    rag = Nowhere.from_config(config(server, closed_port), store=MemoryStore(), policies=policies())
    web = Application(rag, tmp_path, seen)
    async with running(rag, tmp_path):
        for token in (TOKEN, ADMINISTRATOR):
            assert await web.ask("POST", f"/debug/rag-similarity/{TENANT}", {"query": ASKED}, token=token) == 500
        (tmp_path / "tokens.json").write_text(f"not JSON {TOKEN}")
        await anyio.sleep(1.1)
        assert await web.ask("GET", "/v1/models") == 200
    assert "it broke" in "".join(seen.texts["access"])
    assert "it broke" not in "".join(text for place in BODIES for text in seen.texts[place])
    assert seen.leaks() == []


UNTAKEN: list[dict[str, object]] = [
    {"text": " "},
    {"text": f"{TEXT} \ud83d"},
    {"text": f"{TEXT} \0"},
    {"title": f"{TITLE} \ud83d"},
    {"title": f"{TITLE} \0"},
    {"metadata": {METADATA: "\0"}},
    {"metadata": {"kind": METADATA + "\ud83d"}},
    {"metadata": {"kind": {METADATA}}},
    {"metadata": {METADATA: float("nan")}},
    {"metadata": [METADATA]},
]


async def test_rejected_documents_leak_nothing(
    server: OpenAIServer, closed_port: int, seen: Seen, tmp_path: Path
) -> None:
    rag = RAG.from_config(config(server, closed_port), store=MemoryStore(), policies=policies())
    folder = tmp_path / "documents"
    folder.mkdir()
    for name, content in {
        "broken.pdf": f"%PDF-1.7 {TEXT}",
        "broken.docx": f"PK {TEXT}",
        "broken.json": f'{{"text": "{TEXT}"',
        "broken.jsonl": f'{{"text": "{TEXT}", "metadata": "{METADATA}"}}\n{{"{TEXT}": 1}}\n{TEXT}\n',
        "broken.eml": f"Subject: {TITLE}\nContent-Type: multipart/mixed; boundary={METADATA}\n\n{TEXT}",
        "broken.html": f"<title>{TITLE}</title><script>{TEXT}",
        "broken.csv": f'"{TEXT}\n{METADATA}',
    }.items():
        (folder / name).write_text(content)
    async with running(rag, tmp_path):
        for changes in UNTAKEN:
            try:
                document = replace(DOCUMENT, **changes)  # type: ignore[arg-type]
                seen.add("report", await rag.add([document], tenant=TENANT))
            except (RagcoreError, ValueError, TypeError) as error:
                seen.error(error)
        reports: list[IngestReport] = []
        report = await rag.add(read(folder), tenant=TENANT, progress=reports.append)
        assert report.failed
        seen.add("report", report, *reports, json.dumps(report.to_dict(), default=repr))
    audited(tmp_path, seen)
    assert seen.leaks() == []


class Stuck(FakeEmbedder):
    """Blocks the event loop, and then ignores its cancellation."""

    def __init__(self) -> None:
        super().__init__()
        self.released = anyio.Event()

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
        if kind == "query":
            question = texts[0]
            time.sleep(0.4)
            with anyio.CancelScope(shield=True):
                await self.released.wait()
            assert question
        return await super().embed(texts, kind=kind)


@pytest.mark.slow
async def test_hung_and_cancelled_calls_leak_nothing(
    server: OpenAIServer, closed_port: int, seen: Seen, tmp_path: Path
) -> None:
    embedder = Stuck()
    made = config(server, closed_port, watchdog=True)
    rag = RAG.from_config(made, embedder=embedder, store=FakeStore(), policies=policies())
    web = Application(rag, tmp_path, seen)
    async with running(rag, tmp_path):
        await rag.add([DOCUMENT], tenant=TENANT)
        async with anyio.create_task_group() as group:

            async def hung() -> None:
                try:
                    await rag.ask(ASKED, tenant=TENANT, timeout=0.2, degrade=False, history=HISTORY_OF_CALL)
                except RagcoreError as error:
                    seen.error(error)

            group.start_soon(hung)
            with anyio.fail_after(20):
                while not any("call.hung" in text for text in seen.texts["event"]):
                    await anyio.sleep(0.05)
            for token in (TOKEN, ADMINISTRATOR):
                assert await web.ask("GET", "/debug/inflight", token=token) == 200
            await snapshots(rag, seen)
            embedder.released.set()
        server.faults.always(Hang())
        with anyio.move_on_after(0.2) as scope:
            await rag.ask(ASKED, tenant=TENANT, history=HISTORY_OF_CALL)
        assert scope.cancelled_caught
        async with anyio.create_task_group() as group:

            async def interrupted() -> None:
                with pytest.raises(RagcoreError) as caught:
                    await rag.ask(f"{ASKED} again", tenant=TENANT)
                seen.error(caught.value)

            group.start_soon(interrupted)
            await anyio.sleep(0.1)
            await rag.aclose()
    await snapshots_of_closed(rag, seen)
    audited(tmp_path, seen)
    for name in ("loop.blocked", "call.hung"):
        assert any(name in text for text in seen.texts["event"]), name
    assert any("ignores its cancellation" in text for text in seen.texts["log"])
    assert seen.leaks() == []


async def snapshots_of_closed(rag: RAG, seen: Seen) -> None:
    seen.add("snapshot", rag.recent(), rag.inflight(), rag.stats())
    with pytest.raises(RagcoreError) as caught:
        await rag.ask(ASKED, tenant=TENANT)
    seen.error(caught.value)


@pytest.mark.parametrize("status", [None, 401, 500])
async def test_the_doctor_shows_no_secret(
    server: OpenAIServer,
    closed_port: int,
    seen: Seen,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int | None,
) -> None:
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({TOKEN: {"tenant": TENANT}, "short": {"tenant": "n"}}))
    if status is not None:
        server.faults.always(said(f"{SAID} {KEY}", status))
    monkeypatch.setenv("DATABASE_URL", f"postgresql://app:{PASSWORD}@127.0.0.1:{closed_port}/chat")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("RAGCORE_EMBEDDING_MODEL", "fake")
    monkeypatch.setenv("RAGCORE_EMBEDDING_DIMENSION", "64")
    results = CheckResults()
    checks = [check async for check in examine(Options(), results)]
    assert results.config is not None
    checks += [check async for check in review(results.config, None, tokens=tokens, audit=tmp_path / "audit.jsonl")]
    assert len(checks) > 6
    seen.add("doctor", *checks)
    assert seen.leaks() == []


async def test_a_login_in_the_address_of_the_model_server_does_not_leak(
    server: OpenAIServer, closed_port: int, seen: Seen, tmp_path: Path
) -> None:
    """Neither the HTTP client's log nor the message of a server that quotes the request shows it."""
    made = config(server, closed_port)
    made = replace(made, base_url=server.base_url.replace("//", f"//user:{LOGIN}@"))
    seen.add("repr", made)
    rag = RAG.from_config(made, store=MemoryStore(), policies=policies())
    web = Application(rag, tmp_path, seen)
    async with running(rag, tmp_path):
        await rag.add([DOCUMENT], tenant=TENANT)
        await asked_in_every_way(web, rag, seen)
        server.faults.always(said(f"{SAID}: the login user:{LOGIN} is not valid", 401))
        await rag.ask(f"{ASKED} again", tenant=TENANT)
        await asked_in_every_way(web, rag, seen)
    assert base64.b64encode(f"user:{LOGIN}".encode()).decode() in repr(server.headers)
    assert seen.leaks() == []


@pytest.mark.parametrize("fault", [Broken(1), Reply(200, b"{"), Reply(200, b"data: {\n\n")])
async def test_no_frame_of_a_stream_that_breaks_holds_the_key(
    server: OpenAIServer, closed_port: int, seen: Seen, fault: Fault
) -> None:
    made = config(server, closed_port, degrade=False)
    async with RAG.from_config(made, embedder=FakeEmbedder(), store=MemoryStore(), policies=policies()) as rag:
        await rag.add([DOCUMENT], tenant=TENANT)
        server.faults.always(fault)
        for call in (rag.ask(ASKED, tenant=TENANT), _streamed(rag)):
            with pytest.raises(RagcoreError) as caught:
                await call
            seen.error(caught.value)
    assert seen.leaks() == []


async def _streamed(rag: RAG) -> None:
    async with rag.stream(ASKED, tenant=TENANT) as stream:
        async for _ in stream:
            pass


def refusing(text: str) -> Reply:
    """Return a response in which the model refuses to answer. The protocol has a separate field for a refusal."""
    message = {"role": "assistant", "content": None, "refusal": text}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "fake"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return Reply(200, json.dumps({**body, "choices": choices}).encode(), {"content-type": "application/json"})


@pytest.mark.parametrize(
    "fault",
    [
        said(f"{SAID}: your prompt '{ASKED}' was filtered", 400),
        said(f"{SAID}: can't process: Your deductible is {TEXT}.", 500),
        refusing(f"I can't speak about {ANSWER}."),
        Reply(200, f'{{"text": "{ANSWER}'.encode(), {"content-type": "application/json"}),
    ],
    ids=["quotes the question", "quotes a passage", "refuses", "is cut off"],
)
async def test_texts_that_a_server_quotes_do_not_reach_the_log(
    server: OpenAIServer, closed_port: int, seen: Seen, tmp_path: Path, fault: Fault
) -> None:
    made = config(server, closed_port, degrade=False)
    rag = RAG.from_config(made, embedder=FakeEmbedder(), store=MemoryStore(), policies=policies())
    web = Application(rag, tmp_path, seen)
    async with running(rag, tmp_path):
        await rag.add([DOCUMENT], tenant=TENANT)
        server.faults.always(fault)
        for accept in ("application/json", "text/event-stream"):
            await web.ask("POST", "/chat", {"message": ASKED}, accept=accept)
    assert any("failed in generate" in text for text in seen.texts["log"])
    assert seen.leaks() == []


async def test_a_path_can_not_forge_a_line_of_the_log(
    server: OpenAIServer, closed_port: int, seen: Seen, tmp_path: Path
) -> None:
    rag = RAG.from_config(config(server, closed_port), store=MemoryStore(), policies=policies())
    web = Application(rag, tmp_path, seen)
    async with running(rag, tmp_path):
        await web.ask("GET", "/x\nINFO ragcore.access: GET /debug-env 200\x1b[2K")
    lines = [line for text in seen.texts["access"] for line in text.splitlines()]
    assert not any(line.startswith("INFO ragcore.access: GET /debug-env") for line in lines)
    assert not any("\x1b" in line for line in lines)
