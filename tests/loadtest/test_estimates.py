from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore.loadtest.estimates import percentile, slope, student

FLOATS = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(FLOATS, min_size=1, max_size=200), st.floats(0, 1))
def test_percentiles_equal_those_of_numpy(values: list[float], share: float) -> None:
    assert percentile(values, share) == pytest.approx(float(np.percentile(values, 100 * share)), rel=1e-9, abs=1e-6)


def test_a_percentile_without_values_is_nan() -> None:
    assert math.isnan(percentile([], 0.5))


def test_the_slope_of_a_straight_line_has_no_margin() -> None:
    found = slope([(x, 3.0 * x + 7.0) for x in range(120)])
    assert found.value == pytest.approx(3.0)
    assert found.margin == pytest.approx(0.0, abs=1e-9)
    assert found.low == pytest.approx(3.0)


def test_the_interval_of_pure_noise_contains_zero_in_95_percent_of_cases() -> None:
    draw = random.Random(1)
    within = 0
    for _ in range(400):
        found = slope([(x, draw.gauss(0, 1)) for x in range(120)])
        within += abs(found.value) <= found.margin
    assert 0.90 <= within / 400 <= 0.99


def test_the_newest_samples_always_count() -> None:
    """The last 11 of 23 samples grow. All of them count, although 23 samples can't be divided into 12 equal blocks."""
    found = slope([(x, max(0.0, 2.0 * (x - 11))) for x in range(23)])
    assert found.value > 0.8


def test_too_few_points_have_no_slope() -> None:
    assert math.isnan(slope([(1, 1), (1, 2), (1, 3)]).value)


@pytest.mark.parametrize(("freedom", "value"), [(1, 12.706), (4, 2.776), (11, 2.201), (30, 2.042), (100, 1.984)])
def test_students_t_equals_the_published_tables(freedom: int, value: float) -> None:
    assert student(freedom) == pytest.approx(value, abs=0.003)
