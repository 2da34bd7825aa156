"""Answers without a model: quotes the sentences that answer the question best, with citations."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import anyio.lowlevel

from ragcore.generation.streams import at_once
from ragcore.lifecycle.part import Part
from ragcore.text.words import content_words, sentences
from ragcore.types import Generation, Passage, Prompt

__all__ = ["ExtractiveGenerator", "excerpt"]

MODEL = "extractive"
ALTERNATIVES = re.compile(r"(?<!\w)(\w++),? or (?:an? |the )?(\w++)", re.IGNORECASE)
# A sentence answers if it covers at least half of the question's words, by weight.
ENOUGH = 0.5
# Words in a heading above a sentence, or in its document's title, count less than the sentence's own words.
CONTEXT_WEIGHT = 0.6
# A second sentence is quoted only if it is nearly as good as the first.
NEARLY = 0.85
MOST_QUOTES = 2
MOST_EXCERPT = 600
# Each rank down costs this much, so that of two equal sentences the one from the better passage is quoted.
RANK_PENALTY = 0.02
# If a word stands in the sentence and also in the heading above it, the sentence is about that word and does not only mention it.
ABOUT_BONUS = 0.3
# A short sentence with the words says more about them than a long one.
FOCUS_BONUS = 0.1
# If the question asks for a figure, a sentence with a figure is the likelier answer.
FIGURE_BONUS = 0.15
ASKS_FOR_A_FIGURE = (
    "how much",
    "how many",
    "what is my",
    "what's my",
    "what is the",
    "cost",
    "pay",
    "limit",
)


class ExtractiveGenerator(Part):
    """Quotes the one or two sentences of the passages that cover the question's words best, weighted by rarity.

    It invents nothing: if no sentence covers at least half of the question's words by weight, the text is "" and the answer is not found.
    It needs no `start`.

    Source: sentence selection by inverse document frequency (Spärck Jones, 1972).
    """

    model = MODEL
    in_any_task = True

    async def generate(self, prompt: Prompt, /) -> Generation:
        """Return the quotation; "" if no sentence answers."""
        await anyio.lowlevel.checkpoint()
        text, quotations = quoted(prompt.query or prompt.question, prompt.passages)
        for stop in prompt.stop:
            text = text.partition(stop)[0]
        return Generation(text, model=MODEL, quotations=quotations)

    def stream(self, prompt: Prompt, /) -> AbstractAsyncContextManager[AsyncIterator[str | Generation]]:
        """Stream the quotation in one piece."""
        return at_once(self.generate(prompt))


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    number: int
    position: int
    words: frozenset[str]
    context: frozenset[str]


def quote(question: str, passages: Sequence[Passage]) -> str:
    """Return the best sentences, each with its "[n]"; "" if none is good enough."""
    return quoted(question, passages)[0]


def quoted(question: str, passages: Sequence[Passage]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Return the text of `quote` and the span of each sentence in it. An "[n]" inside a span is part of the document, not a citation."""
    text, spans = "", []
    for sentence in _best(question, passages):
        start = len(text) + (1 if text else 0)
        text = f"{text} {sentence.text} [{sentence.number}]".lstrip()
        spans.append((start, start + len(sentence.text)))
    return text, tuple(spans)


def _best(question: str, passages: Sequence[Passage]) -> list[_Sentence]:
    candidates = [sentence for number, passage in enumerate(passages, start=1) for sentence in _split(number, passage)]
    wanted = _without_excluded_alternatives(question, candidates)
    if not wanted or not candidates:
        return []
    weights = _weights(wanted, candidates)
    figure = any(phrase in question.lower() for phrase in ASKS_FOR_A_FIGURE)

    def score(sentence: _Sentence) -> float:
        own = sum(weights[word] for word in wanted & sentence.words)
        around = sum(weights[word] for word in (wanted - sentence.words) & sentence.context)
        about = sum(weights[word] for word in wanted & sentence.words & sentence.context)
        focus = len(wanted & sentence.words) / len(sentence.words)
        covered = own + CONTEXT_WEIGHT * around + ABOUT_BONUS * about + FOCUS_BONUS * focus
        bonus = FIGURE_BONUS if figure and own and any(c.isdigit() for c in sentence.text) else 0.0
        return covered + bonus - RANK_PENALTY * (sentence.number - 1)

    def covered_words(sentence: _Sentence) -> set[str]:
        return wanted & (sentence.words | sentence.context)

    def covers(sentence: _Sentence) -> float:
        return sum(weights[word] for word in covered_words(sentence))

    ranked = sorted((s for s in candidates if covers(s) >= ENOUGH), key=lambda s: (-score(s), s.number, s.position))
    if not ranked:
        return []
    best, of_best = score(ranked[0]), covered_words(ranked[0])
    chosen: list[_Sentence] = []
    for sentence in ranked:
        if covered_words(sentence) < of_best:  # covers less of the question, for example a sentence about another plan
            continue
        if score(sentence) >= NEARLY * best and all(sentence.text != other.text for other in chosen):
            chosen.append(sentence)
        if len(chosen) == MOST_QUOTES:
            break
    return sorted(chosen, key=lambda s: (s.number, s.position))


def excerpt(passage: Passage) -> str:
    """Return the first sentences of a passage, up to 600 characters."""
    end = 0
    for _, stop in sentences(passage.text):
        if end and stop > MOST_EXCERPT:
            break
        end = stop
    return passage.text[: min(end, 2 * MOST_EXCERPT)]


def _without_excluded_alternatives(question: str, candidates: Sequence[_Sentence]) -> set[str]:
    """Return the question's words. If the passages contain only one word of "X or Y", leave out the other: the answer is the one that they contain."""
    wanted = set(content_words(question))
    known = frozenset().union(*(sentence.words | sentence.context for sentence in candidates))
    for match in ALTERNATIVES.finditer(question):
        pair = set(content_words(match[1])) | set(content_words(match[2]))
        if pair & known:
            wanted -= pair - known
    return wanted


def _split(number: int, passage: Passage) -> list[_Sentence]:
    """Split a passage into sentences. A heading is not a sentence: its words are context for the sentences below it.

    If the passage continues a section, the section's headings are context as well.
    """
    *above, last = str(passage.metadata.get("heading") or "").split(" › ")
    title = content_words(" ".join([passage.title, *above]))
    heading = content_words(last)
    split = []
    for position, (start, end) in enumerate(sentences(passage.text)):
        lines = [line for line in passage.text[start:end].splitlines() if line.strip()]
        while lines and lines[0].lstrip().startswith("#"):
            heading = content_words(lines.pop(0))
        text = " ".join(" ".join(lines).split()).lstrip("-*+• ")
        if text.startswith("|"):  # a table row
            text = text.strip("| ")
        words = content_words(text)
        if words:
            split.append(_Sentence(text, number, position, frozenset(words), frozenset(title + heading)))
    return split


def _weights(wanted: set[str], candidates: Sequence[_Sentence]) -> dict[str, float]:
    """Return each word's weight. Rare words weigh more, and words that no sentence contains weigh most. The weights sum to 1."""
    spread = Counter(word for sentence in candidates for word in wanted & (sentence.words | sentence.context))
    raw = {word: math.log(1 + len(candidates) / (0.5 + spread[word])) for word in wanted}
    total = sum(raw.values())
    return {word: weight / total for word, weight in raw.items()}
