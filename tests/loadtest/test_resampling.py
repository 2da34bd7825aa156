"""Permutation tests over runs and the bootstrap over blocks: they distinguish chance from change."""

from __future__ import annotations

import random

import pytest

from ragcore.loadtest.resampling import Repeated, blocks, log_ratio_margin, p_values, ratio_of_runs


def test_three_runs_that_are_all_worse_are_one_of_twenty_assignments() -> None:
    assert p_values([Repeated([1.0, 1.1, 1.2], [2.0, 2.1, 2.2], 0.1)]) == [pytest.approx(0.05)]


def test_equal_runs_look_the_same_in_every_assignment() -> None:
    assert p_values([Repeated([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], 0.1)]) == [1.0]


@pytest.mark.slow
def test_many_unchanged_figures_together_give_a_false_alarm_in_at_most_five_percent() -> None:
    """Thirty independent figures, none of which changed."""
    wrong = 0
    for seed in range(300):
        draw = random.Random(seed)
        figures = [
            Repeated([draw.gauss(0, 0.1) for _ in range(3)], [draw.gauss(0, 0.1) for _ in range(3)], 0.1)
            for _ in range(30)
        ]
        wrong += min(p_values(figures)) <= 0.05
    assert wrong / 300 <= 0.08  # 5 % and three standard deviations of the simulation


def test_a_random_sample_is_used_if_there_are_too_many_assignments() -> None:
    draw = random.Random(1)
    before, after = ([shift + draw.gauss(0, 0.1) for _ in range(9)] for shift in (0.0, 1.0))
    (chance,) = p_values([Repeated(before, after, 0.1)])
    assert 0 < chance < 0.01


def test_without_figures_the_result_is_empty() -> None:
    assert p_values([]) == []


def test_a_ratio_of_runs_has_an_interval_by_students_t() -> None:
    assert ratio_of_runs([1.0, 1.0, 1.0], [2.0, 2.0, 2.0]) == pytest.approx((2.0, 2.0, 2.0))
    _, low, high = ratio_of_runs([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], least_scatter=0.1)
    assert high / low > 1.4
    _, low, high = ratio_of_runs([0.9, 1.0, 1.1], [1.8, 2.0, 2.2])
    assert low < 2.0 < high
    assert high / low > 1.4  # six runs that scatter by a tenth


def test_blocks_are_consecutive_and_contain_every_value() -> None:
    values = list(range(25))
    made = blocks(values)
    assert [len(block) for block in made] == [12, 13]
    assert [value for block in made for value in block] == values
    assert len(blocks(range(1000))) == 12
    assert blocks([1.0, 2.0]) == [[1.0, 2.0]]
    assert blocks([]) == []


def test_dependent_questions_give_a_wider_margin_than_independent_ones() -> None:
    draw = random.Random(2)
    stalls = [draw.choice((1.0, 3.0)) for _ in range(12) for _ in range(1)]
    together = [value * draw.uniform(0.9, 1.1) for value in stalls for _ in range(20)]
    shuffled = draw.sample(together, len(together))
    wide, narrow = (
        log_ratio_margin(blocks(values), blocks(values), share=0.5, figures=1) for values in (together, shuffled)
    )
    assert wide > 1.5 * narrow
