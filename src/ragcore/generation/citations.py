"""The "[n]" in an answer, checked against the passages."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ragcore.types import Citation, Passage

__all__ = ["find_citations"]

CITATION = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
NUMBER = re.compile(r"\d+")


def find_citations(text: str, passages: Sequence[Passage], /) -> tuple[Citation, ...]:
    """Citations in the order of the text, "[1, 2]" as two; a number that names no passage is not one.

    Args:
        text: the answer.
        passages: those that the model saw; "[n]" counts them from 1.
    """
    return tuple(
        Citation(int(number.group()), passages[int(number.group()) - 1], bracket.start(), bracket.end())
        for bracket in CITATION.finditer(text)
        for number in NUMBER.finditer(bracket.group())
        if 1 <= int(number.group()) <= len(passages)
    )
