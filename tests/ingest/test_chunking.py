"""Chunks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ragcore import Document, estimate_tokens
from ragcore.ingest.chunking import cut


def count(text: str) -> int:
    return len(text.split())


def chunks(text: str, *, tokens: int = 20, overlap: int = 5) -> list[str]:
    made, _ = cut(Document("d", text), count_tokens=count, chunk_tokens=tokens, overlap_tokens=overlap)
    return [chunk.text for chunk in made]


texts = st.lists(
    st.sampled_from(
        [
            "# Head\n",
            "## Sub\n",
            "One two three. ",
            "Four five! ",
            "\n\n",
            "- item\n",
            "word " * 30,
            "\f",
            "```\n# no head\n```\n",
            "x" * 90,
            " ",
        ]
    ),
    max_size=25,
).map("".join)


@settings(max_examples=300)
@given(texts, st.integers(8, 40), st.integers(0, 7))
def test_chunks_are_pieces_of_the_text_within_the_size_and_cover_all_of_it(
    text: str, tokens: int, overlap: int
) -> None:
    made, total = cut(
        Document("d", text or "x"), count_tokens=estimate_tokens, chunk_tokens=tokens, overlap_tokens=overlap
    )
    source = text or "x"
    covered = {position for chunk in made for position in range(chunk.start, chunk.end)}
    assert all(chunk.text == source[chunk.start : chunk.end] for chunk in made)
    assert all(source[position].isspace() for position in range(len(source)) if position not in covered)
    assert [chunk.start for chunk in made] == sorted(chunk.start for chunk in made)
    assert len({chunk.id for chunk in made}) == len(made)
    assert total >= 0


def test_a_heading_stays_with_what_follows_it() -> None:
    text = "# Plan\n\n" + "Filler words here. " * 5 + "\n\n## Deductible\n\nIt is $1,500 a year.\n"
    made = chunks(text, tokens=20)
    assert made[-1] == "## Deductible\n\nIt is $1,500 a year."
    assert all(not chunk.rstrip().endswith(("Plan", "Deductible")) for chunk in made)


def test_neighbours_in_a_section_overlap_by_whole_sentences() -> None:
    made = chunks(
        "Alpha one two three. Beta one two three. Gamma one two three. Delta one two three.", tokens=12, overlap=4
    )
    assert made[0].endswith("Gamma one two three.")
    assert made[1].startswith("Gamma one two three.")


def test_sections_do_not_overlap() -> None:
    made = chunks("# A\n\n" + "One two three. " * 6 + "\n# B\n\n" + "Four five six. " * 6, tokens=22, overlap=5)
    assert all(not ("One" in chunk and "Four" in chunk) for chunk in made)


def test_a_hash_in_a_code_block_is_no_heading() -> None:
    made, _ = cut(
        Document("d", "# Real\n\n```sh\n# comment\nls\n```\nAfter.\n"),
        count_tokens=count,
        chunk_tokens=50,
        overlap_tokens=0,
    )
    assert made[0].metadata == {"heading": "Real"}


def test_a_long_sentence_is_cut_between_words_and_a_long_word_between_characters() -> None:
    made, _ = cut(Document("d", "word " * 100), count_tokens=count, chunk_tokens=10, overlap_tokens=0)
    assert all(count(chunk.text) <= 10 for chunk in made)
    assert sum(count(chunk.text) for chunk in made) == 100
    long, _ = cut(Document("d", "x" * 1_000), count_tokens=estimate_tokens, chunk_tokens=20, overlap_tokens=0)
    assert "".join(chunk.text for chunk in long) == "x" * 1_000


def test_pages_are_counted_and_never_shared() -> None:
    made, _ = cut(
        Document("d", "First page.\fSecond page. More.\fThird."), count_tokens=count, chunk_tokens=50, overlap_tokens=0
    )
    assert [(chunk.text, chunk.metadata["page"]) for chunk in made] == [
        ("First page.", 1),
        ("Second page. More.", 2),
        ("Third.", 3),
    ]


def test_headings_without_end_are_cut_too() -> None:
    made = chunks("\n".join(f"## Heading number {n}" for n in range(500)), tokens=20)
    assert all(count(chunk) <= 24 for chunk in made)
    assert len(made) > 50
