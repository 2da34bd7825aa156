"""Answers without a model: quotes the sentences that answer the question best, with citations."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal

import anyio.lowlevel

from ragcore.errors import ConfigurationError, DeadlineExceeded, RagcoreError
from ragcore.events import emit
from ragcore.generation.nearness import Near, Nearness
from ragcore.generation.streams import at_once
from ragcore.lifecycle.part import Part, Parts
from ragcore.protocols import Embedder
from ragcore.resilience.deadline import deadline, share
from ragcore.text.matching import Matches, Wanted, split_words
from ragcore.text.redaction import Redact
from ragcore.text.words import is_unspaced, sentences
from ragcore.types import Degradation, Generation, Passage, Prompt, Usage

__all__ = ["EMBED_SECONDS", "ExtractiveGenerator", "excerpt"]

MODEL = "extractive"
BY_WORDS = "words"
# Seconds for the embedder: half of the reserve that the client keeps for quotation, and at most half of the time that is left.
EMBED_SECONDS = 0.25
EMBED_SHARE = 0.5
# With less time than this, the embedder is not asked.
LEAST_EMBED_SECONDS = 0.02

# A sentence answers the question if its score is at least ENOUGH. The score is the mean of the score by words and the score by meaning. Without an
# embedder there is only the score by words. It is less reliable alone, so it must reach ENOUGH_BY_WORDS.
ENOUGH = 0.64
ENOUGH_BY_WORDS = 0.7
# A sentence that is this near to the question answers it even if they have no word in common, as in a paraphrase.
ENOUGH_BY_MEANING = 0.9
# Scripts without blanks are compared by pairs of characters. Pairs at the borders of words rarely match.
ENOUGH_OF_PAIRS = 0.75
# Words in a heading above a sentence, in its document's title or in the sentence before it count half.
CONTEXT_WEIGHT = 0.5
# The score by words rises by this much if all pairs of neighbouring words of the question are neighbours in the sentence as well.
PHRASE_WEIGHT = 0.2
# Raises the rank of a sentence below a heading with the question's words: such a sentence is about these words, and others may only mention them.
ABOUT_WEIGHT = 0.1
# A second sentence is quoted only if it is nearly as good as the first.
NEARLY = 0.85
MOST_QUOTES = 2
# Two sentences are near-duplicates if they have this share of their words in common, and all names, numbers and function words.
SAME = 0.9

# These limit the work for one answer: the characters of all passages (the best passages come first), the characters of a sentence, and the number of
# sentences that are embedded.
MOST_CHARACTERS = 32_000
MOST_OF_A_SENTENCE = 2_000
MOST_EMBEDDED = 64
MOST_EXCERPT = 600


class ExtractiveGenerator(Part):
    """Quotes the one or two sentences of the passages that answer the question best.

    It invents nothing: if no sentence answers well enough, the text is "" and the answer is not found. The score of a sentence is

    - by words: the share of the question's words that the sentence has, in any language, and
    - by meaning, if the passages were found by their embeddings: the mean of two cosines, that of question and sentence, and that of question and passage.
      Their scale is the same for all embedders (see `nearness`).

    If a sentence has both scores, its score is their mean. A sentence that is very near to the question answers it even if they have no word in common. If the
    embedder fails, is overloaded or takes too long, the words alone decide, and `Generation.degraded` says so.
    At most 32,000 characters of the passages are examined, beginning with the best passage.

    Args:
        embedder: the embedder of the documents. None: the client's embedder; outside of a client, words alone decide. False: words alone decide.
        redact: function that replaces parts of the texts before the embedder gets them; None: no redaction.
        embed_timeout: seconds for the embedder, at most half of the time that is left. None: 0.25 s; 5 s in a client without another generator.

    If you give an embedder, start the generator before the first call; otherwise words alone decide. A client starts its generators itself.

    Raises:
        ConfigurationError: `embed_timeout` is not positive.
    """

    model = MODEL
    in_any_task = True

    embedder: Embedder | Literal[False] | None
    embed_timeout: float | None

    def __init__(
        self,
        *,
        embedder: Embedder | Literal[False] | None = None,
        redact: Redact | None = None,
        embed_timeout: float | None = None,
    ) -> None:
        if embed_timeout is not None and not embed_timeout > 0:
            raise ConfigurationError(f"embed_timeout is {embed_timeout!r}: it must be a positive number of seconds")
        self.embedder = embedder
        self.redact = redact
        self.embed_timeout = embed_timeout
        self._nearness = Nearness(embedder, redact=redact) if embedder else None
        self._parts = Parts()

    async def generate(self, prompt: Prompt, /) -> Generation:
        """Return the quotation; "" if no sentence answers."""
        await anyio.lowlevel.checkpoint()
        question = prompt.query or prompt.question
        quoting = _Quoting(question, prompt.passages)
        near, tokens, degraded = await self._near(question, prompt.passages, quoting)
        text, quotations = quoting.quoted(near)
        for stop in prompt.stop:
            text = text.partition(stop)[0]
        return Generation(
            text,
            model=MODEL,
            quotations=tuple((start, min(end, len(text))) for start, end in quotations if start < len(text)),
            usage=Usage(embedding_tokens=tokens),
            degraded=degraded,
        )

    def stream(self, prompt: Prompt, /) -> AbstractAsyncContextManager[AsyncIterator[str | Generation]]:
        """Stream the quotation in one piece."""
        return at_once(self.generate(prompt))

    def clear(self, *, tenant: str | None = None) -> int:
        """Delete the cached vectors of a tenant's sentences (None: of all tenants) and return their number."""
        return 0 if self._nearness is None else self._nearness.clear(tenant=tenant)

    async def _near(
        self, question: str, passages: Sequence[Passage], quoting: _Quoting
    ) -> tuple[Near | None, int | None, tuple[Degradation, ...]]:
        """Return how near the sentences are to the question, the number of embedded tokens, and the reason if words alone decide."""
        texts = quoting.worth_embedding()
        # Only text search returns passages without a cosine: the call chose the mode "text", or the embedder is down.
        by_meaning = any(passage.score is not None for passage in passages)
        limit = share(EMBED_SHARE, most=self.embed_timeout or EMBED_SECONDS)
        possible = self._nearness is not None and self._nearness.is_open and limit >= LEAST_EMBED_SECONDS
        if self._nearness is None or not (possible and texts and by_meaning):
            return None, None, ()
        try:
            with deadline(limit):
                near, tokens = await self._nearness.near(question, texts)
                return near, tokens, ()
        except Exception as error:  # a user's embedder may raise any error, and the last resort must not fail
            reason = f"the embedder raised {type(error).__name__}"
            if isinstance(error, DeadlineExceeded):
                reason = f"the embedder did not embed the sentences within {limit:.2f} s"
            elif isinstance(error, RagcoreError):
                reason = str(error)
            emit("quotation.by_words", MODEL, error=type(error).__name__)
            return None, None, (Degradation("embed", reason, BY_WORDS, error=type(error).__name__),)

    async def _open(self) -> None:
        await self._parts.start(self._nearness)

    async def _close(self) -> None:
        await self._parts.aclose()


