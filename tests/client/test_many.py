"""`ask_many`: each question has one result, and no task or connection is left behind."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pace import in_time

import ragcore
from ragcore import RAG, Answers, Asked, AskProgress, Document, events
from ragcore.audit import acting
from ragcore.contrib import asgi
from ragcore.resilience import deadline, flow
from ragcore.testing import Fail, FakeEmbedder, FakeGenerator, Hang, Slow, fake_rag
from ragcore.testing.faults import Fault

pytestmark = pytest.mark.anyio

QUESTIONS = tuple(f"What is deductible {number}?" for number in range(10))


@pytest.fixture
async def filled(rag: RAG) -> RAG:
    await rag.add([Document("plan", "Your deductible is $1,500 per year.")], tenant="m")
    return rag


class Counted(FakeGenerator):
    """Counts how many answers are under way at once."""

    def __init__(self) -> None:
        super().__init__()
        self.running = self.most = 0
        self.flows: set[str] = set()
        self.gate: anyio.Event | None = None

    @asynccontextmanager
    async def stream(self, prompt: ragcore.Prompt, /) -> AsyncIterator[AsyncIterator[str | ragcore.Generation]]:
        self.running += 1
        self.most = max(self.most, self.running)
        self.flows.add(_current())
        try:
            if self.gate is not None:
                await self.gate.wait()
            async with super().stream(prompt) as pieces:
                yield pieces
        finally:
            self.running -= 1


def _current() -> str:
    from ragcore.resilience.flow import current_flow

    return str(current_flow.get())


async def test_each_question_has_one_result_and_the_order_can_be_restored(filled: RAG) -> None:
    seen: list[AskProgress] = []
    async with filled.ask_many(QUESTIONS, tenant="m", progress=seen.append) as answers:
        assert isinstance(answers, Answers)
        found = [asked async for asked in answers]
    assert sorted(asked.index for asked in found) == list(range(10))
    assert {asked.question for asked in found} == set(QUESTIONS)
    assert all(asked.result().found and asked.error is None for asked in found)
    assert [(one.answered, one.failed) for one in seen] == [(number, 0) for number in range(1, 11)]
    assert seen[-1].asked == 10
    async with filled.for_tenant("m").ask_many(QUESTIONS) as answers:
        assert [asked.question for asked in await answers.all()] == list(QUESTIONS)
    assert filled.inflight() == ()


async def test_results_come_as_they_arrive_and_not_in_the_order_of_the_questions() -> None:
    generator = FakeGenerator()
    generator.faults.next(Slow(0.2), None, None)
    async with fake_rag(generator=generator) as rag:
        await rag.add([Document("plan", "Your deductible is $1,500 per year.")], tenant="m")
        async with rag.ask_many(QUESTIONS[:3], tenant="m") as answers:
            first = await anext(answers)
            assert len([first, *[asked async for asked in answers]]) == 3
    assert first.index != 0


async def test_at_most_concurrency_questions_run_at_once_under_the_tenants_flow() -> None:
    generator = Counted()
    async with fake_rag(generator=generator) as rag:
        await rag.add([Document("plan", "Your deductible is $1,500 per year.")], tenant="m")
        async with rag.ask_many(QUESTIONS, tenant="m", concurrency=3) as answers:
            assert len(await answers.all()) == 10
    assert 1 < generator.most <= 3
    assert generator.flows == {"m"}


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_slow_reader_stops_the_questions(filled: RAG, asynchronous: bool) -> None:
    read: list[str] = []

    def questions() -> Iterator[str]:
        for question in QUESTIONS:
            read.append(question)
            yield question

    async def later() -> AsyncIterator[str]:
        for question in questions():
            await anyio.sleep(0)
            yield question

    async with filled.ask_many(later() if asynchronous else questions(), tenant="m", concurrency=2) as answers:
        for taken in range(1, 4):
            await anext(answers)
            await anyio.wait_all_tasks_blocked()
            assert len(read) <= taken + 2
    assert len(read) < 10


async def test_a_question_that_fails_does_not_end_the_others(filled: RAG) -> None:
    given: list[Any] = [QUESTIONS[0], "", 7, QUESTIONS[1], "x" * 40_000]
    async with filled.ask_many(given, tenant="m") as answers:
        found = await answers.all()
    assert [type(asked.error) for asked in found] == [
        type(None),
        ragcore.InvalidInput,
        ragcore.InvalidInput,
        type(None),
        ragcore.InvalidInput,
    ]
    with pytest.raises(ragcore.InvalidInput, match="empty"):
        found[1].result()
    assert found[1].to_dict()["error"]["type"] == "InvalidInput"
    assert found[0].to_dict()["answer"]["found"] is True


async def test_a_model_that_is_down_is_the_error_of_each_question(filled: RAG, fake_generator: FakeGenerator) -> None:
    fake_generator.faults.always(Fail(500))
    async with filled.ask_many(QUESTIONS[:3], tenant="m", degrade=False) as answers:
        found = await answers.all()
    assert all(isinstance(asked.error, ragcore.GenerationError) for asked in found)
    assert "status 500" in str(found[0].error)
    assert "500" not in str(asgi.public(found[0])["error"])


async def test_an_error_of_the_iterable_is_raised_after_the_results(filled: RAG) -> None:
    def questions() -> Iterator[str]:
        yield QUESTIONS[0]
        raise KeyError("the user's own")

    found: list[Asked] = []
    with pytest.raises(KeyError):
        async with filled.ask_many(questions(), tenant="m") as answers:
            async for asked in answers:
                found.append(asked)
    assert [asked.index for asked in found] == [0]


@pytest.mark.parametrize(
    ("questions", "options"),
    [
        ("one text", {}),
        (5, {}),
        (QUESTIONS, {"concurrency": 0}),
        (QUESTIONS, {"concurrency": True}),
        (QUESTIONS, {"total_timeout": 0}),
        (QUESTIONS, {"timeout": -1}),
        (QUESTIONS, {"top_k": 0}),
        (QUESTIONS, {"history": [{"role": "system", "content": "x"}]}),
        (QUESTIONS, {"tenant": " "}),
    ],
)
async def test_invalid_arguments_raise_before_a_question_is_read(filled: RAG, questions: Any, options: Any) -> None:
    with pytest.raises(ragcore.InvalidInput):
        async with filled.ask_many(questions, **{"tenant": "m", **options}):
            pytest.fail("entered")
    with pytest.raises(TypeError, match="unexpected keyword argument 'topk'"):
        filled.ask_many(QUESTIONS, tenant="m", topk=3)  # type: ignore[call-arg]  # the error is tested
    assert filled.recent() == () or filled.recent()[-1].method == "add"


async def test_leaving_early_cancels_the_questions_and_closes_the_iterable(
    filled: RAG, fake_generator: FakeGenerator
) -> None:
    closed = False

    async def questions() -> AsyncIterator[str]:
        nonlocal closed
        try:
            for question in QUESTIONS:
                yield question
        finally:
            closed = True

    fake_generator.faults.next(None)
    fake_generator.faults.always(Hang())
    async with filled.ask_many(questions(), tenant="m") as answers:
        await anext(answers)
    assert closed
    assert filled.inflight() == ()
    with pytest.raises(ragcore.NotOpen):
        await anext(answers)


async def test_a_reader_that_is_cancelled_leaves_nothing_behind(filled: RAG, fake_generator: FakeGenerator) -> None:
    fake_generator.faults.always(Hang())

    async def read() -> None:
        async with filled.ask_many(QUESTIONS, tenant="m") as answers:
            await anext(answers)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        while len(filled.inflight()) < 4:
            await anyio.sleep(0.001)
        group.cancel_scope.cancel()
    await anyio.wait_all_tasks_blocked()
    assert filled.inflight() == ()


async def test_results_may_be_read_in_another_task_than_the_block_was_entered_in(filled: RAG) -> None:
    block = filled.ask_many(QUESTIONS, tenant="m")
    answers = await block.__aenter__()
    found: list[Asked] = []

    async def read(count: int) -> None:
        for _ in range(count):
            found.append(await anext(answers))

    async with anyio.create_task_group() as group:
        group.start_soon(read, 5)
        group.start_soon(read, 5)
    async with anyio.create_task_group() as group:
        group.start_soon(block.__aexit__, None, None, None)
    assert sorted(asked.index for asked in found) == list(range(10))


@pytest.mark.parametrize("by_block", [False, True])
async def test_the_total_timeout_ends_all_questions(filled: RAG, fake_generator: FakeGenerator, by_block: bool) -> None:
    fake_generator.faults.always(Hang())
    found: list[Asked] = []
    began = anyio.current_time()
    with pytest.raises(ragcore.DeadlineExceeded) as caught, deadline(0.2) if by_block else contextlib.nullcontext():
        async with filled.ask_many(
            QUESTIONS, tenant="m", concurrency=2, degrade=False, total_timeout=None if by_block else 0.2
        ) as answers:
            async for asked in answers:
                found.append(asked)
    assert in_time(anyio.current_time() - began, 0.3)
    if not by_block:
        assert [type(asked.error) for asked in found] == [ragcore.DeadlineExceeded] * 2
        assert "not all questions were asked" in str(caught.value)
    assert filled.inflight() == ()


async def test_the_timeout_is_that_of_one_question(filled: RAG, fake_generator: FakeGenerator) -> None:
    fake_generator.faults.next(Hang())
    async with filled.ask_many(QUESTIONS[:4], tenant="m", timeout=0.3, degrade=False) as answers:
        found = await answers.all()
    late = [asked for asked in found if asked.error is not None]
    assert [type(asked.error) for asked in late] == [ragcore.DeadlineExceeded]


async def test_a_client_that_is_closed_ends_the_results_with_an_error() -> None:
    generator = FakeGenerator()
    generator.faults.always(Hang())
    rag = fake_rag(generator=generator)
    await rag.start()
    await rag.add([Document("plan", "Your deductible is $1,500 per year.")], tenant="m")
    found: list[Asked] = []
    ended = False
    async with rag.ask_many(QUESTIONS, tenant="m", concurrency=2) as answers, anyio.create_task_group() as group:
        while len(rag.inflight()) < 2:
            await anyio.sleep(0.001)
        group.start_soon(lambda: rag.aclose(drain=0.0))
        try:
            async for asked in answers:
                found.append(asked)
        except ragcore.NotOpen:
            ended = True
    assert ended or len(found) == len(QUESTIONS)
    assert all(isinstance(asked.error, ragcore.NotOpen) for asked in found)


async def test_the_audit_log_names_the_actor_of_the_caller(filled: RAG) -> None:
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)
    try:
        with acting("jane"):
            async with filled.ask_many(QUESTIONS[:2], tenant="m") as answers:
                await answers.all()
    finally:
        unsubscribe()
    assert {event.data["who"] for event in seen if event.name == "audit"} == {"jane"}


FAULTS: dict[str, Fault] = {"fails": Fail(500), "slow": Slow(0.001)}


@given(
    st.lists(st.sampled_from(["ok", "invalid", "fails", "slow"]), max_size=12),
    st.integers(1, 5),
    st.booleans(),
)
def test_every_question_has_exactly_one_result(kinds: list[str], concurrency: int, buffered: bool) -> None:
    async def main() -> None:
        generator, embedder = FakeGenerator(), FakeEmbedder()
        async with fake_rag(generator=generator, embedder=embedder) as rag:
            await rag.add([Document("plan", "Your deductible is $1,500 per year.")], tenant="m")
            generator.faults.next(*(FAULTS.get(kind) for kind in kinds))
            questions = ["" if kind == "invalid" else f"deductible {number}" for number, kind in enumerate(kinds)]
            async with rag.ask_many(questions, tenant="m", concurrency=concurrency) as answers:
                if buffered:
                    await anyio.sleep(0)
                found = [asked async for asked in answers]
            assert sorted(asked.index for asked in found) == list(range(len(kinds)))
            for asked in found:
                assert asked.question == questions[asked.index]
                assert (asked.answer is None) == (asked.error is not None) == (kinds[asked.index] == "invalid")
            assert rag.inflight() == ()

    anyio.run(main)


async def test_an_infinite_iterable_is_read_only_as_far_as_needed(filled: RAG) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"What is deductible {read}?"

    async with filled.ask_many(endless(), tenant="m", concurrency=3) as answers:
        for _ in range(5):
            await anext(answers)
    assert 5 <= read <= 5 + 3 + 1
    assert math.isfinite(read)
    with flow("other"):
        assert (await filled.ask("deductible?", tenant="m")).found
