"""Structured answers: data, citations, one repair, and the fallback if the model fails."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

import ragcore
from ragcore import RAG, Document, Generation, Prompt, Settings, Usage, events
from ragcore.generation import ExtractiveGenerator, at_once
from ragcore.testing import FakeGenerator, fake_rag
from ragcore.text.redaction import Redaction
from ragcore.types import Price

pytestmark = pytest.mark.anyio

QUESTION = "What is my deductible?"


class Plan(BaseModel):
    deductible: int


class PlanDict(TypedDict):
    deductible: int


SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"deductible": {"type": "integer"}},
    "required": ["deductible"],
}


def reply(data: object, answer: str = "It is $1,500 [1].") -> str:
    return json.dumps({"answer": answer, "data": data})


GOOD, BAD = reply({"deductible": 1500}), reply({"deductible": "much"})
NOTHING = reply(None, "NOT_FOUND")


class Replies:
    """Sends one reply after the other. If a reply is an exception, it is raised."""

    model = "fake"

    def __init__(self, *replies: str | Exception | Generation) -> None:
        self.replies = list(replies)
        self.prompts: list[Prompt] = []

    async def generate(self, prompt: Prompt, /) -> Generation:
        self.prompts.append(prompt)
        found = self.replies.pop(0)
        if isinstance(found, Exception):
            raise found
        if isinstance(found, Generation):
            return found
        return Generation(found, model="fake", usage=Usage(prompt_tokens=100, completion_tokens=10))

    def stream(self, prompt: Prompt, /) -> Any:
        return at_once(self.generate(prompt))


@asynccontextmanager
async def client(*replies: str | Exception | Generation, **settings: Any) -> AsyncIterator[tuple[RAG, Replies]]:
    generator = Replies(*replies)
    async with fake_rag(generator=generator, settings=Settings(watchdog=False, **settings)) as rag:
        await rag.add([Document("plan", "Your deductible is $1,500 per year.")], tenant="m")
        yield rag, generator


@pytest.mark.parametrize(
    ("schema", "value"),
    [(Plan, Plan(deductible=1500)), (PlanDict, {"deductible": 1500}), (SCHEMA, {"deductible": 1500})],
    ids=["pydantic", "TypedDict", "JSON schema"],
)
async def test_an_answer_has_data_text_and_citations(schema: Any, value: object) -> None:
    async with client(GOOD, GOOD) as (rag, generator):
        answer = await rag.ask(QUESTION, tenant="m", schema=schema)
        again = await rag.for_tenant("m").ask(QUESTION, schema=schema)
    assert answer.data == again.data == value
    assert (answer.text, answer.found, answer.degraded) == ("It is $1,500 [1].", True, ())
    assert [(one.number, one.passage.document_id) for one in answer.citations] == [(1, "plan")]
    assert answer.text[answer.citations[0].start : answer.citations[0].end] == "[1]"
    assert answer.to_dict()["data"] == {"deductible": 1500}
    assert generator.prompts[0].schema is not None
    assert hash(answer) == hash(answer)


@pytest.mark.parametrize(
    "text", [NOTHING, "NOT_FOUND", "", reply(None, "I don't know."), reply({"deductible": 0}, "NOT_FOUND")]
)
async def test_without_an_answer_there_is_no_data(text: str) -> None:
    async with client(text) as (rag, _):
        answer = await rag.ask(QUESTION, tenant="m", schema=Plan)
    assert (answer.found, answer.data, answer.text, answer.citations) == (False, None, rag.settings.not_found, ())


async def test_without_passages_no_model_is_asked() -> None:
    async with client() as (rag, generator):
        answer = await rag.ask(QUESTION, tenant="nobody", schema=Plan)
    assert (answer.found, answer.data, generator.prompts) == (False, None, [])


async def test_a_reply_that_does_not_fit_is_sent_back_once_and_both_are_charged() -> None:
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)
    async with client(BAD, GOOD, prices={"fake": Price(prompt=1, completion=1)}) as (rag, generator):
        answer = await rag.ask(QUESTION, tenant="m", schema=Plan)
        used = rag.used()[("m", "fake")]
    unsubscribe()
    assert (answer.data, answer.degraded) == (Plan(deductible=1500), ())
    assert generator.prompts[0].rejected is None
    rejected = generator.prompts[1].rejected
    assert rejected is not None
    assert (rejected[0], "data.deductible" in rejected[1]) == (BAD, True)
    assert (used.prompt_tokens, used.completion_tokens) == (200, 20)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (200, 20)
    assert [event.data["repaired"] for event in seen if event.name == "answer.rejected"] == [False]


async def test_after_a_failed_repair_the_passages_are_quoted_or_an_error_is_raised() -> None:
    async with client(BAD, "no JSON at all", BAD, BAD) as (rag, generator):
        answer = await rag.ask(QUESTION, tenant="m", schema=Plan)
        used = rag.used()[("m", "fake")]
        with pytest.raises(ragcore.InvalidAnswer) as caught:
            await rag.ask(QUESTION, tenant="m", schema=Plan, degrade=False)
        after = rag.used()[("m", "fake")]
    assert (answer.data, answer.text, answer.found) == (None, "Your deductible is $1,500 per year. [1]", True)
    assert [(part.stage, part.fallback) for part in answer.degraded] == [("generate", "extractive")]
    assert "does not fit the schema" in answer.degraded[0].reason
    assert (used.prompt_tokens, after.prompt_tokens, len(generator.prompts)) == (200, 400, 4)
    assert "data.deductible" in str(caught.value)
    assert "much" not in str(caught.value)
    assert caught.value.call_id == rag.recent()[-1].id


async def test_a_reply_that_was_cut_off_is_not_repaired() -> None:
    cut = Generation(GOOD[:-5], model="fake", finish_reason="length", complete=False)
    async with client(cut) as (rag, generator):
        with pytest.raises(ragcore.InvalidAnswer, match="raise max_tokens"):
            await rag.ask(QUESTION, tenant="m", schema=Plan, degrade=False)
    assert len(generator.prompts) == 1


async def test_a_model_that_fails_during_the_repair_degrades_or_raises() -> None:
    full = ragcore.Overloaded("full", dependency="fake")
    async with client(BAD, full, BAD, full) as (rag, _):
        answer = await rag.ask(QUESTION, tenant="m", schema=Plan)
        with pytest.raises(ragcore.Overloaded):
            await rag.ask(QUESTION, tenant="m", schema=Plan, degrade=False)
    assert (answer.data, [part.fallback for part in answer.degraded]) == (None, ["extractive"])


async def test_a_model_that_is_down_leaves_a_quotation_without_data() -> None:
    async with client(KeyError("gone")) as (rag, _):
        answer = await rag.ask(QUESTION, tenant="m", schema=Plan)
    assert (answer.data, answer.text) == (None, "Your deductible is $1,500 per year. [1]")
    assert answer.degraded


async def test_quotation_alone_has_no_data_and_says_so() -> None:
    async with fake_rag(generator=ExtractiveGenerator()) as rag:
        await rag.add([Document("plan", "Your deductible is $1,500 per year.")], tenant="m")
        answer = await rag.ask(QUESTION, tenant="m", schema=Plan)
        with pytest.raises(ragcore.Unsupported, match="needs a model"):
            await rag.ask(QUESTION, tenant="m", schema=Plan, degrade=False)
    assert (answer.data, answer.text) == (None, "Your deductible is $1,500 per year. [1]")
    assert "needs a model" in answer.degraded[0].reason


async def test_a_wrong_schema_raises_before_anything_is_sent(rag: RAG, fake_generator: FakeGenerator) -> None:
    with pytest.raises(ragcore.InvalidInput, match="recursive"):
        await rag.ask(QUESTION, tenant="m", schema={"$ref": "#"})
    with pytest.raises(ragcore.InvalidInput):
        async with rag.ask_many([QUESTION], tenant="m", schema={"$ref": "#"}):
            pass
    with pytest.raises(TypeError, match="unexpected keyword argument 'schema'"):
        rag.stream(QUESTION, tenant="m", schema=Plan)  # type: ignore[call-arg]  # the error is tested
    assert fake_generator.prompts == []


async def test_each_of_many_answers_has_its_data() -> None:
    async with client(GOOD, NOTHING, GOOD) as (rag, _):
        async with rag.ask_many([QUESTION] * 3, tenant="m", schema=Plan, concurrency=1) as answers:
            found = await answers.all()
    assert [asked.result().data for asked in found] == [Plan(deductible=1500), None, Plan(deductible=1500)]


async def test_placeholders_in_the_data_are_restored_and_a_rejected_reply_is_redacted_again() -> None:
    class Contact(BaseModel):
        mail: str

    class Echo(Replies):
        async def generate(self, prompt: Prompt, /) -> Generation:
            placeholder = "[EMAIL 1]"
            assert placeholder in prompt.passages[0].text
            self.replies = [reply({"mail": placeholder} if prompt.rejected else {}, f"Write to {placeholder} [1].")]
            return await super().generate(prompt)

    generator = Echo()
    settings = Settings(watchdog=False, redact=Redaction(reversible=True))
    async with fake_rag(generator=generator, settings=settings) as rag:
        await rag.add([Document("d", "Write an e-mail to ann@example.com")], tenant="m")
        answer = await rag.ask("Which e-mail?", tenant="m", schema=Contact)
    assert answer.data == Contact(mail="ann@example.com")
    assert "ann@" not in str(generator.prompts)


async def test_a_prompt_that_has_no_room_for_the_schema_is_refused() -> None:
    schema = {"type": "object", "properties": {f"name_{number}": {"type": "string"} for number in range(300)}}
    async with client(prompt_tokens=500) as (rag, generator):
        with pytest.raises(ragcore.InvalidInput, match="schema exceed"):
            await rag.ask(QUESTION, tenant="m", schema=schema)
    assert generator.prompts == []


async def test_a_call_that_is_cancelled_during_the_repair_leaves_nothing_behind() -> None:
    class Waits(Replies):
        async def generate(self, prompt: Prompt, /) -> Generation:
            if prompt.rejected is not None:
                self.prompts.append(prompt)
                await anyio.sleep_forever()
            return await super().generate(prompt)

    generator = Waits(BAD)
    async with fake_rag(generator=generator) as rag:
        await rag.add([Document("plan", "Your deductible is $1,500 per year.")], tenant="m")
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: rag.ask(QUESTION, tenant="m", schema=Plan))
            while len(generator.prompts) < 2:
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()
        assert (rag.inflight(), rag.recent()[-1].outcome) == ((), "cancelled")
        assert rag.used()[("m", "fake")].prompt_tokens == 100
