"""The figures and names of an answer are compared with the cited passages, by rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore.explore.grounding import contains, ground, token_f1

PASSAGE = (
    "The Gold plan of Acme Health covers 2 cleanings a year. The deductible is 1,500 dollars, coinsurance 20 percent. "
    "Dr. Jane Okafor leads the clinic in New York. It is valid from 5 March 2026 for 30 days. See “Summary of Benefits”. "
    "In Europe, 1.200,50 € are paid. The budget is $2.5 million."
)


@pytest.mark.parametrize(
    "answer",
    [
        "You pay $1,500 [1].",
        "You pay USD 1500.",
        "It is 20% after the deductible.",
        "Two cleanings are covered.",
        "It begins on March 5, 2026.",
        "It begins on 2026-03-05, or 05.03.2026.",
        "It begins in March 2026.",
        "It begins in 2026.",
        "It lasts 30 days.",
        "It is €1,200.50.",
        "It is 2,500,000 dollars.",
    ],
)
def test_a_figure_is_found_in_any_of_its_spellings(answer: str) -> None:
    found = ground(answer, [PASSAGE])
    assert found.figures
    assert found.missing_figures == ()


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("You pay $1,600 [1].", "$1,600"),
        ("It is 30 % of the costs.", "30 %"),
        ("It lasts 20 days.", "20 days"),
        ("It lasts 30 months.", "30 months"),
        ("It begins on March 6, 2026.", "March 6, 2026"),
        ("It begins on 2025-03-05.", "2025-03-05"),
        ("Three cleanings are covered.", "Three"),
        ("It is 15.00 dollars.", "15.00 dollars"),
    ],
)
def test_an_invented_figure_is_named(answer: str, missing: str) -> None:
    assert ground(answer, [PASSAGE]).missing_figures == (missing,)


@pytest.mark.parametrize(
    ("answer", "names", "missing"),
    [
        ("Ask Dr. Okafor in New York.", ("Dr. Okafor", "New York"), ()),
        ("Ask Dr. Miller in New York.", ("Dr. Miller", "New York"), ("Dr. Miller",)),
        ("It is described in “Summary of Benefits”.", ("Summary of Benefits",), ()),
        ('It is described in "Guide to Claims".', ("Guide to Claims",), ("Guide to Claims",)),
        ("Cleanings are covered. You pay nothing.", (), ()),
        ("MRI scans cost more.", ("MRI",), ("MRI",)),
        ("The plan is Acme Health’s own.", ("Acme Health",), ()),
        ("- The **Gold** plan\n2. You pay", ("Gold",), ()),
    ],
)
def test_names_are_those_words_that_need_a_capital_letter(
    answer: str, names: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    found = ground(answer, [PASSAGE])
    assert (found.names, found.missing_names) == (names, missing)


def test_what_the_question_says_is_not_counted() -> None:
    found = ground("In 2025, Acme Health pays $40.", [PASSAGE], question="What does Acme Health pay in 2025?")
    assert (found.figures, found.names) == (("$40",), ())


def test_without_a_cited_passage_everything_is_missing() -> None:
    found = ground("Dr. Okafor says it is $1,500.", [])
    assert (found.missing_figures, found.missing_names) == (("$1,500",), ("Dr. Okafor",))


def test_a_citation_and_the_number_of_a_list_are_no_figures() -> None:
    assert ground("1. It is covered [2].\n2) Always [12][3].", [PASSAGE]).figures == ()


@given(st.text(max_size=200), st.text(max_size=100))
def test_any_text_can_be_checked_and_a_text_is_grounded_in_itself(text: str, gold: str) -> None:
    found = ground(text, [text])
    assert set(found.missing_figures) <= set(found.figures)
    assert 0 <= token_f1(text, gold) <= 1
    contains(text, gold)


@given(st.integers(0, 999_999), st.sampled_from(["", "$", "€"]))
def test_a_whole_number_is_found_with_and_without_separators(number: int, currency: str) -> None:
    found = ground(f"It costs {currency}{number:,} today.", [f"Today, it is {currency}{number}."])
    assert (len(found.figures), found.missing_figures) == (1, ())


@pytest.mark.parametrize(
    ("answer", "gold", "inside"),
    [
        ("You pay $1,500 per year [1].", "1500", True),
        ("You pay $11,500.", "1500", False),
        ("It is the Gold Plan.", "gold plan", True),
        ("It is 20 % after that.", "20 percent", True),
        ("plan gold", "gold plan", False),
        ("保証期間は二年です", "二年", True),
        ("anything", "", False),
    ],
)
def test_a_gold_answer_is_contained_word_by_word(answer: str, gold: str, inside: bool) -> None:
    assert contains(answer, gold) is inside


def test_token_f1_is_that_of_squad() -> None:
    assert token_f1("the cat sat", "cat sat down") == pytest.approx(0.8)
    assert token_f1("Cat.", "the cat") == 1.0
    assert token_f1("dog", "cat") == 0.0