def quote(question: str, passages: Sequence[Passage]) -> str:
    """Return the best sentences by words alone, each with its "[n]"; "" if none is good enough."""
    return _Quoting(question, passages).quoted(None)[0]


def excerpt(passage: Passage) -> str:
    """Return the first sentences of a passage, up to 600 characters."""
    end = 0
    for _, stop in sentences(passage.text[: 4 * MOST_EXCERPT]):
        if end and stop > MOST_EXCERPT:
            break
        end = stop
    return passage.text[: min(end, 2 * MOST_EXCERPT)]


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A sentence of a passage.

    Attributes:
        number, position: the number of its passage, from 1, and its place in it.
        words: its words in their order.
        above: the words of the title and the headings above it.
        follows: whether it follows the sentence before it, in the same section of the same passage.
    """

    text: str
    number: int
    position: int
    words: tuple[str, ...]
    above: tuple[str, ...]
    follows: bool


@dataclass(frozen=True, slots=True)
class _Scored:
    """A sentence with its score by words, and the question's words in it and around it."""

    sentence: _Sentence
    by_words: float
    about: float
    found: frozenset[str]


class _Quoting:
    """The sentences of some passages, compared with a question."""

    def __init__(self, question: str, passages: Sequence[Passage]) -> None:
        found = list(_sentences(passages))
        self._passages = passages
        self._enough_by_words = ENOUGH_BY_WORDS * (ENOUGH_OF_PAIRS if is_unspaced(question) else 1.0)
        wanted = Wanted(question, around=(word for sentence in found for word in sentence.words))
        wanted.without(_excluded_alternatives(question, wanted, found))
        self._scored = [*_scored(found, wanted)] if wanted.weights else []
        best = sorted(range(len(self._scored)), key=lambda at: -self._scored[at].by_words)[:MOST_EMBEDDED]
        self._embedded = sorted(best)

    def worth_embedding(self) -> list[str]:
        """Return the texts of the sentences that may answer the question: the 64 with the best scores by words."""
        return [self._scored[at].sentence.text for at in self._embedded]

    def quoted(self, near: Near | None) -> tuple[str, tuple[tuple[int, int], ...]]:
        """Return the quoted sentences, each with its "[n]", and the span of each in the text. An "[n]" inside a span is part of the document."""
        text, spans = "", []
        for sentence in _best(self._answering(near)):
            start = len(text) + (1 if text else 0)
            text = f"{text} {sentence.text} [{sentence.number}]".lstrip()
            spans.append((start, start + len(sentence.text)))
        return text, tuple(spans)

    def _answering(self, near: Near | None) -> list[tuple[float, _Scored]]:
        """Return the sentences that answer, each with its score."""
        if near is None:
            return [(scored.by_words, scored) for scored in self._scored if scored.by_words >= self._enough_by_words]
        cosines = dict(zip(self._embedded, near.sentences, strict=True))
        nearest: dict[int, float] = {}
        for at, cosine in cosines.items():
            number = self._scored[at].sentence.number
            nearest[number] = max(nearest.get(number, 0.0), cosine)
        answering = []
        for at, cosine in cosines.items():
            scored = self._scored[at]
            of_passage = self._passages[scored.sentence.number - 1].score
            passage = nearest[scored.sentence.number] if of_passage is None else near.scale(of_passage)
            score = (scored.by_words + (cosine + passage) / 2) / 2
            if score >= ENOUGH or cosine >= ENOUGH_BY_MEANING:
                answering.append((score, scored))
        return answering


