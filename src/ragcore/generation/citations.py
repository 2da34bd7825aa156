"""Finds the citations "[n]" in an answer and checks them against the passages."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice

from ragcore.types import Citation, Passage

__all__ = ["find_citations"]

CITATION = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
NUMBER = re.compile(r"\d+")
# An index in code, such as `rows[1]`, is not a citation.
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
# An "[n]" is quoted if this many characters before or after it, or half of them on both sides, also stand in the passage.
VERBATIM = 12
# Real answers have fewer citations. The limit bounds the work on an answer that was crafted to have many.
MOST_CITATIONS = 1_000


def find_citations(
    text: str, passages: Sequence[Passage], /, *, quotations: Sequence[tuple[int, int]] | None = None
) -> tuple[Citation, ...]:
    """Return the citations in the order of the text. "[1, 2]" gives two.

    A number without a passage is not a citation. An "[n]" that the answer quotes from a passage isn't one either.

    Args:
        text: the answer.
        passages: the passages that the model saw; "[n]" counts them from 1.
        quotations: (start, end) of each quotation. None: the answer is compared with the passages to find quotations. An "[n]" in a quotation may be the
            number of a footnote, or an attack that was written into a document, so it must not count as a citation.
    """
    brackets = list(islice(CITATION.finditer(text), MOST_CITATIONS))
    if not brackets:
        return ()
    code = [match.span() for match in CODE.finditer(text)]
    if quotations is None:
        plain = [_plain(passage.text) for passage in passages]
        own = [bracket for bracket in brackets if not _is_quoted(text, bracket, plain)]
    else:
        own = [bracket for bracket in brackets if not _within(bracket, quotations)]
    return tuple(
        Citation(int(number.group()), passages[int(number.group()) - 1], bracket.start(), bracket.end())
        for bracket in own
        if not _within(bracket, code)
        for number in NUMBER.finditer(bracket.group())
        if 1 <= int(number.group()) <= len(passages)
    )


def _within(bracket: re.Match[str], spans: Sequence[tuple[int, int]]) -> bool:
    """Whether the bracket lies in one of the spans. The spans are in order and do not overlap."""
    at = bisect_right(spans, (bracket.start(), len(bracket.string) + 1)) - 1
    return at >= 0 and spans[at][0] <= bracket.start() and bracket.end() <= spans[at][1]


def _is_quoted(text: str, bracket: re.Match[str], plain: Sequence[str]) -> bool:
    """Whether a passage contains the bracket between the same words."""
    number = _plain(bracket.group())
    before = _plain(text[max(0, bracket.start() - 4 * VERBATIM) : bracket.start()])[-VERBATIM:]
    after = _plain(text[bracket.end() : bracket.end() + 4 * VERBATIM])[:VERBATIM]
    half = VERBATIM // 2
    contexts = [before + number] if len(before) >= half else []
    if len(after) >= half:  # a quotation may begin just before the number
        contexts += [before[-half:] + number + after[:half]]
    if len(after) == VERBATIM:
        contexts += [number + after]
    return any(context in passage for context in contexts for passage in plain)


def _plain(text: str) -> str:
    """Return the text without the things that a model changes when it quotes: spaces, quotation marks, emphasis, and case."""
    return re.sub(r"[\s\"'“”‘’«»*_]+", "", text).lower()
