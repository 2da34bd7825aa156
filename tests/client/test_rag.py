"""The client, with fakes, on asyncio and trio."""

from __future__ import annotations

import asyncio
import importlib.metadata
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from tests.pace import in_time

import ragcore
from ragcore import RAG, CachedEmbedder, Document, RagcoreError, Settings
from ragcore.generation import FallbackGenerator
from ragcore.resilience import Bulkhead, Policy, flow
from ragcore.testing import Fail, FakeEmbedder, FakeGenerator, FakeStore, Hang, Slow, VirtualLoop, fake_rag

pytestmark = pytest.mark.anyio

QUESTION = "What is my deductible?"


@pytest.fixture
async def filled(rag: RAG) -> RAG:
    await rag.add([Document("plan", "Your deductible is $1,500 per year.")], tenant="m")
    return rag


async def test_an_answer_has_citations_timings_usage_and_the_id_of_its_call(
    filled: RAG, fake_generator: FakeGenerator
) -> None:
    answer = await filled.ask(
        QUESTION, tenant="m", history=[{"role": "user", "content": "hi"}], instructions="Be kind."
    )
    assert (answer.text, answer.found, answer.degraded) == (fake_generator.text, True, ())
    assert [(citation.number, citation.passage.document_id) for citation in answer.citations] == [(1, "plan")]
    timings = answer.timings
    assert None not in (timings.embed, timings.search, timings.generate, timings.first_token, timings.total)
    assert (answer.usage.completion_tokens, answer.model, answer.finish_reason, answer.request_ids) == (
        7,
        "fake",
        "stop",
        ("fake-1",),
    )
    prompt = fake_generator.prompts[-1]
    assert (prompt.history, prompt.instructions) == ((ragcore.Turn("user", "hi"),), "Be kind.")
    assert answer.call_id == filled.recent()[-1].id


async def test_without_passages_no_model_is_asked(filled: RAG, fake_generator: FakeGenerator) -> None:
    answer = await filled.ask(QUESTION, tenant="nobody")
    assert (answer.found, answer.text) == (False, filled.settings.not_found)
    assert answer.retrieval.empty is not None
    assert answer.timings.generate is None
    assert fake_generator.prompts == []


async def test_a_model_that_finds_no_answer_is_trusted(filled: RAG, fake_generator: FakeGenerator) -> None:
    fake_generator.text = ""
    answer = await filled.ask(QUESTION, tenant="m")
    assert (answer.found, answer.text, answer.citations) == (False, filled.settings.not_found, ())


async def test_the_answer_names_each_stage_that_degraded(
    filled: RAG, fake_embedder: FakeEmbedder, fake_generator: FakeGenerator, fake_store: FakeStore
) -> None:
    fake_embedder.faults.always(Fail(503))
    fake_generator.faults.always(Fail(500))
    answer = await filled.ask(QUESTION, tenant="m")
    assert answer.text == "Your deductible is $1,500 per year. [1]"
    assert [degradation.stage for degradation in answer.degraded] == ["embed", "generate"]
    assert filled.recent()[-1].outcome == "degraded"
    fake_store.faults.always(Fail(500))
    with pytest.raises(ragcore.StoreError):
        await filled.ask(QUESTION, tenant="m")


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_without_a_model_does_not_say_not_found(
    filled: RAG, fake_generator: FakeGenerator, streamed: bool
) -> None:
    fake_generator.faults.always(Fail(500))
    question = "Whom do I call at night?"  # no sentence shares a word with it
    if streamed:
        async with filled.stream(question, tenant="m") as stream:
            pieces = [event.text async for event in stream if isinstance(event, ragcore.Delta)]
            answer = await stream.answer()
            assert pieces == [answer.text]
    else:
        answer = await filled.ask(question, tenant="m")
    assert (answer.found, [part.stage for part in answer.degraded]) == (False, ["generate"])
    assert answer.text == f"{filled.settings.not_answered}\n\nYour deductible is $1,500 per year. [1]"
    assert answer.citations[0].passage == answer.retrieval.passages[0]


