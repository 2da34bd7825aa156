"""Widen passages by the chunks before and after them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from ragcore.types import Passage

__all__ = ["merged"]


def merged(passages: Sequence[Passage], around: Sequence[Sequence[Passage]], /) -> list[Passage]:
    """Return the passages, best first, each with the text of the chunks around it. Passages with common chunks become one, at the place of the best of them.

    A passage keeps the id, the scores and the metadata of the chunk that was found. Its `text`, `start` and `end` include the other chunks.

    Args:
        passages: passages of a search, best first.
        around: for each passage, consecutive chunks of its document, itself included, in the order of the text. Empty: the passage stays as it is.
    """
    runs: list[tuple[Passage, list[Passage]]] = []
    for passage, chunks in zip(passages, around, strict=True):
        best, run = passage, list(chunks) or [passage]
        place = len(runs)
        # Several earlier runs may overlap with this one, at its beginning and at its end.
        for number in reversed(range(len(runs))):
            joined = _joined(runs[number][1], run)
            if joined is not None:
                best, run, place = runs[number][0], joined, number
                del runs[number]
        runs.insert(place, (best, run))
    return [_as_one(best, run) for best, run in runs]


def _joined(one: list[Passage], other: list[Passage]) -> list[Passage] | None:
    """Return the union of two runs of consecutive chunks; None if they have no chunk in common."""
    if (one[0].document_id, one[0].shared) != (other[0].document_id, other[0].shared):
        return None
    for first, second in ((one, other), (other, one)):
        for place, chunk in enumerate(first):
            if chunk.chunk_id == second[0].chunk_id:
                return first[:place] + second if place + len(second) > len(first) else list(first)
    return None


def _as_one(best: Passage, run: Sequence[Passage]) -> Passage:
    if len(run) == 1:
        return best
    text = run[0].text
    for before, after in itertools.pairwise(run):
        text = _continued(text, before, after)
    return replace(best, text=text, start=run[0].start, end=run[-1].end)


def _continued(text: str, before: Passage, after: Passage) -> str:
    """Append the text of the next chunk, without the part that both chunks have."""
    if before.end is None or after.start is None:
        return f"{text}\n\n{after.text}"
    overlap = before.end - after.start
    if overlap > 0 and text.endswith(after.text[:overlap]):
        return text + after.text[overlap:]
    # Chunks begin and end without white space. One character between two chunks is a blank or a line break; several characters are the end of a paragraph. A
    # chunk that repeats the header of its table does not continue the text before it, so it begins a paragraph as well.
    return f"{text}\n{after.text}" if overlap in (0, -1) else f"{text}\n\n{after.text}"
