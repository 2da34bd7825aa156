"""Near-duplicates among passages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import Passage
from ragcore.retrieval.duplicates import without_duplicates


def kept(*texts: str | tuple[str, str]) -> list[int]:
    pairs = [(one, "") if isinstance(one, str) else one for one in texts]
    return without_duplicates([Passage(str(n), "d", text, title=title) for n, (text, title) in enumerate(pairs)])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("The deductible is $500.", "the deductible is $500"),
        ("The deductible is $500.", "| **Deductible** | $500 |"),
        ("Repairs take two days. Call us first.", "Repairs take two days."),
        ("repairs\n\ntake   two days", "Repairs take two days!"),
        ("保証期間は二年です。", "保証期間は二年です"),
        ("∑ ≥ ∫", "∑ ≥  ∫"),
    ],
)
def test_the_same_words_are_kept_once(first: str, second: str) -> None:
    assert kept(first, second) == [0]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("The deductible is $500.", "The deductible is $900."),
        ("The gold plan pays for surgery.", "The silver plan pays for surgery."),
        ("Surgery is covered.", "Surgery isn't covered by plan B."),
        ("Repairs take two days.", "Repairs take two days. Call us first."),
        (("The deductible is $500.", "Gold plan"), ("The deductible is $500.", "Silver plan")),
        ("words in order", "order in words"),
    ],
)
def test_passages_that_differ_are_kept(first: str | tuple[str, str], second: str | tuple[str, str]) -> None:
    assert kept(first, second) == [0, 1]


def test_a_copy_with_a_longer_title_is_a_duplicate() -> None:
    assert kept(("The deductible is $500.", "Terms"), ("The deductible is $500.", "Terms (copy)")) == [0]


@given(st.lists(st.text(max_size=40), max_size=12))
def test_the_first_of_each_kind_is_kept_in_order(texts: list[str]) -> None:
    positions = kept(*texts)
    assert positions == sorted(set(positions))
    assert bool(positions) == bool(texts)
    assert kept(*(texts[position] for position in positions)) == list(range(len(positions)))


def test_only_the_best_hundred_passages_are_compared() -> None:
    assert kept(*["the same text"] * 150) == [0, *range(100, 150)]