async def test_a_second_model_that_finds_no_answer_is_trusted_although_the_first_failed() -> None:
    first, second = FakeGenerator(), FakeGenerator()
    first.faults.always(Fail(500))
    second.text = ""
    async with fake_rag(generator=FallbackGenerator([first, second])) as rag:
        await rag.add([Document("d", "Your deductible is $1,500 per year.")], tenant="m")
        answer = await rag.ask(QUESTION, tenant="m")
    assert (answer.found, answer.text) == (False, rag.settings.not_found)
    assert answer.degraded


async def test_strict_mode_raises_instead(
    filled: RAG, fake_embedder: FakeEmbedder, fake_generator: FakeGenerator
) -> None:
    fake_generator.faults.always(Fail(500))
    with pytest.raises(ragcore.GenerationError) as caught:
        await filled.ask(QUESTION, tenant="m", degrade=False)
    assert (caught.value.status, caught.value.stage, caught.value.call_id) == (500, "generate", filled.recent()[-1].id)
    fake_embedder.faults.always(Fail(500))
    with pytest.raises(ragcore.EmbeddingError):
        await filled.ask(QUESTION, tenant="m", degrade=False)


@pytest.mark.parametrize("part", ["embed", "search", "generate"])
async def test_a_dependency_that_never_responds_is_degraded_or_refused_in_time(
    filled: RAG, part: str, fake_embedder: FakeEmbedder, fake_store: FakeStore, fake_generator: FakeGenerator
) -> None:
    {"embed": fake_embedder.faults, "search": fake_store.faults, "generate": fake_generator.faults}[part].always(Hang())
    began = anyio.current_time()
    try:
        answer = await filled.ask(QUESTION, tenant="m", timeout=1.5)
        assert part != "search"
        assert [degradation.stage for degradation in answer.degraded] == [part]
        assert answer.found
    except ragcore.DeadlineExceeded as error:
        assert part == "search"
        assert (error.budget, error.stage) == (1.5, "search")
        assert error.timings.embed is not None
    assert in_time(anyio.current_time() - began, 1.6)


async def test_ask_degrades_if_the_generator_breaks_after_its_first_word(filled: RAG) -> None:
    class Breaks(FakeGenerator):
        @asynccontextmanager
        async def stream(self, prompt: ragcore.Prompt, /) -> AsyncIterator[AsyncIterator[str | ragcore.Generation]]:
            async def pieces() -> AsyncIterator[str | ragcore.Generation]:
                yield "half of "
                raise KeyError("the user's own")

            yield pieces()

    async with RAG(retriever=filled.retriever, generator=Breaks()) as rag:
        answer = await rag.ask(QUESTION, tenant="m")
        assert answer.text == "Your deductible is $1,500 per year. [1]"
        assert [d.stage for d in answer.degraded] == ["generate"]
        with pytest.raises(ragcore.GenerationError) as caught:
            async with rag.stream(QUESTION, tenant="m") as stream:
                await stream.answer()
        assert caught.value.partial_text == "half of "
        assert rag.inflight() == ()


async def test_a_stream_that_ends_without_a_result_raises(filled: RAG) -> None:
    class Ends(FakeGenerator):
        @asynccontextmanager
        async def stream(self, prompt: ragcore.Prompt, /) -> AsyncIterator[AsyncIterator[str | ragcore.Generation]]:
            async def pieces() -> AsyncIterator[str | ragcore.Generation]:
                yield "half"

            yield pieces()

    async with RAG(retriever=filled.retriever, generator=Ends()) as rag:
        with pytest.raises(ragcore.GenerationError, match="ended without a result"):
            await rag.ask(QUESTION, tenant="m", degrade=False)


async def test_a_stream_has_its_events_in_order_and_the_same_answer_as_ask(filled: RAG) -> None:
    async with filled.stream(QUESTION, tenant="m") as stream:
        assert filled.inflight()[0].method == "stream"
        events = [event async for event in stream]
    names = [type(event).__name__ for event in events]
    # Words that arrive faster than they are read are joined into one delta.
    assert names == ["Retrieved", *["Delta"] * (len(names) - 2), "Done"]
    assert len(names) > 2
    done = events[-1]
    assert isinstance(done, ragcore.Done)
    assert "".join(event.text for event in events if isinstance(event, ragcore.Delta)) == done.answer.text
    assert done.answer.timings.first_token is not None
    assert (filled.inflight(), filled.recent()[-1].outcome) == ((), "ok")
    assert await stream.answer() == done.answer


