"""NOT_FOUND alone is recognised, and answers that only mention the word stay answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore.generation.not_found import NotFound

SAID = [
    "NOT_FOUND", "NOT_FOUND.", " 'NOT_FOUND'\n", "not_found", "\r\nNOT_FOUND", ".NOT_FOUND", "NOT_FOUND. \n\n\n\n", "**NOT_FOUND**", r"NOT\_FOUND",
    "`NOT_FOUND`", "NOT_FOUND: the passages speak of vision.", "NOT_FOUND - nothing", "**NOT_FOUND**: nothing about it", "Not_Found: x",
    "NOT_FOUND\n\nThe passages say nothing.", "The passages say nothing of it. NOT_FOUND", "The passages say nothing.\n\n**NOT_FOUND**.",
    "Answer: NOT_FOUND", "The answer is: NOT_FOUND", "NOT FOUND", "not found.", "NOT_FOUND (no passage has it)", "NOT_FOUND, because of x", "# NOT_FOUND",
    "NOT_FOUND [1]", "**NOT_FOUND** [1]", "The passages do not say. NOT_FOUND [1]", "NOT_FOUND?", "NOT_FOUND。", "NOT_FOUND：它没有",
    "NOT_FOUND…", "„NOT_FOUND“",
    "<final_answer>NOT_FOUND</final_answer>", r"\boxed{NOT_FOUND}", "NOT_FOUND<|im_end|>", "\ufeffNOT_FOUND", "\u200bNOT_FOUND\u200b", "$NOT_FOUND$",
    "NOT_FOUND because no passage says so.", "They don't say.\n\n<b>NOT_FOUND</b>", "Final answer: **NOT_FOUND**",
    "“NOT_FOUND”", "<b>NOT_FOUND</b>", "> NOT_FOUND", "NOT_FOUND; see above", "## not_found\nThe passages do not say.",
]  # fmt: skip
NOT_SAID = [
    "NOT_FOUND is what I would say, but it costs $40 [1].", "No", "N", "", "Nothing costs $40 [1].", "The server returns NOT_FOUND.", "NOT_FOUNDATION",
    "Not found in the index means 404 [1].", "It costs $40 [1]. Non", "NOT_FOUND is a status.", "NOT_FOUND_ERROR is a code [1].",
    "The code NOT_FOUND: a 404.", "The API returns the code `NOT_FOUND`.", "Its status is **NOT_FOUND**.", 'The server answers "NOT_FOUND".',
    "The status is: NOT_FOUND_X", "It returns - NOT_FOUND", "It is $40 [1]. The code for it is NOT_FOUND", "Notes: $40 [1]", "not", "(see note)",
]  # fmt: skip
CUTS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def read(text: str, cuts: list[int]) -> tuple[bool, str]:
    word = NotFound()
    out, at, number = "", 0, 0
    while at < len(text):
        size = cuts[number % len(cuts)]
        out += word.take(text[at : at + size])
        at, number = at + size, number + 1
    out += word.end()
    return word.said, out


@given(text=st.sampled_from(SAID), cuts=CUTS)
def test_not_found_is_recognised_and_never_shown(text: str, cuts: list[int]) -> None:
    said, out = read(text, cuts)
    assert said
    assert "found" not in out.lower()


@given(text=st.sampled_from(NOT_SAID), cuts=CUTS)
def test_an_answer_that_mentions_not_found_is_an_answer(text: str, cuts: list[int]) -> None:
    assert read(text, cuts) == (False, text)


@given(st.text(alphabet="notfund_NOTFUD .:*\n", max_size=60), CUTS)
def test_cuts_make_no_difference_and_no_answer_loses_a_letter(text: str, cuts: list[int]) -> None:
    said, out = read(text, cuts)
    assert said == read(text, [10_000])[0]
    assert said or out == text


def test_only_the_end_of_a_long_answer_is_examined() -> None:
    word = NotFound()
    for _ in range(4_000):
        word.take("and not ")
        assert len(word._held) + len(word._before) <= 2 * 96


@pytest.mark.parametrize("lead", ["*" * 200, " " * 200, "-" * 200])
def test_the_held_back_text_is_bounded(lead: str) -> None:
    assert NotFound().take(lead + "x" * 10) != ""
