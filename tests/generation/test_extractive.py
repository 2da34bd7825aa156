"""Quotation without a model: by words in several languages, by meaning with an embedder, and by words alone if the embedder fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anyio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.virtual_time import anyio_backend  # noqa: F401  # time is virtual: waiting for an embedder takes none

from ragcore import (
    RAG,
    CachedEmbedder,
    ConfigurationError,
    Document,
    ExtractiveGenerator,
    FallbackGenerator,
    MemoryStore,
    Overloaded,
    Passage,
    Prompt,
    Redaction,
    Retriever,
    Settings,
    events,
)
from ragcore.generation.citations import find_citations
from ragcore.generation.extractive import EMBED_SECONDS, MOST_EMBEDDED, excerpt, quote
from ragcore.generation.nearness import PAIRS
from ragcore.lifecycle.part import Part
from ragcore.protocols import Embedder, Vector
from ragcore.resilience import deadline
from ragcore.testing import Broken, Fail, FakeGenerator, cancel_everywhere
from ragcore.text.tokens import estimate_tokens
from ragcore.types import Degradation, Kind

TENANT = "m"
# The question and its answer have no word in common, and point in the same direction.
QUESTION = "How much must I spend myself?"
ANSWER = "Your deductible is $1,500 per year."
OTHER = "Parking is free."


class Meanings(Part):
    """An embedder that returns equal vectors for the pairs in `PAIRS`, and for QUESTION and ANSWER. Every other text has its own direction."""

    model = "meanings"
    dimension = 256
    max_tokens = 512
    count_tokens = staticmethod(estimate_tokens)

    def __init__(self, *, seconds: float = 0.0, error: Exception | None = None, of_kind: Kind = "document") -> None:
        self.known = {text: number for number, pair in enumerate(PAIRS) for text in pair}
        self.known |= dict.fromkeys((QUESTION, ANSWER), len(PAIRS))
        self.calls: list[tuple[Kind, tuple[str, ...]]] = []
        self.seconds, self.error, self.of_kind = seconds, error, of_kind
        self.armed = True

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
        """Return one-hot vectors of shape (len(texts), 256)."""
        await anyio.lowlevel.checkpoint()
        self.calls.append((kind, tuple(texts)))
        if kind == self.of_kind and self.armed:
            if self.error is not None:
                raise self.error
            await anyio.sleep(self.seconds)
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            vectors[row, self.known.setdefault(text, len(set(self.known.values())))] = 1
        return vectors


def passages(*texts: str, score: float | None = 0.9) -> tuple[Passage, ...]:
    return tuple(Passage(str(number), "d", text, score=score) for number, text in enumerate(texts))


def prompt(question: str = QUESTION, *texts: str, score: float | None = 0.9) -> Prompt:
    return Prompt(question, passages=passages(*(texts or (f"{OTHER} {ANSWER}",)), score=score))


@pytest.mark.parametrize(
    ("question", "text", "answer"),
    [
        (
            "What is my coinsurance percentage?",
            "Generic drugs cost $10. Then you pay 20 % coinsurance.",
            "Then you pay 20 % coinsurance.",
        ),
        ("Is it an HMO or a PPO?", "Your plan is a PPO. It has no deductible.", "Your plan is a PPO."),
        ("How long is the warranty?", "The warranty is 24 months. Parking is free.", "The warranty is 24 months."),
        (
            "Was kostet die Reparatur?",
            "Der Versand ist frei. Eine Reparatur kostet 40 Euro.",
            "Eine Reparatur kostet 40 Euro.",
        ),
        (
            "Wie hoch sind die Reparaturkosten?",
            "Der Versand ist frei. Eine Reparatur kostet 40 Euro.",
            "Eine Reparatur kostet 40 Euro.",
        ),
        (
            "Was kosten Reparaturen?",
            "Die Reparaturkosten betragen 40 Euro. Der Versand ist frei.",
            "Die Reparaturkosten betragen 40 Euro.",
        ),
        (
            "Ist es eine HMO oder eine PPO?",
            "Ihr Tarif ist eine PPO. Der Versand ist frei.",
            "Ihr Tarif ist eine PPO.",
        ),
        ("Combien coûte la livraison ?", "La livraison coûte 5 euros.", "La livraison coûte 5 euros."),
        ("¿Cuánto cuesta el envío?", "El envio cuesta 5 euros.", "El envio cuesta 5 euros."),
        ("Quanto costa la spedizione?", "La spedizione costa 5 euro.", "La spedizione costa 5 euro."),
        ("Hoeveel kost de verzending?", "De verzending kost 5 euro.", "De verzending kost 5 euro."),
        ("Quanto custa o envio?", "O envio custa 5 euros.", "O envio custa 5 euros."),
        ("Ile kosztuje dostawa?", "Dostawa kosztuje 5 euro.", "Dostawa kosztuje 5 euro."),
        ("Сколько стоит доставка?", "Доставка стоит 5 евро.", "Доставка стоит 5 евро."),
        ("保証期間は何年ですか？", "送料は無料です。保証期間は24か月です。", "保証期間は24か月です。"),
        ("保修期是多久？", "运费免费。保修期为24个月。", "保修期为24个月。"),
        ("보증 기간은 얼마입니까?", "배송은 무료입니다. 보증 기간은 24개월입니다.", "보증 기간은 24개월입니다."),
    ],
)
def test_by_words_a_sentence_is_found_in_any_language(question: str, text: str, answer: str) -> None:
    assert quote(question, passages(text)) == f"{answer} [1]"


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("What is the allowance for dental implants?", "Your deductible is $1,500. A visit costs $40."),
        ("Who was the first king of Norway?", "The first king of Sweden lived in Uppsala."),
        ("Was ist der Preis einer Batterie?", "Eine Reparatur kostet 40 Euro. Der Versand kostet 5 Euro."),
        ("What is the price?", "A visit to a specialist costs $40."),
        ("of the and", "of the and"),
    ],
)
def test_by_words_a_question_without_an_answer_is_not_answered(question: str, text: str) -> None:
    assert quote(question, passages(text)) == ""


def test_words_of_headings_and_of_the_sentence_before_count_half() -> None:
    # Without its heading, the sentence contains one of two words, which is not enough.
    assert quote("What does a battery cost?", passages("It costs $40.")) == ""
    assert quote("What does a battery cost?", passages("# Battery\n\nIt costs $40.")) == "It costs $40. [1]"
    assert quote("What does a battery cost?", passages("We sell the battery. It costs $40.")) == "It costs $40. [1]"
    assert quote("What does a battery cost?", passages("We sell the battery.\n\n# Chain\n\nIt costs $40.")) == ""


def test_of_equal_sentences_the_one_below_a_heading_with_the_question_s_words_is_quoted_first() -> None:
    found = passages("# Imaging\n\nAn MRI costs $20 after the deductible.", "# Deductible\n\nYour deductible is $500.")
    assert quote("What is my deductible?", found) == (
        "Your deductible is $500. [2] An MRI costs $20 after the deductible. [1]"
    )


@pytest.mark.parametrize(
    ("one", "other", "times"),
    [
        ("The warranty is 24 months.", "The WARRANTY is 24 months!", 1),
        ("The warranty is 24 months, in all countries.", "The warranty is 24 months", 1),
        ("The warranty is 24 months.", "The warranty is 36 months.", 2),
        ("The warranty is transferable.", "The warranty is not transferable.", 2),
    ],
)
def test_near_duplicates_are_quoted_once_but_not_sentences_with_other_facts(one: str, other: str, times: int) -> None:
    assert len(find_citations(quote("What about the warranty?", passages(one, other)), passages(one, other))) == times


def test_the_order_of_two_quotations_is_best_first_and_within_a_passage_that_of_the_text() -> None:
    text = "For a battery the warranty is 12 months. The warranty is 24 months."
    assert quote("What is the warranty?", passages(text)) == (
        "For a battery the warranty is 12 months. [1] The warranty is 24 months. [1]"
    )


ODD = st.text(alphabet=st.characters(exclude_categories=[]), max_size=80)


@given(ODD, st.lists(ODD, max_size=4), st.booleans())
def test_any_text_gives_valid_spans_and_never_an_error(question: str, texts: list[str], headed: bool) -> None:
    found = [
        replace(passage, title=question[:9], metadata={"heading": f"{text} › {question}"} if headed else {})
        for passage, text in zip(passages(*texts), texts, strict=True)
    ]

    async def ask() -> None:
        answer = await ExtractiveGenerator().generate(Prompt(question, passages=tuple(found), stop=("a",)))
        assert answer.quotations is not None
        end = 0
        for start, stop in answer.quotations:
            assert end <= start < stop <= len(answer.text)
            quoted, end = answer.text[start:stop], stop
            assert any("".join(quoted.split()) in "".join(text.split()) for text in texts)

    anyio.run(ask)


@given(st.integers(0, 3), st.text("ab 1%", max_size=20), st.integers(1, 3))
def test_a_sentence_is_found_by_its_own_words_wherever_it_stands(before: int, word: str, after: int) -> None:
    sentence = f"The xylophone {' '.join(word.split())} is tuned."
    text = "Parking is free. " * before + sentence + " Lunch is at noon." * after
    assert "xylophone" in quote("Which xylophone is tuned?", passages(text))


def test_the_work_is_bounded() -> None:
    # Only the first 32,000 characters are examined, and no sentence of more than 2,000 characters is quoted.
    late = "Parking is free. " * 2_000 + "The warranty is 24 months."
    assert quote("How long is the warranty?", passages(late)) == ""
    assert quote("How long is the warranty?", passages("free " * 500 + "the warranty is 24 months.")) == ""
    many = [f"Number {number} is free." for number in range(4_000)]
    assert quote("How long is the warranty?", passages(*many, "The warranty is 24 months.")) == ""
    assert quote("or " * 20_000, passages("or " * 1_000_000)) == ""


def test_an_excerpt_of_a_huge_passage_is_short() -> None:
    assert len(excerpt(Passage("c", "d", "word " * 500_000))) <= 1_200


@pytest.mark.anyio
async def test_by_meaning_a_paraphrase_is_found_and_the_sentences_are_cached_for_the_tenant() -> None:
    embedder = Meanings()
    assert quote(QUESTION, passages(f"{OTHER} {ANSWER}")) == ""  # they share no word
    async with embedder, ExtractiveGenerator(embedder=embedder) as generator:
        first = await generator.generate(prompt())
        again = await generator.generate(prompt())
    assert first.text == again.text == f"{ANSWER} [1]"
    # The embedder was measured once, and the sentences are cached.
    assert [len(texts) for kind, texts in embedder.calls if kind == "document"] == [len(PAIRS), 2]
    alone = estimate_tokens(QUESTION)
    sentences = estimate_tokens(f"{QUESTION}\n{OTHER}\n{ANSWER}")
    # This embedder keeps no vectors of questions; a `CachedEmbedder`, as in a client, does.
    assert [first.usage.embedding_tokens, again.usage.embedding_tokens] == [sentences, alone]
    assert first.degraded == ()


@pytest.mark.anyio
@pytest.mark.parametrize("floor", [0.0, 0.7])
async def test_the_scale_makes_embedders_with_other_cosines_agree(floor: float) -> None:
    class Shifted(Meanings):
        dimension = 257

        async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
            vectors = await super().embed(texts, kind=kind)
            vectors *= np.sqrt(1 - floor)
            vectors[:, -1] = np.sqrt(floor)
            return vectors

    embedder = Shifted()
    question = "Which deductible amount?"
    embedder.known[question] = embedder.known[ANSWER]
    async with embedder, ExtractiveGenerator(embedder=embedder) as generator:
        found = await generator.generate(prompt(question, f"{OTHER} {ANSWER}", score=floor + (1 - floor) * 0.9))
        unrelated = await generator.generate(prompt("Which deductible amount is it?", OTHER, score=floor))
    assert (found.text, unrelated.text) == (f"{ANSWER} [1]", "")


@pytest.mark.anyio
async def test_an_embedder_that_does_not_compare_meanings_is_asked_once_and_words_decide() -> None:
    class Constant(Meanings):
        async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
            await super().embed(texts, kind=kind)
            return np.ones((len(texts), self.dimension), np.float32)

    embedder = Constant()
    async with embedder, ExtractiveGenerator(embedder=embedder) as generator:
        for _ in range(2):
            answer = await generator.generate(prompt("How long is the warranty?", "The warranty is 24 months."))
            assert (answer.text, answer.degraded) == ("The warranty is 24 months. [1]", ())
    assert [len(texts) for _, texts in embedder.calls] == [len(PAIRS), len(PAIRS)]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["query", "document"])
@pytest.mark.parametrize("fault", ["hang", "error", "foreign", "nan"])
async def test_if_the_embedder_fails_or_is_late_words_decide_within_half_of_the_reserve(kind: Kind, fault: str) -> None:
    class Nonsense(Meanings):
        async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
            return np.full((len(texts), self.dimension), np.nan, np.float32)

    errors = {"error": Overloaded("full", dependency="embedder"), "foreign": ValueError("secret")}
    embedder: Meanings = (
        Nonsense()
        if fault == "nan"
        else Meanings(seconds=3_600 if fault == "hang" else 0, error=errors.get(fault), of_kind=kind)
    )
    heard: list[events.Event] = []
    stop = events.subscribe(heard.append)
    async with embedder, ExtractiveGenerator(embedder=embedder) as generator:
        began = anyio.current_time()
        answer = await generator.generate(prompt("How long is the warranty?", "The warranty is 24 months."))
        took = anyio.current_time() - began
    stop()
    assert answer.text == "The warranty is 24 months. [1]"
    assert took == pytest.approx(EMBED_SECONDS if fault == "hang" else 0.0, abs=1e-6)
    (degraded,) = answer.degraded
    assert (degraded.stage, degraded.fallback) == ("embed", "words")
    assert "secret" not in degraded.reason
    assert [event.name for event in heard if event.source == "extractive"] == ["quotation.by_words"]


@pytest.mark.anyio
async def test_the_embedder_gets_half_of_the_time_that_is_left_and_none_if_there_is_almost_none() -> None:
    embedder = Meanings(seconds=3_600)
    async with embedder, ExtractiveGenerator(embedder=embedder) as generator:
        for left, expected in ((0.2, 0.1), (0.03, 0.0)):
            began = anyio.current_time()
            with deadline(left):
                answer = await generator.generate(prompt("Warranty?", "The warranty is 24 months."))
            assert anyio.current_time() - began == pytest.approx(expected, abs=1e-6)
            assert answer.text


@pytest.mark.anyio
async def test_a_passage_found_by_text_alone_needs_no_embedder() -> None:
    embedder = Meanings()
    async with embedder, ExtractiveGenerator(embedder=embedder) as generator:
        answer = await generator.generate(prompt("Warranty?", "The warranty is 24 months.", score=None))
    assert answer.text
    assert (embedder.calls, answer.degraded, answer.usage.embedding_tokens) == ([], (), None)


@pytest.mark.anyio
async def test_a_generator_that_was_not_started_quotes_by_words() -> None:
    embedder = Meanings()
    answer = await ExtractiveGenerator(embedder=embedder).generate(prompt("Warranty?", "The warranty is 24 months."))
    assert (answer.text, embedder.calls) == ("The warranty is 24 months. [1]", [])


@pytest.mark.anyio
async def test_at_most_64_sentences_are_embedded_the_best_by_words() -> None:
    embedder = Meanings()
    texts = [" ".join(f"Fact {number} is free." for number in range(500)), "The warranty is 24 months."]
    async with embedder, ExtractiveGenerator(embedder=embedder) as generator:
        await generator.generate(prompt("How long is the warranty?", *texts))
    _, sent = [texts for kind, texts in embedder.calls if kind == "document"]
    assert len(sent) == MOST_EMBEDDED
    assert "The warranty is 24 months." in sent


@pytest.mark.anyio
async def test_it_may_be_cancelled_at_any_moment() -> None:
    embedder = Meanings()
    async with embedder, ExtractiveGenerator(embedder=embedder) as generator:
        await cancel_everywhere(lambda: generator.generate(prompt("Which deductible amount?")))


def test_an_invalid_time_limit_is_refused() -> None:
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(ConfigurationError, match="embed_timeout"):
            ExtractiveGenerator(embed_timeout=wrong)


def client(embedder: Embedder, generator: object = None, **settings: object) -> RAG:
    retriever = Retriever(store=MemoryStore(), embedder=embedder)
    chosen = ExtractiveGenerator() if generator is None else generator
    return RAG(retriever=retriever, generator=chosen, settings=Settings(watchdog=False, **settings))  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_a_client_gives_its_embedder_to_the_quotation_counts_the_tokens_and_erases_the_vectors() -> None:
    embedder = Meanings()
    question = "Which deductible amount?"
    embedder.known[question] = embedder.known[ANSWER]
    async with client(CachedEmbedder(embedder)) as rag:
        await rag.add([Document("plan", ANSWER)], tenant=TENANT)
        embedder.calls.clear()
        answers = [await rag.ask(question, tenant=TENANT) for _ in range(2)]
        assert [answer.text for answer in answers] == [f"{ANSWER} [1]"] * 2
        alone = estimate_tokens(question)
        # The question is counted by the search. Its vector is in the cache, so the quotation adds only the sentence, once.
        assert [answer.usage.embedding_tokens for answer in answers] == [alone + estimate_tokens(ANSWER), alone]
        assert rag.used()[TENANT, "meanings"].embedding_tokens == 2 * alone + estimate_tokens(ANSWER)
        erased = await rag.delete_tenant(tenant=TENANT)
        assert erased.cached_vectors == 2


@pytest.mark.anyio
async def test_false_as_the_embedder_means_words_alone_in_a_client_too() -> None:
    embedder = Meanings()
    async with client(embedder, ExtractiveGenerator(embedder=False)) as rag:
        await rag.add([Document("plan", ANSWER)], tenant=TENANT)
        embedder.calls.clear()
        assert not (await rag.ask("Which deductible amount?", tenant=TENANT)).found
        assert [kind for kind, _ in embedder.calls] == ["query"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "anyio_backend", ["asyncio"]
)  # documents are redacted on a thread, for which virtual time does not wait
async def test_only_redacted_texts_are_embedded_for_a_quotation() -> None:
    redact = Redaction((), patterns={"name": "Ann"})
    for generator in (None, failing()):
        embedder = Meanings()
        embedder.known |= dict.fromkeys(("What does [NAME] pay?", "[NAME] pays $40."), 200)
        async with client(embedder, generator, redact=redact) as rag:
            await rag.add([Document("plan", "Ann pays $40.")], tenant=TENANT)
            answer = await rag.ask("What does Ann pay?", tenant=TENANT)
            assert "pays $40." in answer.text
        assert any("[NAME] pays $40." in texts for _, texts in embedder.calls)
        assert not any("Ann" in text for _, texts in embedder.calls for text in texts)


@pytest.mark.anyio
async def test_as_the_last_resort_it_asks_the_embedder_within_half_of_the_reserve() -> None:
    embedder = Meanings(seconds=3_600)
    embedder.armed = False
    model = FakeGenerator()
    async with client(embedder, model) as rag:
        await rag.add([Document("plan", "The warranty is 24 months.")], tenant=TENANT)
        embedder.armed = True
        # The first model fails at once. The second one uses all of the time except the reserve of 0.5 s.
        for fault, seconds in ((Fail(503), 0.25), (Broken(after=1, how="idle"), 9.75)):
            model.faults.always(fault)
            began = anyio.current_time()
            answer = await rag.ask("How long is the warranty?", tenant=TENANT, timeout=10)
            assert anyio.current_time() - began == pytest.approx(seconds, abs=0.01)
            assert answer.text == "The warranty is 24 months. [1]"
            reason = "the embedder did not embed the sentences within 0.25 s"
            assert Degradation("embed", reason, "words", error="DeadlineExceeded") in answer.degraded


@pytest.mark.anyio
async def test_a_list_of_generators_keeps_its_options_when_its_quotation_gets_the_embedder() -> None:
    given = FallbackGenerator([FakeGenerator(), ExtractiveGenerator()], first_timeout=3.0, quote_when_overloaded=True)
    rag = client(Meanings(), given)
    answering = rag._generators.answering
    assert (answering.first_timeout, answering.quote_when_overloaded) == (3.0, True)
    assert [type(one) for one in answering.generators] == [FakeGenerator, ExtractiveGenerator]
    assert answering.generators[0] is given.generators[0]
    quoting = answering.generators[1]
    assert isinstance(quoting, ExtractiveGenerator)
    assert quoting.embedder is rag.retriever.embedder
    assert quoting.embed_timeout is None


def failing() -> FakeGenerator:
    model = FakeGenerator()
    model.faults.always(Fail(503))
    return model
