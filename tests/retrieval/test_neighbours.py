"""Merging a passage with the chunks around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import Passage
from ragcore.retrieval.neighbours import merged

WORDS = [f"word{n}" for n in range(60)]
TEXT = " ".join(WORDS)


def cut(size: int, overlap: int, document: str = "d") -> list[Passage]:
    """Cut the text into chunks of whole words, as a chunker does."""
    chunks: list[Passage] = []
    first = 0
    while first < len(WORDS):
        words = WORDS[first : first + size]
        start = TEXT.index(words[0] + " ") if first < len(WORDS) - 1 else TEXT.index(words[0])
        text = " ".join(words)
        chunks.append(Passage(f"{document}#{len(chunks)}", document, text, start=start, end=start + len(text)))
        if first + size >= len(WORDS):  # a further chunk would be a part of this one
            break
        first += size - overlap
    return chunks


@given(
    st.integers(2, 9),
    st.integers(0, 1),
    st.lists(st.integers(0, 100), min_size=1, max_size=6, unique=True),
    st.integers(0, 4),
)
def test_each_passage_is_a_part_of_the_document_and_no_chunk_appears_twice(
    size: int, overlap: int, wanted: list[int], distance: int
) -> None:
    chunks = cut(size, overlap)
    numbers = list(dict.fromkeys(number % len(chunks) for number in wanted))
    found = [chunks[number] for number in numbers]
    around = [chunks[max(0, number - distance) : number + distance + 1] for number in numbers]
    passages = merged(found, around)
    covered = []
    for passage in passages:
        assert passage.start is not None
        assert passage.text.split() == TEXT[passage.start : passage.end].split()
        covered += [
            chunk.chunk_id
            for chunk in chunks
            if passage.start <= (chunk.start or 0) and (chunk.end or 0) <= (passage.end or 0)
        ]
    assert set(covered) == {chunk.chunk_id for run in around for chunk in run}
    assert passages[0].chunk_id == found[0].chunk_id


def test_chunks_of_two_documents_stay_apart() -> None:
    one, other = cut(5, 0), cut(5, 0, "e")
    assert [passage.document_id for passage in merged([one[1], other[1]], [one[:3], other[:3]])] == ["d", "e"]


@pytest.mark.parametrize("end", [None, 40])
def test_chunks_without_a_position_or_with_a_repeated_header_become_paragraphs(end: int | None) -> None:
    first = Passage("d#0", "d", "| plan | price |\n| gold | 40 |", start=0, end=end)
    second = Passage("d#1", "d", "| plan | price |\n| silver | 30 |", start=30, end=60)
    (whole,) = merged([first], [[first, second]])
    assert whole.text == f"{first.text}\n\n{second.text}"


def test_a_passage_whose_chunk_is_gone_stays_as_it_is() -> None:
    passage = Passage("d#0", "d", "text", score=0.5)
    assert merged([passage], [[]]) == [passage]
