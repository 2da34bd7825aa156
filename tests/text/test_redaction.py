"""Redaction: its patterns, and that redacted values never reach a model or an embedder."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ragcore
from ragcore import (
    Config,
    ConfigurationError,
    Document,
    Generation,
    Ingestor,
    MemoryStore,
    Redaction,
    Retriever,
    Settings,
)
from ragcore.explore import Labelled, thresholds
from ragcore.testing import FakeEmbedder
from ragcore.text.redacting import MOST_FLOWS, Redacting
from ragcore.text.redaction import KINDS, Redacted
from ragcore.types import Prompt

pytestmark = pytest.mark.anyio

TENANT = "ann"
ENV = {"DATABASE_URL": "postgresql://app@localhost/app", "OPENAI_API_KEY": "none"}
CANARIES = {
    "email": "ann.o'neil+plan@mail.example.co.uk",
    "ssn": "123-45-6789",
    "card": "4111 1111 1111 1111",
    "phone": "(415) 555-0134",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to ann@example.com.", "write to [EMAIL]."),
        ("<bob@bücher.de>", "<[EMAIL]>"),
        ("mailto:ann@example.com?subject=x", "mailto:[EMAIL]?subject=x"),
        ("123-45-6789", "[SSN]"),
        ("123 45 6789", "[SSN]"),
        ("123\u201145\u20116789", "[SSN]"),
        ("SSN: 123456789", "SSN: [SSN]"),
        ("my social security number is 123456789", "my social security number is [SSN]"),
        ("4111111111111111", "[CARD]"),
        ("4111-1111-1111-1111 12/27 123", "[CARD] 12/27 123"),
        ("12 4111\u00a01111\u00a01111\u00a01111", "12 [CARD]"),
        ("3782 822463 10005", "[CARD]"),
        ("4111 1111 1111\n1111", "[CARD]"),
        ("0000000 " * 9 + "4111111111111111", "0000000 " * 9 + "[CARD]"),
        ("123-45-6789\n4111 1111 1111 1111\n(415) 555-0134", "[SSN]\n[CARD]\n[PHONE]"),
        ("6011000990139424, 5555555555554444", "[CARD], [CARD]"),
        ("(415) 555-0134", "[PHONE]"),
        ("415.555.0134", "[PHONE]"),
        ("+1 415 555 0134.", "[PHONE]."),
        ("tel:+14155550134", "tel:[PHONE]"),
        ("1-800-555-0199", "[PHONE]"),
        ("+49 30 1234567", "[PHONE]"),
        ("00 49 30 1234567", "[PHONE]"),
    ],
)
def test_data_with_a_fixed_form_is_found(text: str, expected: str) -> None:
    assert Redaction()(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "From 2024-05-12 to 2025-05-11 you pay $1,250.00, or 20 % [1][2].",
        "000-12-3456, 666-12-3456, 912-12-3456 and 123-00-6789 are no social security numbers.",
        "4111 1111 1111 1112 has a wrong check digit.",
        "Procedure 99213, form 1095-A, 10.0.0.1, version 3.11.7, 1,000,000.50",
        "page 415 of 555, PLN-123-45-6789, @handle, a@b",
    ],
)
def test_similar_data_stays(text: str) -> None:
    assert Redaction()(text) == text


def test_only_the_given_kinds_are_redacted() -> None:
    text = ", ".join(CANARIES.values())
    for kind, canary in CANARIES.items():
        made = Redaction((kind,))(text)
        assert canary not in made
        assert all(other in made for name, other in CANARIES.items() if name != kind)


def test_user_patterns_come_first() -> None:
    redact = Redaction(patterns={"member": r"MBR-\d{3}-\d{2}-\d{4}"})
    assert redact("MBR-123-45-6789 123-45-6789") == "[MEMBER] [SSN]"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Redaction(("passport",)),
        lambda: Redaction("email"),  # type: ignore[arg-type]
        lambda: Redaction(patterns={"a]": "b"}),
        lambda: Redaction(patterns={"a": "("}),
        lambda: Redaction(patterns={"a": "b*"}),
        lambda: Settings(redact="email"),  # type: ignore[arg-type]
        lambda: Config.from_env({**ENV, "RAGCORE_REDACT": "email,passport"}),
    ],
)
def test_invalid_redactions_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match="redact"):
        make()


def test_the_environment_sets_the_redaction() -> None:
    assert Config.from_env(ENV).settings.redact is None
    for text, expected in [
        ("all", Redaction()),
        ("email, phone", Redaction(("email", "phone"))),
        ("reversible", Redaction(reversible=True)),
        ("ssn,reversible", Redaction(("ssn",), reversible=True)),
    ]:
        config = Config.from_env({**ENV, "RAGCORE_REDACT": text})
        assert config.settings.redact == expected
        assert ragcore.RAG.from_config(config).retriever.redact == expected


@given(
    st.lists(
        st.one_of(
            st.text(max_size=20), st.sampled_from(list(CANARIES.values())), st.sampled_from(["[PHONE 1]", "[", "[SSN"])
        ),
        max_size=8,
    )
)
def test_redacted_values_are_restored_in_the_answer(parts: list[str]) -> None:
    text = " ".join(parts)
    texts = Redacted(Redaction(reversible=True), [text])
    hidden = texts.redact(text)
    assert texts.restore(hidden) == (text or hidden)
    assert Redaction(reversible=True)(hidden) == hidden


@given(st.text(), st.data())
def test_pieces_are_held_back_no_longer_than_needed(noise: str, data: st.DataObject) -> None:
    texts = Redacted(Redaction(reversible=True), [])
    placeholder = texts.redact(CANARIES["phone"])
    text = noise + placeholder
    cut = data.draw(st.integers(0, len(text)))
    end = texts.held_back(text[:cut])
    assert placeholder.startswith(text[end:cut]) or end == cut
    assert texts.restore(text[:end]) + texts.restore(text[end:]) == texts.restore(text)


class Recording:
    """A generator that records its prompts and streams their text letter by letter."""

    model = "recording"

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []
        self.error: Exception | None = None

    async def generate(self, prompt: Prompt, /) -> Generation:
        self.prompts.append(prompt)
        return Generation(self._text(prompt), model=self.model)

    @asynccontextmanager
    async def stream(self, prompt: Prompt, /) -> AsyncIterator[AsyncIterator[str | Generation]]:
        self.prompts.append(prompt)

        async def pieces() -> AsyncIterator[str | Generation]:
            text = self._text(prompt)
            for letter in text:
                yield letter
            if self.error is not None:
                raise self.error
            yield Generation(text, model=self.model)

        made = pieces()
        try:
            yield made
        finally:
            await made.aclose()  # type: ignore[attr-defined]

    def _text(self, prompt: Prompt) -> str:
        return f"{prompt.passages[0].text} [1] {prompt.question} ["


DOCUMENT = Document(
    "plan",
    "Questions about the plan go to " + ", ".join(CANARIES.values()) + ".",
    title=f"Plan of {CANARIES['email']}",
    source=f"mailto:{CANARIES['email']}",
    metadata={"phone": CANARIES["phone"]},
)
QUESTION = f"Questions about the plan of {CANARIES['ssn']} and {CANARIES['card']}?"


@asynccontextmanager
async def client(redact: Any, *, of_its_own: bool = True) -> AsyncIterator[tuple[ragcore.RAG, FakeEmbedder, Recording]]:
    embedder, store, generator = FakeEmbedder(), MemoryStore(), Recording()
    retriever = Retriever(store=store, embedder=embedder)
    ingestor = Ingestor(embedder=embedder, store=store) if of_its_own else None
    rag = ragcore.RAG(
        retriever=retriever, generator=generator, ingestor=ingestor, settings=Settings(redact=redact, watchdog=False)
    )
    async with rag:
        report = await rag.add([DOCUMENT], tenant=TENANT)
        assert report.added == 1, report
        yield rag, embedder, generator


def function(text: str) -> str:
    for canary in CANARIES.values():
        text = text.replace(canary, "…")
    return text


@pytest.mark.parametrize(
    "redact", [Redaction(), Redaction(reversible=True), function], ids=["patterns", "reversible", "function"]
)
@pytest.mark.parametrize("of_its_own", [True, False])
@pytest.mark.parametrize("degrade", [True, False])
async def test_no_private_data_reaches_a_model_or_an_embedder(
    redact: Any, of_its_own: bool, degrade: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    history = [
        {"role": "user", "content": f"I am {CANARIES['email']}"},
        {"role": "assistant", "content": f"Call {CANARIES['phone']}"},
    ]
    async with client(redact, of_its_own=of_its_own) as (rag, embedder, generator):
        options: Any = {
            "tenant": TENANT,
            "history": history,
            "instructions": f"Say {CANARIES['email']}",
            "degrade": degrade,
        }
        answer = await rag.ask(QUESTION, **options)
        async with rag.stream(QUESTION, **options) as stream:
            deltas = [event.text async for event in stream if isinstance(event, ragcore.Delta)]
            streamed = await stream.answer()
        await rag.retrieve(QUESTION, tenant=TENANT)
        await rag.similarity(QUESTION, tenant=TENANT)
        await thresholds(rag.retriever, [Labelled(QUESTION, ["plan"], tenant=TENANT)] * 2)
        left = repr(embedder.calls) + repr(generator.prompts) + caplog.text + repr(rag.recent()) + repr(rag.stats())
        assert len(embedder.calls) == 6
        assert len(generator.prompts) == 2
    for canary in CANARIES.values():
        assert canary not in left
    # The caller gets the original values, because the store keeps the full texts.
    assert answer.retrieval.question == QUESTION
    assert answer.citations[0].passage.text == DOCUMENT.text
    assert "".join(deltas) == streamed.text == answer.text
    reversible = isinstance(redact, Redaction) and redact.reversible
    for canary in CANARIES.values():
        assert (canary in answer.text) is reversible


async def test_a_value_has_one_placeholder_that_no_document_contains() -> None:
    async with client(Redaction(reversible=True)) as (rag, _, generator):
        await rag.add([replace(DOCUMENT, text=DOCUMENT.text + " [SSN 1] stays.")], tenant=TENANT)
        answer = await rag.ask(QUESTION, tenant=TENANT)
    prompt = generator.prompts[-1]
    assert "[SSN 2] and [CARD 1]" in prompt.question
    assert "[SSN 2], [CARD 1], [PHONE 1]. [SSN 1] stays" in prompt.passages[0].text
    assert "[SSN 1] stays" in answer.text


async def test_text_before_a_failure_is_restored() -> None:
    async with client(Redaction(reversible=True)) as (rag, _, generator):
        generator.error = ragcore.GenerationError("it broke", dependency="recording", stage="generate")
        generator.error.partial_text = "call [PHONE 1]"
        with pytest.raises(ragcore.GenerationError) as caught:
            await rag.ask(QUESTION, tenant=TENANT, degrade=False)
    assert caught.value.partial_text == f"call {CANARIES['phone']}"


@pytest.mark.parametrize("degrade", [True, False])
async def test_text_before_a_failure_of_a_stream_is_restored(degrade: bool) -> None:
    async with client(Redaction(reversible=True)) as (rag, _, generator):
        generator.error = ragcore.GenerationError("it broke", dependency="recording", stage="generate")
        generator.error.partial_text = "call [PHONE 1]"
        async with rag.stream(QUESTION, tenant=TENANT, degrade=degrade) as stream:
            with pytest.raises(ragcore.GenerationError) as caught:
                await stream.answer()
    assert caught.value.partial_text == f"call {CANARIES['phone']}"


async def test_an_original_with_a_line_end_is_restored_in_a_structured_answer() -> None:
    class Replying(Recording):
        def _text(self, prompt: Prompt) -> str:
            return json.dumps({"answer": "It is [CARD 1] [1].", "data": {"card": "[CARD 1]"}})

    card = "4111 1111\n1111 1111"
    rag = ragcore.RAG(
        retriever=Retriever(store=MemoryStore(), embedder=FakeEmbedder()),
        generator=Replying(),
        settings=Settings(redact=Redaction(reversible=True), watchdog=False),
    )
    async with rag:
        await rag.add([Document("d", f"The card is {card}.")], tenant=TENANT)
        schema = {"type": "object", "properties": {"card": {"type": "string"}}}
        answer = await rag.ask("What is the card?", tenant=TENANT, schema=schema, degrade=False)
    assert (answer.text, answer.data) == (f"It is {card} [1].", {"card": card})


@pytest.mark.parametrize("reversible", [False, True])
def test_patterns_that_match_overlapping_texts_leave_none_of_them(reversible: bool) -> None:
    text = "Name: M12 Ann Lee\nNext: M13"
    for patterns in ({"member": r"M\d+", "name": "Name: .*"}, {"name": "Name: .*", "member": r"M\d+"}):
        texts = Redacted(Redaction((), patterns=patterns, reversible=reversible), [text])
        hidden = texts.redact(text)
        assert not any(word in hidden for word in ("Ann", "Lee", "M12", "M13"))
        assert hidden.count("NAME") == 1
        if reversible:
            assert texts.restore(hidden) == text
    # The end of the first match is the beginning of the second.
    texts = Redacted(Redaction((), patterns={"a": "1b2", "b": ".c3"}, reversible=reversible), [])
    hidden = texts.redact("-1b2c3-")
    assert hidden == ("-[A 1][B 1]-" if reversible else "-[A][B]-")
    if reversible:
        assert texts.restore(hidden) == "-1b2c3-"


async def test_each_tenant_keeps_its_threads_for_redaction_up_to_the_limit() -> None:
    redacting = Redacting()
    tenants = [f"tenant {number}" for number in range(MOST_FLOWS)]
    threads = [redacting._of(tenant) for tenant in tenants]
    assert [redacting._of(tenant) for tenant in tenants] == threads
    redacting._of("another")
    assert len(redacting._threads) == MOST_FLOWS


def broken(text: str) -> str:
    raise ValueError(text)


@pytest.mark.parametrize("redact", [broken, lambda text: None], ids=["raises", "makes no text"])
async def test_if_redaction_fails_nothing_is_sent_and_the_error_quotes_nothing(redact: Any) -> None:
    embedder, generator = FakeEmbedder(), Recording()
    rag = ragcore.RAG(
        retriever=Retriever(store=MemoryStore(), embedder=embedder),
        generator=generator,
        settings=Settings(redact=redact, watchdog=False),
    )
    async with rag:
        for call in (rag.ask, rag.retrieve, rag.similarity):
            with pytest.raises(ConfigurationError, match="nothing was sent") as caught:
                await call(QUESTION, tenant=TENANT)
            assert CANARIES["ssn"] not in str(caught.value)
            assert caught.value.__cause__ is None
            assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert not embedder.calls
    assert not generator.prompts


async def test_a_function_that_leaves_nothing_sends_no_empty_text() -> None:
    async with client(lambda text: "") as (rag, embedder, _):
        await rag.ask(QUESTION, tenant=TENANT)
    assert {text for call in embedder.calls for text in call} == {"[REDACTED]"}


@pytest.mark.blocking_allowed
async def test_a_function_that_hangs_does_not_hang_an_ingest() -> None:
    go_on = threading.Event()
    embedder, store = FakeEmbedder(), MemoryStore()
    async with embedder, store:
        ingestor = Ingestor(embedder=embedder, store=store, redact=lambda text: str(go_on.wait(20)))
        try:
            with anyio.fail_after(5), pytest.raises(ragcore.DeadlineExceeded):
                await ingestor.add([DOCUMENT], tenant=TENANT, document_timeout=0.2)
        finally:
            go_on.set()


@pytest.mark.blocking_allowed
async def test_hung_redactions_of_a_tenant_do_not_block_other_tenants() -> None:
    go_on = threading.Event()
    async with client(lambda text: str(go_on.wait(20)) if "hang" in text else text) as (rag, _, _):
        await rag.add([DOCUMENT], tenant="honest")
        try:
            async with anyio.create_task_group() as group:
                for _ in range(30):
                    group.start_soon(partial(_asked, rag, "Will it hang?", timeout=0.5))
            with anyio.fail_after(3):
                assert (await rag.ask(QUESTION, tenant="honest")).retrieval.passages
        finally:
            go_on.set()


async def _asked(rag: ragcore.RAG, question: str, *, timeout: float) -> None:
    with suppress(ragcore.RagcoreError):
        await rag.ask(question, tenant=TENANT, timeout=timeout)


async def test_everything_that_a_generator_gets_is_redacted() -> None:
    email = CANARIES["email"]
    document = Document(
        f"doc {email}", "Questions about the plan.", metadata={"who": {email: [email, {"deep": email}]}, "n": 1}
    )
    for redact in (Redaction(), Redaction(reversible=True)):
        async with client(redact) as (rag, _, generator):
            await rag.add([document], tenant=TENANT)
            await rag.ask(
                f"Questions about the plan of {email}?",
                tenant=TENANT,
                stop=[email],
                history=[{"role": "user", "content": email}],
            )
            (prompt,) = generator.prompts
            assert email not in repr(prompt)
            assert prompt.stop[0].startswith("[EMAIL")


@pytest.mark.timeout(20)
def test_many_values_and_many_placeholders_stay_fast() -> None:
    marks = "".join(f"[PHONE {number}]" for number in range(1, 4_000))
    text = f"{marks} {' '.join(str(2125550100 + number) for number in range(4_000))}"
    texts = Redacted(Redaction(reversible=True), [text])
    hidden = texts.redact(text)
    assert "2125550100" not in hidden
    assert "[PHONE 4000]" in hidden
    assert texts.restore(hidden) == text


@pytest.mark.blocking_allowed
@pytest.mark.parametrize("at", ["question", "passage"])
async def test_a_function_that_hangs_blocks_only_its_own_call(at: str) -> None:
    go_on = threading.Event()

    def redact(text: str) -> str:
        if (at == "question" and "hang" in text) or (at == "passage" and text == DOCUMENT.text and armed.is_set()):
            go_on.wait(20)
        return text

    armed = threading.Event()
    async with client(redact) as (rag, embedder, generator):
        armed.set()
        try:
            with anyio.fail_after(15):
                if at == "passage":
                    # The reserve, in which the fallback answers, is a share of this.
                    answer = await rag.ask("Will it hang?", tenant=TENANT, timeout=2)
                    assert answer.degraded[0].fallback == "extractive"
                else:
                    for call in (rag.ask, rag.retrieve, rag.similarity):
                        with pytest.raises(ragcore.DeadlineExceeded):
                            await call("Will it hang?", tenant=TENANT, timeout=0.2)
                    assert "Will it hang?" not in str(embedder.calls)
                assert not generator.prompts
                armed.clear()
                await rag.ask(QUESTION, tenant=TENANT)
                assert generator.prompts
        finally:
            go_on.set()


def test_a_part_with_another_redaction_is_refused() -> None:
    retriever = Retriever(store=MemoryStore(), embedder=FakeEmbedder(), redact=Redaction(("email",)))
    with pytest.raises(ConfigurationError, match="differs from that of the settings"):
        ragcore.RAG(retriever=retriever, generator=Recording(), settings=Settings(redact=Redaction()))
    ragcore.RAG(retriever=retriever, generator=Recording(), settings=Settings(redact=Redaction(("email",))))


async def test_documents_are_embedded_again_after_a_change() -> None:
    embedder, store = FakeEmbedder(), MemoryStore()
    async with embedder, store:
        for redact, updated in [(None, 0), (Redaction(), 1), (Redaction(tuple(reversed(KINDS))), 0), (function, 1)]:
            report = await Ingestor(embedder=embedder, store=store, redact=redact).add([DOCUMENT], tenant=TENANT)
            assert report.updated == updated, redact