async def test_entering_a_stream_raises_errors_before_the_first_event(filled: RAG, fake_store: FakeStore) -> None:
    for question in ("", "x\0"):
        with pytest.raises(ragcore.InvalidInput):
            async with filled.stream(question, tenant="m"):
                pass
    fake_store.faults.always(Fail(500))
    with pytest.raises(ragcore.StoreError):
        async with filled.stream(QUESTION, tenant="m"):
            pass
    assert filled.inflight() == ()


async def test_a_stream_that_finds_nothing_has_the_not_found_text_as_a_delta(filled: RAG) -> None:
    async with filled.stream(QUESTION, tenant="nobody") as stream:
        events = [event async for event in stream]
    assert [type(event).__name__ for event in events] == ["Retrieved", "Delta", "Done"]


async def test_abandoning_a_stream_ends_its_call(filled: RAG) -> None:
    async with filled.stream(QUESTION, tenant="m") as stream:
        async for event in stream:
            if isinstance(event, ragcore.Delta):
                break
    assert (filled.inflight(), filled.recent()[-1].outcome) == ((), "cancelled")
    with pytest.raises(ragcore.NotOpen):
        await stream.answer()


async def test_the_time_of_the_reader_counts_towards_the_deadline(filled: RAG) -> None:
    async with filled.stream(QUESTION, tenant="m", timeout=0.1) as stream:
        await anext(stream)
        await anext(stream)
        await anyio.sleep(0.15)
        with pytest.raises(ragcore.DeadlineExceeded):
            await stream.answer()
    assert (filled.inflight(), filled.recent()[-1].outcome) == ((), "abandoned")


async def test_a_stream_may_be_entered_read_and_left_in_three_tasks(filled: RAG) -> None:
    context = filled.stream(QUESTION, tenant="m")
    got: list[object] = []

    async def enter() -> None:
        got.append(await context.__aenter__())

    async def read() -> None:
        stream = got[0]
        assert isinstance(stream, ragcore.AnswerStream)
        got.append(await stream.answer())

    async def leave() -> None:
        await context.__aexit__(None, None, None)

    for step in (enter, read, leave):
        async with anyio.create_task_group() as group:
            group.start_soon(step)
    assert isinstance(got[1], ragcore.Answer)


async def test_running_calls_show_their_stage_and_where_they_wait(filled: RAG, fake_embedder: FakeEmbedder) -> None:
    fake_embedder.faults.always(Hang())
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: filled.ask(QUESTION, tenant="m", timeout=5))
        await anyio.wait_all_tasks_blocked()
        (call,) = filled.inflight()
        assert (call.method, call.tenant, call.stage, call.outcome) == ("ask", "m", "embed", None)
        assert call.waiting_on
        group.cancel_scope.cancel()
    assert (filled.inflight(), filled.recent()[-1].outcome) == ((), "cancelled")


async def test_closing_drains_then_cancels(fake_generator: FakeGenerator) -> None:
    rag = fake_rag(generator=fake_generator)
    await rag.start()
    await rag.add([Document("d", "Your deductible is 5.")], tenant="m")
    outcomes: list[str] = []

    async def ask(seconds: float) -> None:
        fake_generator.faults.next(Slow(seconds))
        try:
            await rag.ask(QUESTION, tenant="m", timeout=20)
            outcomes.append("ok")
        except ragcore.NotOpen as error:
            outcomes.append(str(error))

    async with anyio.create_task_group() as group:
        group.start_soon(ask, 0.05)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(ask, 5.0)
        await anyio.wait_all_tasks_blocked()
        began = anyio.current_time()
        await rag.aclose(drain=0.2)
        assert in_time(anyio.current_time() - began, 1)
        with pytest.raises(ragcore.NotOpen):
            await rag.ask(QUESTION, tenant="m")
    assert outcomes == ["ok", "the client was closed while this call was running"]
    await rag.aclose()