def _best(answering: Sequence[tuple[float, _Scored]]) -> list[_Sentence]:
    """Return the best sentence, and another one if it is nearly as good."""
    ranked = sorted(
        ((score + ABOUT_WEIGHT * scored.about, scored) for score, scored in answering),
        key=lambda one: (-one[0], one[1].sentence.number, one[1].sentence.position),
    )
    chosen: list[_Scored] = []
    for score, scored in ranked:
        if score < NEARLY * ranked[0][0] or len(chosen) == MOST_QUOTES:
            break
        # A sentence that contains fewer of the question's words may be about another thing, for example another plan.
        if scored.found < ranked[0][1].found or any(_same(scored.sentence, one.sentence) for one in chosen):
            continue
        chosen.append(scored)
    # The passage of the best sentence comes first; the sentences of one passage keep the order of its text.
    first = {one.sentence.number: at for at, one in reversed([*enumerate(chosen)])}
    return sorted((one.sentence for one in chosen), key=lambda one: (first[one.number], one.position))


def _scored(found: Sequence[_Sentence], wanted: Wanted) -> Iterator[_Scored]:
    """Yield each sentence with its score by words."""
    before = above = Matches({}, frozenset())
    previous: _Sentence | None = None
    for sentence in found:
        if previous is None or sentence.above is not previous.above:
            above = wanted.find(sentence.above)
        own = wanted.find(sentence.words)
        around = {**(before.words if sentence.follows else {}), **above.words}
        covered = wanted.coverage(own.words, around, around_weight=CONTEXT_WEIGHT)
        yield _Scored(
            sentence,
            min(1.0, covered + PHRASE_WEIGHT * wanted.phrases(own)),
            sum(wanted.weights[word] for word in own.words.keys() & above.words.keys()),
            frozenset(own.words.keys() | around.keys()),
        )
        before, previous = own, sentence


def _sentences(passages: Sequence[Passage]) -> Iterator[_Sentence]:
    """Yield the sentences of the passages. A heading is not a sentence: its words are context for the sentences below it.

    If a passage continues a section, the section's headings are context as well.
    """
    left = MOST_CHARACTERS
    for number, passage in enumerate(passages, start=1):
        text, left = passage.text[: max(0, left)], left - len(passage.text)
        *above, last = str(passage.metadata.get("heading") or "").split(" › ")
        title = split_words(" ".join([passage.title, *above])[:MOST_OF_A_SENTENCE])
        around = (*title, *split_words(last[:MOST_OF_A_SENTENCE]))
        follows = False
        for position, (start, end) in enumerate(sentences(text)):
            lines = [line for line in text[start:end].splitlines() if line.strip()]
            while lines and lines[0].lstrip().startswith("#"):
                around, follows = (*title, *split_words(lines.pop(0)[:MOST_OF_A_SENTENCE])), False
            sentence = " ".join(" ".join(lines).split()).lstrip("-*+• ")
            if sentence.startswith("|"):  # a table row
                sentence = sentence.strip("| ")
            if len(sentence) > MOST_OF_A_SENTENCE or not (words := tuple(split_words(sentence))):
                follows = False
                continue
            yield _Sentence(sentence, number, position, words, around, follows)
            follows = True


def _excluded_alternatives(question: str, wanted: Wanted, found: Sequence[_Sentence]) -> set[str]:
    """Return the words that are not the answer to a question about "X or Y": if the sentences contain only X, X is the answer, and Y is returned."""
    alternatives = re.findall(
        rf"(?<!\w)(\w++),? {wanted.language.alternative} (\w++)(?: (\w++))?", question, re.IGNORECASE
    )
    if not alternatives:
        return set()
    known = {word for sentence in found for word in wanted.find((*sentence.words, *sentence.above)).words}
    excluded: set[str] = set()
    for one, *others in alternatives:
        other = next((word for word in others if {*split_words(word)} & wanted.weights.keys()), "")  # not an article
        pair = {*split_words(one), *split_words(other)} & wanted.weights.keys()
        if pair & known:
            excluded |= pair - known
    return excluded


def _same(one: _Sentence, other: _Sentence) -> bool:
    """Whether two sentences differ only in case, signs and a few words, or one contains the other. Chunks that overlap have such sentences."""
    shorter, longer = sorted((one.words, other.words), key=len)
    if f" {' '.join(shorter)} " in f" {' '.join(longer)} ":
        return True
    mine, others = set(one.words), set(other.words)
    differing = mine ^ others
    short = any(len(word) <= 6 or not word.isalpha() for word in differing)  # perhaps "not", or a number
    return not short and len(mine & others) >= SAME * len(mine | others)
