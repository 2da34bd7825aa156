"""Answers without a model: quotes the sentences that answer best, with citations."""

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
# A sentence answers if it has at least half of what the question is about, by weight.
ENOUGH = 0.5
# Words that stand in a heading above a sentence, or in its document's title, count, but less than the sentence's own.
CONTEXT_WEIGHT = 0.6
# A second sentence is quoted only if it is nearly as good as the first.
NEARLY = 0.85
MOST_QUOTES = 2
MOST_EXCERPT = 600
# Each rank down costs this much, so that of equal sentences the better passage's is quoted.
RANK_PENALTY = 0.02
# A word that stands in the sentence and above it as well: the sentence is about it, rather than mentions it.
ABOUT_BONUS = 0.3
# A short sentence that has the words says more about them than a long one.
FOCUS_BONUS = 0.1
# A sentence that names a figure is the likelier answer to a question for one.
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
    """Quotes the one or two sentences of the passages that have most of the question's words, weighted by their rarity.

    It invents nothing: when no sentence has at least half of the question's words by weight, the text is "" and the answer is not found.
    It needs no `start`.

    Source: sentence selection by inverse document frequency (Spärck Jones, 1972).
    """

    model = MODEL
    in_any_task = True

    async def generate(self, prompt: Prompt, /) -> Generation:
        """The quotation, or "" if nothing answers."""
        await anyio.lowlevel.checkpoint()
        text, quotations = quoted(prompt.question, prompt.passages)
        for stop in prompt.stop:
            text = text.partition(stop)[0]
        return Generation(text, model=MODEL, quotations=quotations)

    def stream(self, prompt: Prompt, /) -> AbstractAsyncContextManager[AsyncIterator[str | Generation]]:
        """The same in one piece."""
        return at_once(self.generate(prompt))


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    number: int
    position: int
    words: frozenset[str]
    context: frozenset[str]


def quote(question: str, passages: Sequence[Passage]) -> str:
    """The best sentences, each with its "[n]"; "" if none is good enough."""
    return quoted(question, passages)[0]


def quoted(question: str, passages: Sequence[Passage]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The same, and where in it the sentences stand: a "[n]" of their own is none of the answer's."""
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
        if covered_words(sentence) < of_best:  # about less of the question: of another plan, say
            continue
        if score(sentence) >= NEARLY * best and all(sentence.text != other.text for other in chosen):
            chosen.append(sentence)
        if len(chosen) == MOST_QUOTES:
            break
    return sorted(chosen, key=lambda s: (s.number, s.position))


def excerpt(passage: Passage) -> str:
    """The first sentences of a passage, up to 600 characters."""
    end = 0
    for _, stop in sentences(passage.text):
        if end and stop > MOST_EXCERPT:
            break
        end = stop
    return passage.text[: min(end, 2 * MOST_EXCERPT)]


def _without_excluded_alternatives(question: str, candidates: Sequence[_Sentence]) -> set[str]:
    """The question's words; of "X or Y" only those that the passages know, if they know one: the answer is that one."""
    wanted = set(content_words(question))
    known = frozenset().union(*(sentence.words | sentence.context for sentence in candidates))
    for match in ALTERNATIVES.finditer(question):
        pair = set(content_words(match[1])) | set(content_words(match[2]))
        if pair & known:
            wanted -= pair - known
    return wanted


def _split(number: int, passage: Passage) -> list[_Sentence]:
    """A passage's sentences; a heading is no sentence, its words are context for those below it. A passage that continues a section has its headings too."""
    *above, last = str(passage.metadata.get("heading") or "").split(" › ")
    title = content_words(" ".join([passage.title, *above]))
    heading = content_words(last)
    split = []
    for position, (start, end) in enumerate(sentences(passage.text)):
        lines = [line for line in passage.text[start:end].splitlines() if line.strip()]
        while lines and lines[0].lstrip().startswith("#"):
            heading = content_words(lines.pop(0))
        text = " ".join(" ".join(lines).split()).lstrip("-*+• ")
        if text.startswith("|"):  # a row of a table
            text = text.strip("| ")
        words = content_words(text)
        if words:
            split.append(_Sentence(text, number, position, frozenset(words), frozenset(title + heading)))
    return split


def _weights(wanted: set[str], candidates: Sequence[_Sentence]) -> dict[str, float]:
    """Each word's share of the question's meaning: rare words weigh more, words that stand nowhere most. They sum to 1."""
    spread = Counter(word for sentence in candidates for word in wanted & (sentence.words | sentence.context))
    raw = {word: math.log(1 + len(candidates) / (0.5 + spread[word])) for word in wanted}
    total = sum(raw.values())
    return {word: weight / total for word, weight in raw.items()}