async def test_a_client_may_be_started_again(filled: RAG) -> None:
    await filled.aclose()
    await filled.start()
    assert (await filled.ask(QUESTION, tenant="m")).found


async def test_views_documents_and_deleting(filled: RAG) -> None:
    member = filled.for_tenant("m")
    assert (await member.ask(QUESTION)).found
    assert list(await member.documents()) == ["plan"]
    assert (await member.retrieve(QUESTION)).passages
    assert (await member.similarity(QUESTION)).chunks == 1
    assert (await member.add([Document("b", "more text")])).added == 1
    async with member.stream(QUESTION) as stream:
        assert (await stream.answer()).found
    with pytest.raises(ragcore.InvalidInput):
        await member.delete("plan")
    assert await member.delete(["plan", "unknown"]) == 1
    with pytest.raises(AttributeError):
        member.tenant = "other"  # type: ignore[misc]


async def test_a_call_with_bad_input_is_recorded_and_leaves_nothing_running(filled: RAG) -> None:
    for timeout in (0, -1, math.inf):
        with pytest.raises(ragcore.InvalidInput):
            await filled.ask(QUESTION, tenant="m", timeout=timeout)
    with pytest.raises(ragcore.InvalidInput):
        await filled.ask("", tenant="m")
    assert filled.inflight() == ()
    assert filled.recent()[-1].outcome == "InvalidInput"


async def test_health_never_raises_and_sees_a_failing_store(filled: RAG, fake_store: FakeStore) -> None:
    health = await filled.health()
    assert (health.status, health.ready) == ("healthy", True)
    assert set(health.services) == {"database", "rag_service", "memory_usage"}
    assert await filled.health() is health
    filled._health._last = None
    fake_store.faults.always(Fail(500))
    health = await filled.health()
    assert (health.services["database"], health.ready) == ("unhealthy", False)


async def test_health_is_in_time_when_the_store_never_responds() -> None:
    store = FakeStore()
    rag = RAG(
        retriever=ragcore.Retriever(embedder=FakeEmbedder(), store=store),
        generator=FakeGenerator(),
        settings=Settings(health_timeout=0.1),
    )
    async with rag:
        store.faults.always(Hang())
        began = anyio.current_time()
        assert (await rag.health()).status == "unhealthy"
        assert in_time(anyio.current_time() - began, 0.3)


async def test_describe_and_stats_show_the_client(filled: RAG) -> None:
    await filled.ask(QUESTION, tenant="m")
    described = await filled.describe()
    assert described["versions"]["ragcore"] == importlib.metadata.version("ragcore-client")
    assert described["embedder"] == {"model": "fake", "dimension": 64}
    stats = filled.stats().to_dict()
    assert stats["policies"]["embedding"]["calls"] >= 1
    assert stats["calls"]["running"] == 0


async def test_writing_to_a_searcher_is_unsupported() -> None:
    class Nothing:
        async def search(self, query: ragcore.Query, /) -> list[ragcore.Passage]:
            return []

    async with RAG(retriever=ragcore.Retriever(store=Nothing(), mode="text"), generator=FakeGenerator()) as rag:
        with pytest.raises(ragcore.Unsupported):
            await rag.add([], tenant="m")
        with pytest.raises(ragcore.Unsupported):
            await rag.documents(tenant="m")


async def test_a_client_that_is_not_started_raises_not_open() -> None:
    with pytest.raises(ragcore.NotOpen):
        await fake_rag().ask(QUESTION, tenant="m")


async def test_a_reader_who_leaves_at_the_last_delta_leaves_no_call_behind(filled: RAG) -> None:
    async with filled.stream(QUESTION, tenant="nobody") as stream:
        async for event in stream:
            if isinstance(event, ragcore.Delta):
                break
    assert filled.inflight() == ()


