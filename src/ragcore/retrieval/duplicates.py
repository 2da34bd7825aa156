"""Leave out passages that repeat a better one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ragcore.text.words import content_words
from ragcore.types import Passage

__all__ = ["without_duplicates"]

# Further passages are kept without a comparison: comparing a thousand passages would block the event loop for a second.
MOST_COMPARED = 100


def without_duplicates(passages: Sequence[Passage], /) -> list[int]:
    """Return the positions of the passages that add something to the better ones before them.

    A passage is a near-duplicate if its words stand in the same order in a better passage, and one of the two titles contains the words of the other.
    Upper and lower case, punctuation, markup, white space and words such as "the" don't count. A different number, name or title counts: passages from
    the terms of two plans often differ in nothing else. A longer passage that contains a better, shorter one is kept, since it adds something.

    Only the best 100 passages are compared.

    Examples:
        >>> texts = ["The deductible is $500.", "**Deductible**: $500", "The deductible is $900."]
        >>> without_duplicates([Passage(text, "d", text) for text in texts])
        [0, 2]
    """
    kept: list[int] = []
    seen: list[_Words] = []
    for position, passage in enumerate(passages[:MOST_COMPARED]):
        words = _Words.of(passage)
        if not any(words.repeat(better) for better in seen):
            kept.append(position)
            seen.append(words)
    return [*kept, *range(MOST_COMPARED, len(passages))]


@dataclass(frozen=True, slots=True)
class _Words:
    text: str
    title: frozenset[str]

    @classmethod
    def of(cls, passage: Passage) -> _Words:
        # A text without words, such as a formula, is compared by its tokens between spaces.
        words = content_words(passage.text) or passage.text.split()
        return cls(f" {' '.join(words)} ", frozenset(content_words(passage.title)))

    def repeat(self, better: _Words) -> bool:
        """Whether a passage with these words adds nothing to the better one."""
        return self.text in better.text and (self.title <= better.title or better.title <= self.title)
