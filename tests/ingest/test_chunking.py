"""Chunks."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st
from tests.examples import examples

from ragcore import Chunk, Document, estimate_tokens
from ragcore.ingest.chunking import cut
from ragcore.store.embed_text import EMBED_TEXTS, text_to_embed
from ragcore.text.words import sentences
from ragcore.types import EmbedText


def count(text: str) -> int:
    return len(text.split())


def count_with_blanks(text: str) -> int:
    """Count white space as tokens, as byte-pair encodings do."""
    return len(regex.findall(r"\s|[^\s\w]|\w{1,4}", text))


def count_bytes(text: str) -> int:
    return len(text.encode(errors="replace"))


def more_than_its_parts(text: str) -> int:
    """Count two extra tokens for each join, so that the whole has more tokens than the sum of its parts."""
    return len(text.split()) + 2 * text.count(". ") + 1


COUNTERS: list[Callable[[str], int]] = [
    count,
    count_with_blanks,
    count_bytes,
    estimate_tokens,
    more_than_its_parts,
]


def made(text: str, *, tokens: int = 20, overlap: int = 5, counter: Callable[[str], int] = count) -> list[Chunk]:
    return list(cut(Document("d", text), count_tokens=counter, chunk_tokens=tokens, overlap_tokens=overlap).chunks)


def chunks(text: str, *, tokens: int = 20, overlap: int = 5, counter: Callable[[str], int] = count) -> list[str]:
    return [chunk.text for chunk in made(text, tokens=tokens, overlap=overlap, counter=counter)]


PIECES = [
    "# Head\n",
    "## Sub\n",
    "Under\n=====\n",
    "One two three. ",
    "Four five! ",
    "\n\n",
    "\n" * 30,
    "- item\n",
    "word " * 30,
    "\f",
    "```\n# no head\n```\n",
    "```\n",
    "    indented\n",
    "x" * 90,
    " ",
    "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n",
    "| 5 | 6 |\n",
    "Service | Pay\nVisit | $3\nLab | $5\n",
    "免責金額は年間千五百ドルです。",
    "ค่าธรรมเนียมการรักษา ต้องจ่ายเองก่อน",
    "हर साल पहले आप चुकाते हैं। फिर योजना।",
    "هل التأمين يشمل؟ نعم، يشمل كل شيء. ",
    "ne\u0301e cafe\u0301 ",
    "👩‍👩‍👧‍👦🇩🇪👍🏽 ",
    "각각각",
    "\u0301",
]
texts = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


@examples(2)
@given(
    st.one_of(texts, st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200)),
    st.integers(24, 60),
    st.integers(0, 12),
    st.sampled_from(COUNTERS),
    st.sampled_from(EMBED_TEXTS),
)
@example("```\nFour five! \u0301```\n# no head\n```\n", 24, 0, count_bytes, "title+text")
def test_chunks_are_pieces_of_the_text_within_the_size_and_cover_all_of_it(
    text: str, tokens: int, overlap: int, counter: Callable[[str], int], embed_text: EmbedText
) -> None:
    source = text or "x"
    whole = cut(
        Document("d", source, title="The plan"),
        count_tokens=counter,
        chunk_tokens=tokens,
        overlap_tokens=overlap,
        embed_text=embed_text,
    )
    all_of_it = whole.chunks
    covered = {position for chunk in all_of_it for position in range(chunk.start, chunk.end)}
    assert all(chunk.text.endswith(source[chunk.start : chunk.end]) for chunk in all_of_it)
    assert all(source[position].isspace() for position in range(len(source)) if position not in covered)
    assert [chunk.start for chunk in all_of_it] == sorted(chunk.start for chunk in all_of_it)
    assert len({chunk.id for chunk in all_of_it}) == len(all_of_it)
    embedded = [
        text_to_embed(
            chunk.text,
            title="The plan",
            heading=str(chunk.metadata.get("heading", "")),
            embed_text=embed_text,
            count_tokens=counter,
            most=tokens,
        )
        for chunk in all_of_it
    ]
    assert all(
        counter(one) <= tokens or len(regex.findall(r"\X", chunk.text)) == 1
        for one, chunk in zip(embedded, all_of_it, strict=True)
    )
    assert list(whole.texts) == embedded
    assert whole.tokens == sum(max(counter(one), len(one) // 12) for one in embedded)
    joints = {0, len(source)} | set(itertools.accumulate(len(one) for one in regex.findall(r"\X", source)))
    assert {position for chunk in all_of_it for position in (chunk.start, chunk.end)} <= joints


def test_text_between_sentences_is_counted() -> None:
    text = "One two three four.   \n\n\n   " * 200
    assert max(map(count_with_blanks, chunks(text, tokens=200, overlap=40, counter=count_with_blanks))) <= 200


def test_long_white_space_makes_no_chunk() -> None:
    assert chunks("Alpha." + "\n" * 100_000 + "Beta.", counter=count_with_blanks) == ["Alpha.", "Beta."]


def test_a_heading_stays_with_the_text_below_it() -> None:
    text = "# Plan\n\n" + "Filler words here. " * 5 + "\n\n## Deductible\n\nIt is $1,500 a year.\n"
    found = chunks(text, tokens=20)
    assert found[-1] == "## Deductible\n\nIt is $1,500 a year."
    assert all(not chunk.rstrip().endswith(("Plan", "Deductible")) for chunk in found)


def test_an_underlined_line_is_a_heading() -> None:
    found = made("Plan\n====\n\nAlpha.\n\nDeductible\n----------\n\nIt is $1,500 a year.\n\n---\n\nEnd.\n", tokens=8)
    assert [chunk.metadata["heading"] for chunk in found] == ["Plan", "Plan › Deductible", "Plan › Deductible"][
        : len(found)
    ]


def test_neighbours_in_a_section_overlap_by_whole_sentences() -> None:
    found = chunks(
        "Alpha one two three. Beta one two three. Gamma one two three. Delta one two three.", tokens=12, overlap=4
    )
    assert found[0].endswith("Gamma one two three.")
    assert found[1].startswith("Gamma one two three.")


def test_sections_do_not_overlap() -> None:
    found = chunks("# A\n\n" + "One two three. " * 6 + "\n# B\n\n" + "Four five six. " * 6, tokens=22, overlap=5)
    assert all(not ("One" in chunk and "Four" in chunk) for chunk in found)


def test_a_hash_in_a_code_block_is_not_a_heading() -> None:
    found = made("# Real\n\n```sh\n# comment\nls\n```\nAfter.\n", tokens=50)
    assert found[0].metadata == {"heading": "Real"}


@pytest.mark.parametrize("fence", ["```", "~~~~"])
def test_a_code_block_that_fits_stays_whole(fence: str) -> None:
    code = f"{fence}python\ndef deductible():\n\n    return 1. # dollars. Really.\n\n- no item\n{fence}"
    found = chunks(f"{'Some words here. ' * 4}\n\n{code}\n\n{'More words here. ' * 4}", tokens=20)
    assert any(code in chunk for chunk in found)


def test_a_long_code_block_is_cut_between_lines() -> None:
    code = "```\n" + "\n".join(f"call({n}) # one. two. three." for n in range(30)) + "\n```"
    found = chunks(code, tokens=20, overlap=0)
    assert len(found) > 5
    assert all(line in code.splitlines() for chunk in found for line in chunk.splitlines())


def test_many_unclosed_fences_take_linear_time() -> None:
    assert chunks("```python\n" * 20_000, tokens=200, counter=estimate_tokens)


TABLE = "| Service | You pay |\n|:---|---:|\n" + "".join(f"| Visit {n} | ${n}.50 |\n" for n in range(40))


def test_each_chunk_of_a_table_begins_with_its_header() -> None:
    found = made(f"# Costs\n\nThese are the costs.\n\n{TABLE}\nThat is all.\n", tokens=60)
    rows = [chunk for chunk in found if "| Visit" in chunk.text]
    assert len(rows) > 4
    assert all(chunk.text.count("| Service | You pay |\n|:---|---:|\n") == 1 for chunk in rows)
    assert all(chunk.metadata["heading"] == "Costs" for chunk in rows)
    assert all(count(chunk.text) <= 60 for chunk in found)
    for n in range(40):
        assert sum(f"| Visit {n} | ${n}.50 |" in chunk.text for chunk in found) == 1


def test_the_first_row_of_a_table_without_dashes_is_its_header_if_it_names_the_columns() -> None:
    text = "Service | You pay\n" + "\n".join(f"Visit number {n} | ${n}" for n in range(30))
    found = chunks(text, tokens=30)
    assert len(found) > 4
    assert all(chunk.startswith("Service | You pay\n") for chunk in found)
    plain = chunks("\n".join(f"{n} | ${n}" for n in range(30)), tokens=30)
    assert sum("0 | $0" in chunk.splitlines() for chunk in plain) == 1


def test_a_table_that_fits_stays_whole() -> None:
    small = "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"
    found = chunks(f"{'Words stand here. ' * 4}\n\n{small}\n\n{'Words stand here. ' * 4}", tokens=30)
    assert any(small in chunk for chunk in found)


def test_a_header_that_is_too_wide_is_not_repeated() -> None:
    wide = "| " + " | ".join(f"Column {n}" for n in range(20)) + " |\n|" + " --- |" * 20 + "\n"
    text = wide + ("| " + " | ".join(str(n) for n in range(20)) + " |\n") * 10
    found = chunks(text, tokens=45)
    assert all(count(chunk) <= 45 for chunk in found)
    assert sum("Column 0 " in chunk for chunk in found) == 1


def test_a_long_sentence_is_cut_between_words_and_a_long_word_between_characters() -> None:
    found = made("word " * 100, tokens=10, overlap=0)
    assert all(count(chunk.text) <= 10 for chunk in found)
    assert sum(count(chunk.text) for chunk in found) == 100
    long = made("x" * 1_000, tokens=20, overlap=0, counter=estimate_tokens)
    assert "".join(chunk.text for chunk in long) == "x" * 1_000


@pytest.mark.parametrize(
    ("text", "blank"),
    [
        ("免責金額は年間千五百ドルです。" * 40, False),
        ("免責金額は年間千五百ドルで、" * 40, False),
        ("保险不涵盖美容手术" * 60, False),
        ("ค่าธรรมเนียมการรักษาพยาบาลที่สมาชิกต้องจ่ายเอง" * 20, False),
        ("ເງິນທີ່ທ່ານຕ້ອງຈ່າຍ" * 40, False),
        ("word " * 400, True),
    ],
)
def test_text_without_sentence_ends_overlaps_as_well(text: str, blank: bool) -> None:
    found = made(text, tokens=60, overlap=15, counter=count_with_blanks if blank else estimate_tokens)
    assert len(found) > 3
    assert all(one.start < other.start < one.end <= other.end for one, other in itertools.pairwise(found))


def test_sentences_of_scripts_without_blanks_stay_whole() -> None:
    found = chunks("免責金額は年間千五百ドルです。" * 20, tokens=40, overlap=15, counter=estimate_tokens)
    assert all(chunk.endswith("です。") for chunk in found)


@pytest.mark.parametrize("text", ["👩‍👩‍👧‍👦" * 200, "e\u0301" * 500, "🇩🇪" * 300, "ก็" * 300, "क्षि" * 300])
def test_graphemes_are_never_cut(text: str) -> None:
    joints = {0, *itertools.accumulate(len(one) for one in regex.findall(r"\X", text))}
    found = made(text, tokens=40, overlap=10, counter=count_bytes)
    assert {position for chunk in found for position in (chunk.start, chunk.end)} <= joints
    assert len(found) > 3


def test_pages_are_counted_and_never_shared() -> None:
    found = made("First page.\fSecond page. More.\fThird.", tokens=50)
    assert [(chunk.text, chunk.metadata["page"]) for chunk in found] == [
        ("First page.", 1),
        ("Second page. More.", 2),
        ("Third.", 3),
    ]


@pytest.mark.parametrize("page", ["## Head", "| a | b |\n|---|---|", "```\nx", "Under\n====", "A | b\nC | 1\nD | 2"])
def test_no_chunk_crosses_the_end_of_a_page(page: str) -> None:
    found = made(f"{page}\f{page}\f{page}", tokens=50)
    assert [chunk.metadata["page"] for chunk in found] == [1, 2, 3]


def test_a_long_run_of_headings_is_cut() -> None:
    found = chunks("\n".join(f"## Heading number {n}" for n in range(500)), tokens=20)
    assert all(count(chunk) <= 20 for chunk in found)
    assert len(found) > 50


@pytest.mark.parametrize(
    ("embed_text", "begins"),
    [
        ("text", "It is $1,500."),
        ("title+text", "Gold plan\n\nIt is $1,500."),
        ("headings+text", "Gold plan › Costs › Deductible\n\nIt is $1,500."),
    ],
)
def test_title_and_headings_are_embedded_as_configured(embed_text: EmbedText, begins: str) -> None:
    assert (
        text_to_embed(
            "It is $1,500.",
            title="Gold plan",
            heading="Costs › Deductible",
            embed_text=embed_text,
            count_tokens=count,
            most=20,
        )
        == begins
    )


def test_a_title_or_heading_at_the_start_of_the_text_is_not_repeated() -> None:
    arguments = {"title": "Costs", "heading": "Costs", "count_tokens": count, "most": 20}
    assert text_to_embed("# Costs\n\nLow.", embed_text="headings+text", **arguments) == "# Costs\n\nLow."  # type: ignore[arg-type]
    assert text_to_embed("Low.", embed_text="headings+text", **arguments) == "Costs\n\nLow."  # type: ignore[arg-type]


def test_a_title_that_is_longer_than_half_a_chunk_is_left_out() -> None:
    text = text_to_embed("Low.", title="word " * 30, heading="", embed_text="title+text", count_tokens=count, most=20)
    assert text == "Low."


def test_the_heading_is_the_last_of_several_above_the_text() -> None:
    found = made("# Gold plan\n\n## Deductible\n\n$500 a year.\n\n## Copay\n\n$20.\n")
    assert [chunk.metadata["heading"] for chunk in found] == ["Gold plan › Deductible", "Gold plan › Copay"]
    whole = cut(
        Document("d", "# Gold plan\n\n## Deductible\n\n$500 a year.", title="Plans"),
        count_tokens=count,
        chunk_tokens=40,
        overlap_tokens=0,
        embed_text="headings+text",
    )
    assert whole.texts == ("Plans\n\n# Gold plan\n\n## Deductible\n\n$500 a year.",)


def test_headings_of_restructuredtext_are_recognized() -> None:
    text = "Plan\n====\n\nIntro.\n\nDeductible\n~~~~~~~~~~\n\n$500.\n\nCopay\n~~~~~\n\n$20.\n"
    assert [chunk.metadata["heading"] for chunk in made(text)] == ["Plan", "Plan › Deductible", "Plan › Copay"]


def test_a_line_of_facts_is_not_cut() -> None:
    records = "\n\n".join(f"plan.name: Plan number {n}\nplan.type: PPO\nplan.fee: {n * 37} euro" for n in range(30))
    facts = "\n".join(f"Plan {n}: the deductible is {n * 37} euro" for n in range(30))
    for text in (records, facts):
        found = chunks(text, tokens=30, overlap=0)
        assert len(found) > 3
        assert {line for chunk in found for line in chunk.splitlines() if line} <= set(text.splitlines())


def test_text_that_the_tokenizer_counts_as_one_word_is_still_cut() -> None:
    found = chunks("iVBORw0KGgo" * 5_000 + " The deductible is $500.", tokens=60, overlap=10, counter=count)
    assert max(map(len, found)) <= 60 * 12 + 12


@pytest.mark.parametrize(
    "text", ["Siehe Nr. 3 SGB V.", "Das gilt z. B. nur im Inland.", "See Sec. 3 and pp. 5 to 9.", "Nach Abs. 2 Satz 1."]
)
def test_abbreviations_do_not_end_a_sentence(text: str) -> None:
    assert [text[a:b] for a, b in sentences(text)] == [text]