async def test_a_stream_whose_reader_waits_at_the_deadline_raises_deadline_exceeded(
    filled: RAG, fake_generator: FakeGenerator
) -> None:
    fake_generator.faults.always(Hang())
    for _ in range(3):
        with pytest.raises(ragcore.DeadlineExceeded):
            async with filled.stream(QUESTION, tenant="m", timeout=0.1, degrade=False) as stream:
                await stream.answer()
    assert filled.inflight() == ()


async def test_a_stream_has_one_reader(filled: RAG, fake_generator: FakeGenerator) -> None:
    fake_generator.faults.always(Hang())
    async with filled.stream(QUESTION, tenant="m") as stream, anyio.create_task_group() as group:
        group.start_soon(stream.answer)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(ragcore.InvalidInput, match="one reader"):
            await anext(stream)
        group.cancel_scope.cancel()


async def test_a_component_that_never_closes_does_not_block_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragcore.lifecycle.part.CLOSE_SECONDS", 0.05)

    class Stuck(FakeStore):
        async def aclose(self) -> None:
            await anyio.sleep_forever()

    embedder = FakeEmbedder()
    rag = fake_rag(embedder=embedder, store=Stuck())
    await rag.start()
    began = anyio.current_time()
    await rag.aclose(drain=0.0)
    assert in_time(anyio.current_time() - began, 1)
    assert not embedder.is_open


async def test_a_filtered_similarity_report_counts_only_matching_chunks(filled: RAG) -> None:
    await filled.add([Document("other", "Your copay is $20.", metadata={"kind": "copay"})], tenant="m")
    report = await filled.similarity(QUESTION, tenant="m", score_threshold=-1, filter=ragcore.meta("kind").eq("copay"))
    assert (report.chunks, sum(count for _, _, count in report.histogram)) == (2, 1)


async def test_a_passage_that_does_not_fit_is_a_configuration_error(fake_generator: FakeGenerator) -> None:
    rag = RAG(
        retriever=ragcore.Retriever(embedder=FakeEmbedder(), store=FakeStore()),
        generator=fake_generator,
        settings=Settings(prompt_tokens=220),
    )
    async with rag:
        await rag.add([Document("plan", "Your deductible is $1,500 per year. " * 15)], tenant="m")
        with pytest.raises(ragcore.ConfigurationError, match="prompt_tokens"):
            await rag.ask(QUESTION, tenant="m")
    assert fake_generator.prompts == []


@pytest.mark.parametrize("way", ["scope", "task"])
async def test_a_close_that_is_cancelled_while_draining_still_closes_everything(
    way: str, anyio_backend_name: str
) -> None:
    if way == "task" and anyio_backend_name == "trio":
        pytest.skip("asyncio's own cancellation")
    embedder = FakeEmbedder()
    client = fake_rag(embedder=embedder)
    await client.start()
    await client.add([Document("d", "Your deductible is $1,500.")], tenant="m")
    embedder.faults.always(Hang())
    ended: list[str] = []

    async def ask() -> None:
        try:
            await client.ask("What is my deductible?", tenant="m", timeout=60)
        except RagcoreError as error:
            ended.append(type(error).__name__)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        if way == "scope":
            with anyio.move_on_after(0.1):
                await client.aclose(drain=30)
        else:
            task = asyncio.ensure_future(client.aclose(drain=30))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert len(ended) == 1
    assert not client.is_open
    assert not embedder.is_open


async def test_a_second_close_may_shorten_the_drain_and_a_start_waits_for_it() -> None:
    embedder = FakeEmbedder()
    client = fake_rag(embedder=embedder)
    await client.start()
    await client.add([Document("d", "Your deductible is $1,500.")], tenant="m")
    embedder.faults.next(Hang())

    async def ask() -> None:
        with pytest.raises(RagcoreError):
            await client.ask("What is my deductible?", tenant="m", timeout=60, degrade=False)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        began = anyio.current_time()
        group.start_soon(client.aclose)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(client.start)
        await anyio.wait_all_tasks_blocked()
        await client.aclose(drain=0.1)
        assert in_time(anyio.current_time() - began, 5)
    assert client.is_open
    assert (await client.ask("What is my deductible?", tenant="m")).found
    await client.aclose()


