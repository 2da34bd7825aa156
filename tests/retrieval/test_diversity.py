"""Maximal marginal relevance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import Passage
from ragcore.retrieval.diversity import diversified


def passages(*scores: float) -> list[Passage]:
    return [Passage(str(number), "d", f"text{number}", score=score) for number, score in enumerate(scores)]


@given(st.lists(st.floats(-1, 1, width=16), max_size=8), st.integers(1, 10), st.floats(0, 1))
def test_the_best_comes_first_and_each_passage_once(scores: list[float], top_k: int, diversity: float) -> None:
    found = passages(*sorted(scores, reverse=True))
    chosen = diversified(found, None, top_k=top_k, diversity=diversity)
    assert len(chosen) == len(set(chosen)) == min(top_k, len(found))
    assert chosen[:1] == [0][: len(found)]
    if diversity == 0:
        assert chosen == sorted(chosen)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_it_means_the_same_for_a_model_whose_cosines_are_all_high(shift: float) -> None:
    vectors = [np.array([1, 0.05 * n, 0, shift], np.float32) for n in range(4)] + [
        np.array([0, 0, 1, shift], np.float32)
    ]
    found = passages(0.95, 0.94, 0.93, 0.92, 0.7)
    assert diversified(found, vectors, top_k=2, diversity=0.7) == [0, 4]
    assert diversified(found, vectors, top_k=2, diversity=0.1) == [0, 1]


def test_a_passage_without_a_vector_is_compared_by_words() -> None:
    found = [Passage(str(n), "d", text, text_score=1.0) for n, text in enumerate(["one two", "one two three", "four"])]
    assert diversified(found, [None, None, None], top_k=2, diversity=0.9) == [0, 2]
