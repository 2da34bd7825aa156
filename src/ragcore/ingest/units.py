"""Splits a text into units: headings, sentences, rows, and pieces of those that are too long. Chunks consist of whole units."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ragcore.ingest.blocks import PAGE_BREAK, Block, Span, blocks
from ragcore.ingest.measure import Measure
from ragcore.text.words import after_blanks, grapheme_ends, is_unspaced, sentences

__all__ = ["Unit", "is_pause", "units"]

# A long sentence is cut after a blank or one of these characters.
PAUSES = ",;:，、；：،؛·…—"
# First guess for the length of a piece, in characters per token.
GUESS = 4
# A grapheme cluster with more characters may be cut, because no letter of any language has so many.
MOST_GRAPHEME = 64
# A block is a list of facts if at least this share of its lines are facts. Such a line is not cut if it fits into a chunk.
MOSTLY = 0.7
LINE = re.compile(r"[^\n]*\S[^\n]*")
FACT = re.compile(r"[^\s:.!?][^:.!?\n]{0,100}: ?\S|[^\s;:][^;:\n]{0,60}: [^;\n]*;")


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest part of a text: a heading, a sentence, a row, or a piece of one that is too long.

    Attributes:
        start, end: its position in the text, in characters.
        tokens: number of tokens of its text.
        page: number of its page, from 1.
        path: the headings above it, outermost first; a heading's path includes itself.
        header: position of the table's header rows, if it is a row of a table.
        continues: whether it continues the sentence of the unit before it.
        may_overlap: whether the next chunk may repeat it.
    """

    start: int
    end: int
    tokens: int
    page: int = 1
    path: tuple[str, ...] = ()
    is_heading: bool = False
    header: Span | None = None
    continues: bool = False
    may_overlap: bool = True


def units(text: str, measure: Measure) -> Iterator[Unit]:
    """Yield the units of a text, in order."""
    path: dict[int, str] = {}
    page, counted = 1, 0
    for block in blocks(text):
        page += text.count(PAGE_BREAK, counted, block.start)
        counted = block.start
        headings = tuple(path.values())
        room = measure.room(headings)
        if block.kind == "heading":
            tokens = measure.count(text[block.start : block.end])
            if tokens <= room // 2:
                path = {known: name for known, name in path.items() if known < block.level} | {block.level: block.title}
                yield Unit(block.start, block.end, tokens, page, tuple(path.values()), is_heading=True)
                continue
        for unit in _in_block(text, block, measure, room):
            yield replace(unit, page=page, path=headings)


def _in_block(text: str, block: Block, measure: Measure, room: int) -> Iterator[Unit]:
    if block.kind in ("table", "code"):
        whole = _whole(text, block.start, block.end, measure, room)
        if whole is not None:
            yield replace(whole, may_overlap=False)
            return
    if not block.rows:
        for start, end in _paragraphs(text, block.start, block.end):
            for first, last in sentences(text[start:end]):
                yield from _fitting(text, start + first, start + last, measure, room)
        return
    header = block.header
    header_tokens = measure.count(text[header[0] : header[1]]) + 1 if header else 0
    rows = list(block.rows)
    if header is not None and header_tokens > room // 2:
        rows, header, header_tokens = [header, *rows], None, 0  # too wide to be repeated
    if header is not None:  # the header stays with the first row
        begins = _whole(text, header[0], rows[0][1] if rows else header[1], measure, room)
        if begins is None:
            yield Unit(header[0], header[1], header_tokens, may_overlap=False)
        else:
            yield replace(begins, may_overlap=False)
            rows = rows[1:]
    for start, end in rows:
        for unit in _fitting(text, start, end, measure, room - header_tokens):
            yield replace(unit, header=header, may_overlap=block.kind == "code")


def _paragraphs(text: str, start: int, end: int) -> Iterator[Span]:
    """Yield a block of prose as one span; yield a list of facts, such as "fee: 12", line by line."""
    lines = list(LINE.finditer(text, start, end))
    if len(lines) < 2 or sum(FACT.match(text, line.start()) is not None for line in lines) < MOSTLY * len(lines):
        yield start, end
        return
    yield from (line.span() for line in lines)


def _whole(text: str, start: int, end: int, measure: Measure, room: int) -> Unit | None:
    """Return this text as one unit; None if it does not fit into a chunk."""
    if end - start > 32 * room:
        return None
    tokens = measure.count(text[start:end])
    return Unit(start, end, tokens) if tokens <= room else None


def _fitting(text: str, start: int, end: int, measure: Measure, room: int) -> Iterator[Unit]:
    """Yield a sentence as one unit, or in pieces if it is longer than a chunk. In a script without blanks, the overlap must fit as well."""
    short = max(1, room - measure.overlap_tokens)
    tokens = measure.count(text[start:end]) if end - start <= 32 * room else room + 1
    if tokens <= (short if is_unspaced(text[start:end]) else room):
        yield Unit(start, end, tokens)
        return
    at = start
    while at < end:
        stop = _end_of_piece(text, at, end, measure.count, short)
        piece_end = at + len(text[at:stop].rstrip())
        yield Unit(at, piece_end, measure.count(text[at:piece_end]), continues=at > start)
        at = after_blanks(text, stop, end)


def _end_of_piece(text: str, start: int, end: int, count: Callable[[str], int], most: int) -> int:
    """Return the end of the longest piece of at most `most` tokens. Cut after a blank or a pause in its second half, else after any character."""
    low, high = start, min(end, start + GUESS * most)
    while high < end and count(text[start:high]) <= most:
        low, high = high, min(end, high + 2 * (high - start))
    if count(text[start:high]) <= most:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if count(text[start:middle]) <= most:
            low = middle
        else:
            high = middle
    ends = [stop for stop in grapheme_ends(text, start, min(end, low + MOST_GRAPHEME)) if stop <= low]
    if not ends:  # the first grapheme cluster has too many tokens: it becomes a piece of its own, or is cut if it is longer than MOST_GRAPHEME
        return min(max(low, start + 1), end) if high - start > MOST_GRAPHEME else _first_grapheme(text, start, end)
    half = (start + low) // 2
    return next((stop for stop in reversed(ends) if stop > half and is_pause(text, stop)), ends[-1])


def _first_grapheme(text: str, start: int, end: int) -> int:
    return grapheme_ends(text, start, min(end, start + MOST_GRAPHEME))[0]


def is_pause(text: str, at: int) -> bool:
    """Return whether a sentence may be cut at this position: it is after a blank or a mark such as a comma."""
    return text[at - 1].isspace() or (text[at - 1] in PAUSES and not text[at : at + 1].isdigit())
