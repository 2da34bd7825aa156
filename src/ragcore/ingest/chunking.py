"""A text cut into chunks along its own joints: headings, paragraphs, sentences; measured in the embedder's own tokens.

A chunk is a contiguous piece of the text, `text[start:end]`, so that a citation points into the source. A heading stays with what follows it;
what follows within a section overlaps, so that a sentence's neighbours are found with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ragcore.types import Chunk, Document
from ragcore.words import sentences

__all__ = ["cut"]

HEADING = re.compile(r"(#{1,6})[ \t]+(\S.*)")
FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")
PAGE_BREAK = "\f"  # what the PDF reader puts between pages
WORDS = re.compile(r"\S+\s*")
# A section gets a chunk of its own unless the one before it is smaller than this share.
SMALL = 0.25


def cut(
    document: Document, *, count_tokens: Callable[[str], int], chunk_tokens: int, overlap_tokens: int
) -> tuple[tuple[Chunk, ...], int]:
    """A document's chunks in the order of its text, and their tokens altogether.

    Args:
        count_tokens: the embedder's.
        chunk_tokens: of a chunk at most; a single word that has more is cut between characters.
        overlap_tokens: of the section's last sentences, at most, that the next chunk of the same section begins with.
    """
    packer = _Packer(chunk_tokens, overlap_tokens)
    for unit in _units(document.text, count_tokens, chunk_tokens):
        packer.add(unit)
    packer.flush()
    has_pages = PAGE_BREAK in document.text
    chunks = tuple(_chunk(document, number, units, has_pages) for number, units in enumerate(packer.chunks))
    return chunks, sum(unit.tokens for units in packer.chunks for unit in units)


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is not cut any further: a heading, a sentence, a piece of one that is too long."""

    start: int
    end: int
    tokens: int
    page: int = 1
    heading: str | None = None
    path: tuple[str, ...] = ()


@dataclass(slots=True)
class _Packer:
    """Puts units together, in order, up to the size of a chunk."""

    chunk_tokens: int
    overlap_tokens: int
    chunks: list[list[_Unit]] = field(default_factory=list)
    _now: list[_Unit] = field(default_factory=list)
    _headings: list[_Unit] = field(default_factory=list)

    def add(self, unit: _Unit) -> None:
        if (
            self._now and unit.page != self._now[-1].page
        ):  # so that a chunk is of one page, and its citation names the right one
            self._start()
        if unit.heading is not None:
            if self._headings and sum(one.tokens for one in self._headings) + unit.tokens > self.chunk_tokens // 2:
                self._put(self._headings, begins_section=True)  # headings without end, as in a table of contents
                self._headings = []
            self._headings.append(unit)
            return
        fresh, self._headings = [*self._headings, unit], []
        self._put(fresh, begins_section=len(fresh) > 1)

    def _put(self, fresh: list[_Unit], *, begins_section: bool) -> None:
        size = sum(one.tokens for one in fresh)
        if begins_section and self._size() >= SMALL * self.chunk_tokens:
            self._start()
        if self._now and self._size() + size > self.chunk_tokens:
            overlap = [] if begins_section else self._overlap(size)
            self._start()
            self._now = overlap
        for unit in fresh:
            if self._now and self._size() + unit.tokens > self.chunk_tokens:
                self._start()
            self._now.append(unit)

    def flush(self) -> None:
        """The end of the text; a heading that nothing follows stays with what it follows."""
        for unit in self._headings:
            if self._now and (self._size() + unit.tokens > self.chunk_tokens or unit.page != self._now[-1].page):
                self._start()
            self._now.append(unit)
        self._start()

    def _start(self) -> None:
        if self._now:
            self.chunks.append(self._now)
        self._now = []

    def _size(self) -> int:
        return sum(unit.tokens for unit in self._now)

    def _overlap(self, size: int) -> list[_Unit]:
        room = min(self.overlap_tokens, self.chunk_tokens - size)
        overlap: list[_Unit] = []
        for unit in reversed(self._now[1:]):  # never the whole of it
            room -= unit.tokens
            if room < 0 or unit.heading is not None:
                break
            overlap.insert(0, unit)
        return overlap


def _chunk(document: Document, number: int, units: Sequence[_Unit], has_pages: bool) -> Chunk:
    start, end = units[0].start, units[-1].end
    metadata: dict[str, Any] = {}
    if units[0].path:
        metadata["heading"] = " › ".join(units[0].path)
    if has_pages:
        metadata["page"] = units[-1].page
    return Chunk(id=f"{document.id}#{number}", text=document.text[start:end], start=start, end=end, metadata=metadata)


def _units(text: str, count_tokens: Callable[[str], int], most: int) -> Iterator[_Unit]:
    path: dict[int, str] = {}
    page, counted = 1, 0
    for start, end, level in _blocks(text):
        page += text.count(PAGE_BREAK, counted, start)
        counted = start
        tokens = count_tokens(text[start:end]) if level else 0
        if level and tokens <= most // 2:
            title = text[start:end].lstrip("#").strip()
            path = {known: name for known, name in path.items() if known < level} | {level: title}
            yield _Unit(start, end, tokens, page, heading=title, path=tuple(path.values()))
            continue
        for first, last in sentences(text[start:end]):
            for begin, stop in _fitting(text, start + first, start + last, count_tokens, most):
                yield _Unit(begin, stop, count_tokens(text[begin:stop]), page, path=tuple(path.values()))


def _blocks(text: str) -> Iterator[tuple[int, int, int]]:
    """(start, end, heading level or 0) of headings and what lies between them; "#" in a fenced block is no heading."""
    position = begun = 0
    fence = ""
    for line in text.splitlines(keepends=True):
        mark = FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        heading = None if fence else HEADING.match(line)
        if heading:
            if begun < position:
                yield begun, position, 0
            yield position, position + len(line.rstrip()), len(heading[1])
            begun = position + len(line)
        position += len(line)
        if line.endswith(PAGE_BREAK) and begun < position:  # splitlines ends a line there
            yield begun, position, 0
            begun = position
    if begun < position:
        yield begun, position, 0


def _fitting(
    text: str, start: int, end: int, count_tokens: Callable[[str], int], most: int
) -> Iterator[tuple[int, int]]:
    """A sentence as it is, or, if it is longer than a chunk, cut between words, and a word between characters."""
    if len(text[start:end].encode()) <= most or count_tokens(text[start:end]) <= most:  # a token is a byte at least
        yield start, end
        return
    pieces = [(start + word.start(), start + word.end()) for word in WORDS.finditer(text[start:end])]
    if len(pieces) == 1:
        middle = (start + end) // 2
        pieces = [(start, middle), (middle, end)]
    half = len(pieces) // 2
    yield from _fitting(text, pieces[0][0], pieces[half - 1][1], count_tokens, most)
    yield from _fitting(text, pieces[half][0], pieces[-1][1], count_tokens, most)
