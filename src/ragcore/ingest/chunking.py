"""A text cut into chunks along its own joints: headings, paragraphs, sentences, rows; measured in the embedder's own tokens.

A chunk is a contiguous piece of the text, `text[start:end]`, so that a citation points into the source. Where it begins within a table, the table's header rows
stand before it. A heading stays with what follows it. What follows within a section overlaps, so that a sentence's neighbours are found with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ragcore.ingest.blocks import PAGE_BREAK, Block, Span, blocks
from ragcore.store.embed_text import text_to_embed
from ragcore.text.words import after_blanks, grapheme_ends, is_unspaced, sentences
from ragcore.types import Chunk, Document, EmbedText

__all__ = ["Cut", "cut"]

# Where a long sentence is best cut: after a blank or one of these.
PAUSES = ",;:，、；：،؛·…—"
# Characters that the search for the end of a piece begins with, for each token.
GUESS = 4
# A cluster of more characters than this may be cut: it is no letter of any language.
MOST_GRAPHEME = 64
MOST_CHARACTERS = 12
# A block is a list of facts if so much of its lines are, and a line of it is not cut as long as it fits.
MOSTLY = 0.7
LINE = re.compile(r"[^\n]*\S[^\n]*")
FACT = re.compile(r"[^\s:.!?][^:.!?\n]{0,100}: ?\S|[^\s;:][^;:\n]{0,60}: [^;\n]*;")


@dataclass(frozen=True, slots=True)
class Cut:
    """A document in chunks.

    Attributes:
        chunks: in the order of the text.
        texts: what is embedded for each.
        tokens: of all texts together.
    """

    chunks: tuple[Chunk, ...]
    texts: tuple[str, ...]
    tokens: int


def cut(
    document: Document,
    *,
    count_tokens: Callable[[str], int],
    chunk_tokens: int,
    overlap_tokens: int,
    embed_text: EmbedText = "text",
) -> Cut:
    """Cut a document into chunks.

    Args:
        count_tokens: the embedder's.
        chunk_tokens: of what is embedded for a chunk, at most.
        overlap_tokens: of the section's last sentences, at most, that the next chunk of the same section begins with. In scripts without blanks, and where a
            sentence is longer than a chunk, the end of the last sentence.
        embed_text: what is embedded for a chunk. Default: its text.
    """
    measure = _Measure(document.title, count_tokens, chunk_tokens, overlap_tokens, embed_text)
    packer = _Packer(document.text, measure)
    for unit in _units(document.text, measure):
        packer.add(unit)
    packer.flush()
    has_pages = PAGE_BREAK in document.text
    chunks = []
    for number, (units, text, _) in enumerate(packer.chunks):
        metadata: dict[str, Any] = {}
        path = _path(units)
        if path:
            metadata["heading"] = " › ".join(path)
        if has_pages:
            metadata["page"] = units[-1].page
        start, end = units[0].start, units[-1].end
        chunks.append(Chunk(id=f"{document.id}#{number}", text=text, start=start, end=end, metadata=metadata))
    return Cut(tuple(chunks), tuple(embedded for _, _, embedded in packer.chunks), packer.tokens)


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is not cut any further: a heading, a sentence, a row, a piece of one that is too long.

    Attributes:
        tokens: of its own text.
        header: the header rows of the table that it is a row of.
        continues: whether it goes on with the sentence of the unit before it.
        may_overlap: whether its end may stand at the beginning of the next chunk.
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


class _Measure:
    """Counts tokens of what is embedded."""

    def __init__(
        self, title: str, count: Callable[[str], int], chunk_tokens: int, overlap_tokens: int, embed_text: EmbedText
    ) -> None:
        self._given_count = count
        self.chunk_tokens = chunk_tokens
        self.overlap_tokens = overlap_tokens
        self._title = title
        self._embed_text = embed_text
        self._lead: tuple[tuple[str, ...], int] | None = None
        self._counted: tuple[str, tuple[str, ...], int] = ("", (), -1)
        # Titles and headings are the same for many chunks.
        self._count_over = lru_cache(maxsize=64)(self.count)

    def count(self, text: str) -> int:
        """Count tokens; no fewer than a text of its length has. Tokenizers take a long run without blanks for one unknown word."""
        return max(self._given_count(text), len(text) // MOST_CHARACTERS)

    def embedded(self, text: str, path: tuple[str, ...]) -> int:
        """Count the tokens of all that is embedded for a chunk."""
        if (
            self._counted[:2] == (text, path) and self._counted[2] >= 0
        ):  # a chunk is counted when it is full, and again when it ends
            return self._counted[2]
        self._counted = text, path, self.count(self.text_to_embed(text, path))
        return self._counted[2]

    def text_to_embed(self, text: str, path: tuple[str, ...]) -> str:
        """Return what is embedded for a chunk."""
        return text_to_embed(
            text,
            title=self._title,
            heading=" › ".join(path),
            embed_text=self._embed_text,
            count_tokens=self._count_over,
            most=self.chunk_tokens,
        )

    def room(self, path: tuple[str, ...]) -> int:
        """Return how many tokens a chunk's text may have, beside the title and headings that are embedded with it."""
        if self._embed_text == "text":
            return self.chunk_tokens
        if self._lead is None or self._lead[0] != path:
            self._lead = path, self.embedded("x", path) + 1
        return max(self.chunk_tokens // 2, self.chunk_tokens - self._lead[1])


def _joined(text: str, units: Sequence[_Unit]) -> str:
    """The text of a chunk."""
    first = units[0]
    piece = text[first.start : units[-1].end]
    if first.header is None or first.start < first.header[1]:
        return piece
    return f"{text[first.header[0] : first.header[1]]}\n{piece}"


def _path(units: Sequence[_Unit]) -> tuple[str, ...]:
    """The headings over a chunk's text: of what stands under them, not of the first of several headings that follow each other."""
    return next((unit.path for unit in units if not unit.is_heading), units[-1].path)


class _Packer:
    """Puts units together, in order, up to the size of a chunk."""

    def __init__(self, text: str, measure: _Measure) -> None:
        # Units, the text of the chunk, and what is embedded for it.
        self.chunks: list[tuple[list[_Unit], str, str]] = []
        self.tokens = 0
        self._text = text
        self._measure = measure
        self._now: list[_Unit] = []
        self._headings: list[_Unit] = []

    def add(self, unit: _Unit) -> None:
        """Add the next unit."""
        # A chunk is of one page, so that its citation names the right one.
        if self._now and unit.page != self._now[-1].page:
            self._start()
        if unit.is_heading:
            size = sum(one.tokens for one in self._headings) + unit.tokens
            if self._headings and (
                unit.page != self._headings[-1].page or size > self._measure.room(self._headings[0].path) // 2
            ):
                self._put(self._headings, begins_section=True)  # headings without end, as in a table of contents
                self._headings = []
            self._headings.append(unit)
            return
        if self._headings and self._headings[-1].page != unit.page:
            self._put(self._headings, begins_section=True)
            self._start()
            self._headings = []
        fresh, self._headings = [*self._headings, unit], []
        self._put(fresh, begins_section=len(fresh) > 1)

    def flush(self) -> None:
        """End the text. A heading that nothing follows stays with what it follows."""
        for unit in self._headings:
            if self._now and (unit.page != self._now[-1].page or not self._fits([*self._now, unit])):
                self._start()
            self._now.append(unit)
        self._headings = []
        self._start()

    def _put(self, fresh: list[_Unit], *, begins_section: bool) -> None:
        if (
            begins_section
        ):  # each section has chunks of its own: two in one are found worse, and the citation would name one of them
            self._start()
        if self._now and not self._fits([*self._now, *fresh]):
            overlap = [] if begins_section else self._overlap(fresh)
            self._start()
            self._now = overlap
        for unit in fresh:
            if self._now and not self._fits([*self._now, unit]):
                self._start()
            self._now.append(unit)

    def _start(self) -> None:
        """End the chunk. Counted whole it may have more tokens than its parts together: what is too much goes to the next one."""
        while self._now:
            taken = len(self._now)
            while taken > 1 and not self._fits_exactly(self._now[:taken]):
                taken -= 1
            first, self._now = self._now[:taken], self._now[taken:]
            fitting = [first] if taken > 1 or self._fits_exactly(first) else self._halved(first[0])
            for units in fitting:
                text = _joined(self._text, units)
                self.chunks.append((units, text, self._measure.text_to_embed(text, _path(units))))
                self.tokens += self._measure.embedded(text, _path(units))

    def _halved(self, unit: _Unit) -> list[list[_Unit]]:
        """A unit that is too long with what is embedded beside it: without its header rows, or cut."""
        if unit.header is not None and unit.start >= unit.header[1]:
            unit = replace(unit, header=None)
        if self._fits_exactly([unit]):
            return [[unit]]
        ends = grapheme_ends(self._text, unit.start, unit.end)
        if len(ends) < 2:
            return [[unit]]
        middle = ends[len(ends) // 2 - 1]
        halves = (replace(unit, end=middle), replace(unit, start=middle, continues=True))
        return [piece for half in halves for piece in self._halved(half)]

    def _fits(self, units: Sequence[_Unit]) -> bool:
        """Whether units make a chunk: counted exactly only where their sum and the white space between them leave it open."""
        room = self._measure.room(_path(units))
        span = units[-1].end - units[0].start
        first = units[0]
        header = 0
        if first.header is not None and first.start >= first.header[1]:
            header = first.header[1] - first.header[0]
        rough = sum(unit.tokens for unit in units) + span - sum(unit.end - unit.start for unit in units) + header
        return rough <= room or self._fits_exactly(units)

    def _fits_exactly(self, units: Sequence[_Unit]) -> bool:
        text = _joined(self._text, units)
        if len(text) > 32 * self._measure.chunk_tokens + 1_000 and len(units) > 1:
            return False  # mostly white space
        return self._measure.embedded(text, _path(units)) <= self._measure.chunk_tokens

    def _overlap(self, fresh: Sequence[_Unit]) -> list[_Unit]:
        room = min(
            self._measure.overlap_tokens,
            self._measure.room(fresh[0].path) - sum(unit.tokens for unit in fresh) - len(fresh),
        )
        overlap: list[_Unit] = []
        left = room
        for unit in reversed(self._now[1:]):  # never the whole of it
            left -= unit.tokens
            if left < 0 or unit.is_heading or not unit.may_overlap:
                break
            overlap.insert(0, unit)
        last = self._now[-1]
        if overlap or not last.may_overlap or last.is_heading or room < 1:
            return overlap
        if fresh[0].continues or is_unspaced(self._text[last.start : last.end]):
            return self._tail(last, room)
        return []

    def _tail(self, unit: _Unit, room: int) -> list[_Unit]:
        """The end of a unit, of at most so many tokens."""
        text = self._text[unit.start : unit.end]
        ends = grapheme_ends(text, 0, len(text))
        low, high = 0, len(ends) - 1  # the first that fits, as an index of `ends`
        while low < high:
            middle = (low + high) // 2
            if self._measure.count(text[ends[middle] :]) <= room:
                high = middle
            else:
                low = middle + 1
        if low >= len(ends) - 1:
            return []
        half = len(ends) - (len(ends) - low) // 2
        at = next((end for end in ends[low:half] if _is_pause(text, end)), ends[low])
        start = unit.start + after_blanks(text, at, len(text))
        tokens = self._measure.count(self._text[start : unit.end])
        return [replace(unit, start=start, tokens=tokens, continues=True)] if tokens <= room else []


def _units(text: str, measure: _Measure) -> Iterator[_Unit]:
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
                yield _Unit(block.start, block.end, tokens, page, tuple(path.values()), is_heading=True)
                continue
        for unit in _in_block(text, block, measure, room):
            yield replace(unit, page=page, path=headings)


def _in_block(text: str, block: Block, measure: _Measure, room: int) -> Iterator[_Unit]:
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
    if header is not None:  # it stays with the first row
        begins = _whole(text, header[0], rows[0][1] if rows else header[1], measure, room)
        if begins is None:
            yield _Unit(header[0], header[1], header_tokens, may_overlap=False)
        else:
            yield replace(begins, may_overlap=False)
            rows = rows[1:]
    for start, end in rows:
        for unit in _fitting(text, start, end, measure, room - header_tokens):
            yield replace(unit, header=header, may_overlap=block.kind == "code")


def _paragraphs(text: str, start: int, end: int) -> Iterator[Span]:
    """A block of prose as it is; a list of facts, such as "fee: 12", line by line."""
    lines = list(LINE.finditer(text, start, end))
    if len(lines) < 2 or sum(FACT.match(text, line.start()) is not None for line in lines) < MOSTLY * len(lines):
        yield start, end
        return
    yield from (line.span() for line in lines)


def _whole(text: str, start: int, end: int, measure: _Measure, room: int) -> _Unit | None:
    """A unit of this text if it fits into a chunk."""
    if end - start > 32 * room:
        return None
    tokens = measure.count(text[start:end])
    return _Unit(start, end, tokens) if tokens <= room else None


def _fitting(text: str, start: int, end: int, measure: _Measure, room: int) -> Iterator[_Unit]:
    """A sentence as it is, or in pieces if it is longer than a chunk; without blanks, also if it leaves no room for an overlap."""
    short = max(1, room - measure.overlap_tokens)
    tokens = measure.count(text[start:end]) if end - start <= 32 * room else room + 1
    if tokens <= (short if is_unspaced(text[start:end]) else room):
        yield _Unit(start, end, tokens)
        return
    at = start
    while at < end:
        stop = _end_of_piece(text, at, end, measure.count, short)
        piece_end = at + len(text[at:stop].rstrip())
        yield _Unit(at, piece_end, measure.count(text[at:piece_end]), continues=at > start)
        at = after_blanks(text, stop, end)


def _end_of_piece(text: str, start: int, end: int, count: Callable[[str], int], most: int) -> int:
    """Where the longest piece of at most so many tokens ends: after a blank or a pause in its second half, else after any character."""
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
    if not ends:  # one character is too long: it goes in alone, or is cut where it is none
        return min(max(low, start + 1), end) if high - start > MOST_GRAPHEME else _first_grapheme(text, start, end)
    half = (start + low) // 2
    return next((stop for stop in reversed(ends) if stop > half and _is_pause(text, stop)), ends[-1])


def _first_grapheme(text: str, start: int, end: int) -> int:
    return grapheme_ends(text, start, min(end, start + MOST_GRAPHEME))[0]


def _is_pause(text: str, at: int) -> bool:
    return text[at - 1].isspace() or (text[at - 1] in PAUSES and not text[at : at + 1].isdigit())
