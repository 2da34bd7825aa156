"""Joins units into chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ragcore.ingest.measure import Measure
from ragcore.ingest.units import Unit, is_pause
from ragcore.text.words import after_blanks, grapheme_ends, is_unspaced

__all__ = ["Packer", "path_of"]


class Packer:
    """Joins units, in order, up to the size of a chunk.

    Attributes:
        chunks: for each chunk its units, its text and the text that is embedded for it.
        tokens: number of tokens of all embedded texts.
    """

    tokens: int

    def __init__(self, text: str, measure: Measure) -> None:
        self.chunks: list[tuple[list[Unit], str, str]] = []
        self.tokens = 0
        self._text = text
        self._measure = measure
        self._current: list[Unit] = []
        self._headings: list[Unit] = []

    def add(self, unit: Unit) -> None:
        """Add the next unit."""
        # A chunk stays within one page, so that its citation names the right page.
        if self._current and unit.page != self._current[-1].page:
            self._end_chunk()
        if unit.is_heading:
            size = sum(one.tokens for one in self._headings) + unit.tokens
            if self._headings and (
                unit.page != self._headings[-1].page or size > self._measure.room(self._headings[0].path) // 2
            ):
                self._put(self._headings, begins_section=True)  # a long list, as in a table of contents
                self._headings = []
            self._headings.append(unit)
            return
        if self._headings and self._headings[-1].page != unit.page:
            self._put(self._headings, begins_section=True)
            self._end_chunk()
            self._headings = []
        fresh, self._headings = [*self._headings, unit], []
        self._put(fresh, begins_section=len(fresh) > 1)

    def flush(self) -> None:
        """End the text. Headings at the end of the text become part of the last chunk, if they fit."""
        for unit in self._headings:
            if self._current and (unit.page != self._current[-1].page or not self._fits([*self._current, unit])):
                self._end_chunk()
            self._current.append(unit)
        self._headings = []
        self._end_chunk()

    def _put(self, fresh: list[Unit], *, begins_section: bool) -> None:
        # A chunk holds one section: search finds a chunk with two sections less well, and its citation can name only one of them.
        if begins_section:
            self._end_chunk()
        if self._current and not self._fits([*self._current, *fresh]):
            overlap = [] if begins_section else self._overlap(fresh)
            self._end_chunk()
            self._current = overlap
        for unit in fresh:
            if self._current and not self._fits([*self._current, unit]):
                self._end_chunk()
            self._current.append(unit)

    def _end_chunk(self) -> None:
        """End the chunk. Count it again, because a chunk may have more tokens than the sum of its units. Units that don't fit go to the next chunk."""
        while self._current:
            taken = len(self._current)
            while taken > 1 and not self._fits_exactly(self._current[:taken]):
                taken -= 1
            first, self._current = self._current[:taken], self._current[taken:]
            fitting = [first] if taken > 1 or self._fits_exactly(first) else self._halved(first[0])
            for units in fitting:
                text = _joined(self._text, units)
                self.chunks.append((units, text, self._measure.text_to_embed(text, path_of(units))))
                self.tokens += self._measure.embedded(text, path_of(units))

    def _halved(self, unit: Unit) -> list[list[Unit]]:
        """Shorten a unit that is too long together with its title and headings: drop its header rows, or halve it."""
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

    def _fits(self, units: Sequence[Unit]) -> bool:
        """Return whether units fit into a chunk. Count their tokens exactly only if a rough upper bound does not fit."""
        room = self._measure.room(path_of(units))
        span = units[-1].end - units[0].start
        first = units[0]
        header = 0
        if first.header is not None and first.start >= first.header[1]:
            header = first.header[1] - first.header[0]
        rough = sum(unit.tokens for unit in units) + span - sum(unit.end - unit.start for unit in units) + header
        return rough <= room or self._fits_exactly(units)

    def _fits_exactly(self, units: Sequence[Unit]) -> bool:
        text = _joined(self._text, units)
        if len(text) > 32 * self._measure.chunk_tokens + 1_000 and len(units) > 1:
            return False  # the text is mostly white space
        return self._measure.embedded(text, path_of(units)) <= self._measure.chunk_tokens

    def _overlap(self, fresh: Sequence[Unit]) -> list[Unit]:
        room = min(
            self._measure.overlap_tokens,
            self._measure.room(fresh[0].path) - sum(unit.tokens for unit in fresh) - len(fresh),
        )
        overlap: list[Unit] = []
        left = room
        for unit in reversed(self._current[1:]):  # the overlap is never the whole chunk
            left -= unit.tokens
            if left < 0 or unit.is_heading or not unit.may_overlap:
                break
            overlap.insert(0, unit)
        last = self._current[-1]
        if overlap or not last.may_overlap or last.is_heading or room < 1:
            return overlap
        if fresh[0].continues or is_unspaced(self._text[last.start : last.end]):
            return self._tail(last, room)
        return []

    def _tail(self, unit: Unit, room: int) -> list[Unit]:
        """Return the end of a unit, at most `room` tokens long."""
        text = self._text[unit.start : unit.end]
        ends = grapheme_ends(text, 0, len(text))
        low, high = 0, len(ends) - 1  # search for the first index of `ends` whose text fits
        while low < high:
            middle = (low + high) // 2
            if self._measure.count(text[ends[middle] :]) <= room:
                high = middle
            else:
                low = middle + 1
        if low >= len(ends) - 1:
            return []
        half = len(ends) - (len(ends) - low) // 2
        at = next((end for end in ends[low:half] if is_pause(text, end)), ends[low])
        start = unit.start + after_blanks(text, at, len(text))
        tokens = self._measure.count(self._text[start : unit.end])
        return [replace(unit, start=start, tokens=tokens, continues=True)] if tokens <= room else []


def path_of(units: Sequence[Unit]) -> tuple[str, ...]:
    """Return the headings above a chunk. These are the headings above the first unit that is not a heading itself."""
    return next((unit.path for unit in units if not unit.is_heading), units[-1].path)


def _joined(text: str, units: Sequence[Unit]) -> str:
    """Return the text of a chunk."""
    first = units[0]
    piece = text[first.start : units[-1].end]
    if first.header is None or first.start < first.header[1]:
        return piece
    return f"{text[first.header[0] : first.header[1]]}\n{piece}"