def test_closing_without_draining_is_bounded_even_if_components_fail() -> None:
    class Stubborn(FakeEmbedder):
        async def _close(self) -> None:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(600)

    class Broken(FakeGenerator):
        async def _close(self) -> None:
            raise OSError("closing failed")

    async def main() -> float:
        embedder = Stubborn()
        rag = fake_rag(embedder=embedder, generator=Broken())
        await rag.start()
        embedder.faults.always(Hang())
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask_in_vain, rag)
            await anyio.sleep(0.1)
            began = anyio.current_time()
            await rag.aclose(drain=0.0)
            return anyio.current_time() - began
        raise AssertionError

    async def ask_in_vain(rag: RAG) -> None:
        with pytest.raises(RagcoreError):
            await rag.ask("What is my deductible?", tenant="m")

    assert anyio.run(main, backend_options={"loop_factory": VirtualLoop}) < 12


@pytest.mark.anyio
async def test_overload_raises_or_quotes_according_to_the_settings(filled: RAG) -> None:
    for quote in (False, True):
        policy = Policy("model", bulkhead=Bulkhead(1, queue=0))
        model = FakeGenerator(policy=policy)
        settings = Settings(quote_when_overloaded=quote)
        async with RAG(retriever=filled.retriever, generator=model, settings=settings) as rag:
            assert policy.bulkhead is not None
            assert policy.bulkhead.try_acquire("another")
            if not quote:
                with pytest.raises(ragcore.Overloaded, match="model is overloaded"):
                    await rag.ask("What is my deductible?", tenant="m")
                with pytest.raises(ragcore.Overloaded):
                    async with rag.stream("What is my deductible?", tenant="m") as stream:
                        await stream.answer()
                continue
            answer = await rag.ask("What is my deductible?", tenant="m")
            assert "$1,500" in answer.text
            assert "model is overloaded" in answer.degraded[0].reason
            assert (await rag.describe())["generators"][0]["limit"] == 1


@pytest.mark.anyio
async def test_the_flow_of_a_call_is_its_tenant_and_ends_with_it(filled: RAG) -> None:
    seen: list[str] = []

    class Looks(FakeGenerator):
        @asynccontextmanager
        async def stream(self, prompt: ragcore.Prompt, /) -> AsyncIterator[AsyncIterator[str | ragcore.Generation]]:
            seen.append(flow.current())
            async with super().stream(prompt) as pieces:
                yield pieces

    async with RAG(retriever=filled.retriever, generator=Looks()) as rag:
        with flow("mine"):
            await rag.ask("What is my deductible?", tenant="m")
            async with rag.stream("What is my deductible?", tenant="m") as stream:
                assert flow.current() == "mine"
                async for _ in stream:
                    assert flow.current() == "mine"
            assert flow.current() == "mine"
    assert seen == ["m", "m"]


async def test_erasing_a_tenant_reports_the_counts_and_leaves_other_tenants() -> None:
    embedder = CachedEmbedder(FakeEmbedder())
    async with fake_rag(embedder=embedder) as rag:
        for tenant in ("a", "b"):
            await rag.add([Document(f"d{n}", "The deductible is $1,500. " * 200) for n in range(30)], tenant=tenant)
            await rag.ask("What is the deductible?", tenant=tenant)
        before = (await rag.retriever.store.count(tenant="a")).chunks  # type: ignore[attr-defined]
        erased = await rag.delete_tenant(tenant="a")
        assert (erased.documents, erased.chunks) == (30, before)
        assert erased.cached_vectors > 0
        assert erased.remembered_calls == 2
        assert {call.tenant for call in rag.recent()} == {"a", "b"}  # only the call of `delete_tenant` stays for "a"
        assert [call.method for call in rag.recent() if call.tenant == "a"] == ["delete_tenant"]
        assert not [key for key in rag.used() if key[0] == "a"]
        assert await rag.documents(tenant="a") == {}
        assert len(await rag.documents(tenant="b")) == 30
        again = await rag.for_tenant("a").delete_tenant()
        assert (again.documents, again.chunks) == (0, 0)
