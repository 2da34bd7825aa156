"""Rank chunks by the words of a question, with the formula of the statement `by_text.sql`.

Source: S. Robertson, H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with k1 = 1.2 and b = 0.75.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Ranked", "WordIndex", "rank"]

K1, B = 1.2, 0.75
# Further words of a question are ignored.
MOST_WORDS = 64


@dataclass(slots=True)
class WordIndex:
    """The words of some chunks.

    Attributes:
        postings: for each word, how often it occurs in the chunks that have it, by the chunk's number.
        different: number of different words of each chunk.
        lengths: length of each chunk's text in bytes.
    """

    postings: dict[str, dict[int, int]] = field(default_factory=dict)
    different: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def append(self, text: str, words: Mapping[str, int]) -> None:
        """Add a chunk. Its number is the count of the chunks before it."""
        number = len(self.lengths)
        for word, times in words.items():
            self.postings.setdefault(word, {})[number] = times
        self.different.append(len(words))
        self.lengths.append(len(text.encode()))


@dataclass(frozen=True, slots=True)
class Ranked:
    """A chunk that has words of the question: the position of its index in `indexes`, its number in that index, and its score."""

    index: int
    number: int
    score: float


def rank(
    words: Sequence[str],
    indexes: Sequence[WordIndex],
    *,
    chunks: int,
    allowed: Sequence[Collection[int]],
    chunk_ids: Sequence[Sequence[str]],
    most: int,
) -> list[Ranked]:
    """Return the chunks that have any of the words, best first; of equal scores, the smaller chunk id.

    Like the database, it first selects chunks by the weights of its postings, and ranks only these by BM25.

    Args:
        words: different words of the question.
        indexes: the words of each tenant that is searched.
        chunks: number of chunks of all tenants that are searched, without expired ones. A filter does not change it.
        allowed: numbers of the chunks of each index that may be found.
        chunk_ids: ids of the chunks of each index.
        most: largest number of chunks to rank.
    """
    idf: dict[str, float] = {}
    for word in words[:MOST_WORDS]:
        frequency = sum(len(index.postings.get(word, ())) for index in indexes)
        if frequency:
            idf[word] = math.log(1 + max(chunks - frequency, 0.5) / (frequency + 0.5))
    # The weight of a posting is rounded exactly as in the database, so that both select the same chunks.
    weights: dict[tuple[int, int], float] = {}
    for place, index in enumerate(indexes):
        for word, weight in idf.items():
            for number, times in index.postings.get(word, {}).items():
                if number in allowed[place]:
                    impact = round(2200 * times / (times + 0.3 + 0.009 * index.different[number]))
                    weights[place, number] = weights.get((place, number), 0.0) + weight * impact
    selected = sorted(weights, key=lambda key: (-round(weights[key]), chunk_ids[key[0]][key[1]]))[:most]
    lengths = [indexes[place].lengths[number] for place, number in selected]
    usual_length = max(sum(lengths) / max(len(lengths), 1), 1.0)
    ranked = []
    for (place, number), length in zip(selected, lengths, strict=True):
        postings = indexes[place].postings
        score = 0.0
        for word, weight in idf.items():
            times = postings.get(word, {}).get(number, 0)
            score += weight * times * (K1 + 1) / (times + K1 * (1 - B + B * length / usual_length))
        ranked.append(Ranked(place, number, score))
    return sorted(ranked, key=lambda one: (-one.score, chunk_ids[one.index][one.number]))
