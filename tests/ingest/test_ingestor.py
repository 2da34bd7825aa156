"""Adding documents to a store, with fakes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import anyio
import numpy as np
import pytest
from tests.pace import in_time

from ragcore import (
    ConfigurationError,
    DeadlineExceeded,
    Document,
    EmbeddingError,
    Ingestor,
    IngestReport,
    InvalidInput,
    OpenAIEmbedder,
    StoreError,
    Unreadable,
    Unsupported,
    Vector,
)
from ragcore.embedding import from_sync
from ragcore.resilience import Policy, RateLimiter
from ragcore.testing import Fail, FakeEmbedder, FakeStore, Fault, Hang, OpenAIServer, Reply
from ragcore.types import Kind

pytestmark = pytest.mark.anyio


@pytest.fixture
async def parts(anyio_backend: str) -> AsyncIterator[tuple[FakeEmbedder, FakeStore, Ingestor]]:
    async with FakeEmbedder() as embedder, FakeStore() as store:
        yield embedder, store, Ingestor(embedder=embedder, store=store)


Parts = tuple[FakeEmbedder, FakeStore, Ingestor]


async def test_a_second_run_over_the_same_documents_embeds_nothing(parts: Parts) -> None:
    embedder, store, ingestor = parts
    documents = [Document(str(n), f"text {n} " * 20) for n in range(150)]
    first = await ingestor.add(documents, tenant="a")
    assert (first.added, first.updated, first.unchanged, first.failed) == (150, 0, 0, ())
    assert first.embedding_tokens
    calls = len(embedder.calls)
    second = await ingestor.add(documents, tenant="a")
    assert (second.added, second.unchanged, second.embedding_tokens) == (0, 150, None)
    assert len(embedder.calls) == calls
    third = await ingestor.add([Document("7", "new")], tenant="a")
    assert (third.updated, (await store.count(tenant="a")).documents) == (1, 150)


async def test_a_change_to_any_input_of_chunking_embeds_a_document_again(parts: Parts) -> None:
    embedder, store, ingestor = parts
    variants = [
        Document("d", "text"),
        Document("d", "text", title="t"),
        Document("d", "text", title="t", metadata={"a": 1}),
        Document("d", "text", title="t", metadata={"a": 1}, source="s"),
        Document("d", "text", title="t", metadata={"a": 1}, source="s", expires_at=datetime(2090, 1, 1, tzinfo=UTC)),
    ]
    for number, document in enumerate(variants):
        report = await ingestor.add([document], tenant="a")
        assert report.added + report.updated == 1, number
    wider = Ingestor(embedder=embedder, store=store, chunk_tokens=100)
    assert (await wider.add([variants[-1]], tenant="a")).updated == 1


async def test_a_store_without_expire_refuses_documents_with_expires_at(parts: Parts) -> None:
    embedder, store, _ = parts

    class Plain:
        search, upsert, hashes = store.search, store.upsert, store.hashes
        delete, count, scores = store.delete, store.count, store.scores

    ingestor = Ingestor(embedder=embedder, store=Plain())
    with pytest.raises(Unsupported, match="no expire"):
        await ingestor.add([Document("d", "text", expires_at=datetime(2090, 1, 1, tzinfo=UTC))], tenant="a")
    assert (await ingestor.add([Document("d", "text")], tenant="a")).added == 1


async def test_embed_text_is_recorded_and_a_change_embeds_documents_again(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    embedder, store, default = parts
    document = Document("d", "# Costs\n\nIt is $1,500.", title="Gold")
    await default.add([document], tenant="a")
    assert embedder.calls[-1] == ("Gold\n\n# Costs\n\nIt is $1,500.",)
    plain = Ingestor(embedder=embedder, store=store, embed_text="text")
    await plain.add([document], tenant="a")
    assert embedder.calls[-1] == ("# Costs\n\nIt is $1,500.",)
    caplog.clear()

    with_titles = Ingestor(embedder=embedder, store=store, embed_text="title+text")
    assert (await with_titles.add([document], tenant="a")).updated == 1
    assert embedder.calls[-1] == ("Gold\n\n# Costs\n\nIt is $1,500.",)
    assert "changed from 'text' to 'title+text'" in caplog.text

    as_recorded = Ingestor(embedder=embedder, store=store)
    assert (await as_recorded.add([document], tenant="a")).unchanged == 1
    assert as_recorded.embed_text == "title+text"

    with_headings = Ingestor(embedder=embedder, store=store, embed_text="headings+text")
    assert (await with_headings.add([document], tenant="a")).updated == 1
    assert "changed from 'title+text' to 'headings+text'" in caplog.text


async def test_a_store_that_records_nothing_uses_the_given_embed_text(parts: Parts) -> None:
    embedder, store, _ = parts

    class Plain:
        upsert, hashes, delete, count, search, scores = (
            store.upsert,
            store.hashes,
            store.delete,
            store.count,
            store.search,
            store.scores,
        )

    ingestor = Ingestor(embedder=embedder, store=Plain(), embed_text="title+text")
    await ingestor.add([Document("d", "It is $1,500.", title="Gold")], tenant="a")
    assert embedder.calls[-1] == ("Gold\n\nIt is $1,500.",)


async def test_no_embedded_text_is_longer_than_a_chunk(parts: Parts) -> None:
    embedder, store, _ = parts
    text = "".join(f"## Part {n}\n\n" + "Some words stand here.  \n\n" * 30 for n in range(10))
    ingestor = Ingestor(embedder=embedder, store=store, embed_text="headings+text", chunk_tokens=50)
    await ingestor.add([Document("d", text, title="A long title of a plan")], tenant="a")
    assert all(embedder.count_tokens(text) <= 50 for call in embedder.calls for text in call)


async def test_the_first_add_waits_for_an_exact_tokenizer(parts: Parts) -> None:
    embedder, store, _ = parts
    waited = []
    embedder.wait_for_tokenizer = lambda seconds: waited.append(seconds)  # type: ignore[attr-defined]
    ingestor = Ingestor(embedder=embedder, store=store)
    for _ in range(2):
        await ingestor.add([Document("d", "text")], tenant="a")
    assert len(waited) == 1


async def test_another_prefix_embeds_a_document_again(parts: Parts) -> None:
    embedder, _, ingestor = parts
    await ingestor.add([Document("d", "text")], tenant="t")
    embedder.document_prefix = "passage: "  # type: ignore[attr-defined]
    assert (await ingestor.add([Document("d", "text")], tenant="t")).updated == 1
    assert (await ingestor.add([Document("d", "text")], tenant="t")).unchanged == 1


async def test_documents_at_fault_are_reported_and_the_others_are_added(parts: Parts) -> None:
    _, store, ingestor = parts
    documents: list[Document | Unreadable] = [
        Document("a", "text"),
        Unreadable("b", "broken"),
        Document("c", "  "),
    ]
    report = await ingestor.add(documents, tenant="t")
    assert {failed.id for failed in report.failed} == {"b", "c"}
    assert await store.hashes(None, tenant="t") != {}
    assert report.added == 1


async def test_only_the_document_that_the_embedder_refuses_fails() -> None:
    class Picky(FakeEmbedder):
        async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
            if any("poison" in text for text in texts):
                raise EmbeddingError("refused", status=400)
            return await super().embed(texts, kind=kind)

    async with Picky() as embedder, FakeStore() as store:
        documents = [Document(str(n), "poison" if n == 7 else f"text {n}") for n in range(20)]
        report = await Ingestor(embedder=embedder, store=store).add(documents, tenant="t")
    assert (report.added, [failed.id for failed in report.failed]) == (19, ["7"])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fail(401), "API key"),
        (Fail(402), "requires payment"),
        (Fail(404), "does not know the model"),
        (Reply(400, b'{"error": {"message": "Invalid model name passed in model=fake"}}'), "does not know the model"),
        (
            Reply(422, b'{"detail": [{"loc": ["body", "truncate"], "msg": "Input should be a valid boolean"}]}'),
            "truncate",
        ),
        (Reply(400, b'{"message": "input_type is required"}'), "input_type is required"),
    ],
)
async def test_a_configuration_error_is_raised_once(fault: Fault, said: str) -> None:
    async with OpenAIServer() as server, FakeStore() as store:
        server.faults.always(fault)
        policy = Policy(retry=False, breaker=False)
        async with OpenAIEmbedder(
            "fake", dimension=64, base_url=server.base_url, api_key="k", policy=policy
        ) as embedder:
            ingestor = Ingestor(embedder=embedder, store=store)
            with pytest.raises(EmbeddingError, match=said) as caught:
                await ingestor.add([Document(f"d{number}", f"text {number}") for number in range(40)], tenant="t")
    assert caught.value.of_configuration


@pytest.mark.parametrize("status", [400, 413, 422, 500])
async def test_a_text_that_a_working_server_refuses_fails_only_its_document(status: int) -> None:
    class Picky(OpenAIServer):
        async def _answer(self, connection: Any, path: str, headers: dict[str, str], body: bytes) -> None:
            if b"the long one" in body:
                said = {"error": {"message": "input is too long: it has 9000 tokens"}}
                await connection.send_json(status, said)
                return
            await super()._answer(connection, path, headers, body)

    async with Picky() as server, FakeStore() as store:
        policy = Policy(retry=False, breaker=False)
        async with OpenAIEmbedder(
            "fake", dimension=64, base_url=server.base_url, api_key="k", policy=policy
        ) as embedder:
            ingestor = Ingestor(embedder=embedder, store=store)
            report = await ingestor.add([Document("a", "the long one"), Document("b", "text b")], tenant="t")
    assert report.added == 1
    assert [one.id for one in report.failed] == ["a"]
    assert "exceeds the model's token limit" in report.failed[0].reason


async def test_a_dependency_that_stays_down_raises_and_a_second_run_adds_the_missing_documents(parts: Parts) -> None:
    embedder, store, ingestor = parts
    documents = [Document(str(n), f"text {n}") for n in range(300)]
    embedder.faults.next(None)
    embedder.faults.always(Fail(503))
    with pytest.raises(EmbeddingError):
        await ingestor.add(documents, tenant="t")
    written = (await store.count(tenant="t")).documents
    embedder.faults.always(None)
    report = await ingestor.add(documents, tenant="t")
    assert (report.added, report.unchanged) == (300 - written, written)


async def test_a_store_that_fails_raises_one_error_not_a_group(parts: Parts) -> None:
    _, store, ingestor = parts
    store.faults.always(Fail(500))
    with pytest.raises(StoreError):
        await ingestor.add([Document(str(n), "t") for n in range(300)], tenant="t")


async def test_each_document_has_its_deadline(parts: Parts) -> None:
    embedder, _, ingestor = parts
    embedder.faults.always(Hang())
    with pytest.raises(DeadlineExceeded):
        await ingestor.add([Document("d", "t")], tenant="t", document_timeout=0.05)


async def test_progress_gets_the_report_so_far_and_its_error_is_raised(parts: Parts) -> None:
    *_, ingestor = parts
    seen: list[IngestReport] = []
    await ingestor.add((Document(str(n), "t") for n in range(130)), tenant="t", progress=seen.append)
    assert [report.added for report in seen] == sorted(report.added for report in seen)
    assert seen[-1].added == 130

    def broken(report: IngestReport) -> None:
        raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        await ingestor.add([Document("x", "t")], tenant="t", progress=broken)


async def test_invalid_arguments_are_refused(parts: Parts) -> None:
    embedder, store, ingestor = parts
    for bad in (Document("d", "t"), "text", [3]):
        with pytest.raises(InvalidInput):
            await ingestor.add(bad, tenant="t")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        await ingestor.add([], tenant=" ")
    with pytest.raises(ConfigurationError):
        Ingestor(embedder=embedder, store=store, chunk_tokens=20, overlap_tokens=20)


async def test_a_hung_embedder_is_found_within_one_documents_time_with_any_number_waiting() -> None:
    embedder = FakeEmbedder()
    embedder.faults.always(Hang())
    async with embedder, FakeStore() as store:
        began = anyio.current_time()
        with pytest.raises(DeadlineExceeded):
            await Ingestor(embedder=embedder, store=store).add(
                [Document(str(number), f"text {number}") for number in range(300)], tenant="t", document_timeout=0.3
            )
        assert in_time(anyio.current_time() - began, 1)


async def test_the_wait_for_an_embedders_thread_does_not_count() -> None:
    def encode(texts: list[str]) -> Any:
        time.sleep(0.15)
        return np.ones((len(texts), 4), np.float32)

    embedder: Any = from_sync(encode, model="slow", dimension=4, max_tokens=100)
    async with embedder, FakeStore() as store:
        documents = [Document(str(number), f"text {number} " * 20) for number in range(7 * 64)]
        report = await Ingestor(embedder=embedder, store=store, chunk_tokens=50, concurrency=8).add(
            documents, tenant="t", document_timeout=0.5
        )
    assert report.added == 7 * 64


class Source:
    """An endless source of documents that records whether it was closed."""

    def __init__(self, error: Exception | None = None) -> None:
        self.closed = False
        self.error = error

    async def documents(self) -> AsyncIterator[Document]:
        number = 0
        try:
            while True:
                number += 1
                await anyio.sleep(0)
                yield Document(str(number), "text")
                if self.error is not None and number > 70:
                    raise self.error
        finally:
            self.closed = True

    def blocking(self) -> Iterator[Document]:
        number = 0
        try:
            while True:
                number += 1
                yield Document(str(number), "text")
        finally:
            self.closed = True


@pytest.mark.parametrize("kind", ["documents", "blocking"])
@pytest.mark.parametrize("how", ["the embedder fails", "cancelled"])
async def test_the_source_is_closed_after_any_end(kind: str, how: str) -> None:
    embedder, source = FakeEmbedder(), Source()
    async with embedder, FakeStore() as store:
        if how == "cancelled":
            with anyio.move_on_after(0.05):
                await Ingestor(embedder=embedder, store=store).add(getattr(source, kind)(), tenant="t")
        else:
            embedder.faults.always(Fail(503))
            with pytest.raises(EmbeddingError):
                await Ingestor(embedder=embedder, store=store).add(getattr(source, kind)(), tenant="t")
        assert source.closed


async def test_a_source_that_fails_is_closed_and_its_error_is_raised() -> None:
    source = Source(error=KeyError("mine"))
    async with FakeEmbedder() as embedder, FakeStore() as store:
        with pytest.raises(KeyError, match="mine"):
            await Ingestor(embedder=embedder, store=store).add(source.documents(), tenant="t")
    assert source.closed


async def test_an_error_while_closing_a_source_does_not_hide_the_first_error(caplog: pytest.LogCaptureFixture) -> None:
    async def documents() -> AsyncIterator[Document]:
        try:
            for number in range(1_000):
                yield Document(str(number), "text")
        finally:
            raise OSError("closing failed")

    embedder = FakeEmbedder()
    embedder.faults.always(Fail(503))
    async with embedder, FakeStore() as store:
        with pytest.raises(EmbeddingError):
            await Ingestor(embedder=embedder, store=store).add(documents(), tenant="t")
    assert "closing a async_generator failed" in caplog.text


async def test_time_behind_questions_on_the_embedders_thread_does_not_count() -> None:
    def encode(texts: list[str]) -> Any:
        time.sleep(0.2)
        return np.ones((len(texts), 4), np.float32)

    embedder: Any = from_sync(encode, model="slow", dimension=4, max_tokens=100)
    async with embedder, FakeStore() as store, anyio.create_task_group() as group:

        async def ask() -> None:
            while True:
                await embedder.embed(["question"], kind="query")

        for _ in range(3):
            group.start_soon(ask)
        await anyio.sleep(0.05)
        report = await Ingestor(embedder=embedder, store=store).add(
            [Document("d", "text")], tenant="t", document_timeout=0.5
        )
        group.cancel_scope.cancel()
    assert report.added == 1


async def test_ingests_with_one_embedder_take_turns_for_its_thread() -> None:
    def encode(texts: list[str]) -> Any:
        time.sleep(0.2)
        return np.ones((len(texts), 4), np.float32)

    embedder: Any = from_sync(encode, model="slow", dimension=4, max_tokens=100)
    reports: list[IngestReport] = []
    async with embedder, FakeStore() as store:

        async def add(tenant: str) -> None:
            reports.append(
                await Ingestor(embedder=embedder, store=store).add(
                    [Document("d", "text")], tenant=tenant, document_timeout=0.5
                )
            )

        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(add, f"tenant {number}")
    assert [report.added for report in reports] == [1] * 6


async def test_a_document_that_takes_too_long_to_cut_is_reported_and_the_others_are_added(parts: Parts) -> None:
    embedder, store, _ = parts

    def slow(text: str) -> int:
        if "slow" in text:
            time.sleep(0.05)
        return len(text.split())

    embedder.count_tokens = slow  # type: ignore[method-assign]
    documents = [Document("a", "good"), Document("b", "slow word. " * 4_000), Document("c", "good too. " * 3_000)]
    report = await Ingestor(embedder=embedder, store=store).add(documents, tenant="t", document_timeout=3.0)
    assert report.added == 2
    assert [(one.id, one.reason) for one in report.failed] == [("b", "it could not be cut within 3 s: split it")]


@pytest.mark.anyio
@pytest.mark.parametrize("between", [0, 1, 500])
async def test_of_equal_ids_in_one_run_the_last_wins(between: int) -> None:
    """The earlier one may be in the same batch, or in one that a slower worker still has."""
    store, embedder = FakeStore(), FakeEmbedder()
    others = [Document(f"other {number}", "text") for number in range(between)]
    async with store, embedder:
        ingestor = Ingestor(embedder=embedder, store=store)
        given = [Document("d", "the first " * 400), *others, Document("d", "the last"), Document("end", "text")]
        report = await ingestor.add(given, tenant="t")
        assert [passage.text for passage in await store.document_chunks("d", tenant="t")] == ["the last"]
    assert report.failed == ()
    assert [(doubt.id, "has replaced it" in doubt.message) for doubt in report.warnings] == [("d", True)]


@pytest.mark.anyio
async def test_a_chunk_is_a_part_of_the_text_character_for_character() -> None:
    store, embedder = FakeStore(), FakeEmbedder()
    text = " \n a\r\nb\rc\td\u00a0e\ufefff\u2028g e\u0301 \x01 \n "
    async with store, embedder:
        ingestor = Ingestor(embedder=embedder, store=store)
        report = await ingestor.add([Document("d", text), Document("blank", " \r\n\t")], tenant="t")
        (found,) = await store.document_chunks("d", tenant="t")
    assert found.text == text.strip() == text[found.start : found.end]
    assert [(one.id, one.reason) for one in report.failed] == [("blank", "it has no text")]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "text", [" \n a\r\nb\rc\td\u00a0e\ufefff\u2028g e\u0301 \x01 \n ", "# H\n\ntext\n\n\n", "a\fb\n"]
)
async def test_a_document_that_is_not_split_comes_back_as_it_was_given(text: str) -> None:
    async with FakeStore() as store, FakeEmbedder() as embedder:
        ingestor = Ingestor(embedder=embedder, store=store)
        given = [Document("d", text), Document("blank", "  "), Document("long", "word " * 1_000)]
        report = await ingestor.add(given, tenant="t", split=False)
        (found,) = await store.document_chunks("d", tenant="t")
        assert (await ingestor.add(given[:1], tenant="t", split=False)).unchanged == 1
        assert (await ingestor.add(given[:1], tenant="t")).updated == 1
    assert (found.text, found.start, found.end) == (text, 0, len(text))
    reasons = {one.id: one.reason for one in report.failed}
    assert reasons["blank"] == "it has no text"
    assert "tokens" in reasons["long"]
    assert "512" in reasons["long"]


@pytest.mark.slow  # it waits for 13 s
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_rate_limiter_limits_the_size_of_requests_and_waits_outside_of_the_time_limit(parts: Parts) -> None:
    embedder, _, ingestor = parts
    limiter = RateLimiter(tokens_per_minute=1_000)
    text = "word " * 60
    tokens = embedder.count_tokens(text)
    assert tokens <= limiter.most_tokens < 2 * tokens
    limiter.charge(tokens=130)  # 2 s: longer than the limit of a step
    report = await ingestor.add(
        [Document("1", text), Document("2", text)], tenant="a", document_timeout=1, rate_limiter=limiter
    )
    assert (report.added, report.failed) == (2, ())
    assert [len(texts) for texts in embedder.calls] == [1, 1]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_429_pauses_all_ingests_with_the_same_rate_limiter() -> None:
    class Noted(RateLimiter):
        paused: list[float] = []  # noqa: RUF012
        charged = 0

        def pause(self, seconds: float) -> None:
            self.paused.append(seconds)

        def charge(self, *, requests: int = 1, tokens: int = 0) -> None:
            self.charged += requests

    limiter = Noted(requests_per_minute=6_000)
    async with OpenAIServer(dimension=8) as server:
        server.faults.next(Fail(429, headers={"Retry-After": "0.2"}))
        embedder = OpenAIEmbedder("made", dimension=8, base_url=server.base_url, api_key="none")
        async with embedder, FakeStore() as store:
            ingestor = Ingestor(embedder=embedder, store=store)
            report = await ingestor.add([Document("1", "text")], tenant="a", rate_limiter=limiter)
    assert (report.added, limiter.paused, limiter.charged) == (1, [0.2], 1)
