"""Pauses that a dependency asked for."""

from __future__ import annotations

import math

from ragcore.resilience.pauses import Pauses


def test_a_pause_applies_to_its_key_and_ends() -> None:
    pauses = Pauses(most=4)
    assert pauses.until(None, 100.0) == -math.inf
    assert pauses.longest(100.0) == 0
    pauses.add("a", 10, 100.0)
    assert pauses.until("a", 100.0) == 110
    assert pauses.until("a", 109.9) == 110
    assert pauses.until(None, 100.0) == pauses.until("b", 100.0) == -math.inf
    assert pauses.longest(104.0) == 6
    assert pauses.longest(115.0) == 0
    assert pauses.until("a", 110.0) == -math.inf
    assert pauses.longest(100.0) == 0


def test_the_longer_pause_is_kept_and_none_exceeds_two_minutes() -> None:
    pauses = Pauses(most=4)
    pauses.add(None, 10, 100.0)
    pauses.add(None, 5, 101.0)
    assert pauses.until(None, 102.0) == 110
    pauses.add(None, 20, 105.0)
    assert pauses.until(None, 106.0) == 125
    pauses.add(None, 86_400, 106.0)
    assert pauses.until(None, 107.0) == 226


def test_the_oldest_is_forgotten_first() -> None:
    pauses = Pauses(most=2)
    for key in ("a", "b", "a", "c"):
        pauses.add(key, 10, 100.0)
    assert [pauses.until(key, 100.0) == 110 for key in ("a", "b", "c")] == [True, False, True]


def test_a_pause_from_another_event_loops_clock_is_ignored() -> None:
    pauses = Pauses(most=2)
    pauses.add(None, 10, 50_000.0)
    assert pauses.until(None, 3.0) == -math.inf
    assert pauses.longest(3.0) == 0


def test_a_pause_of_one_key_does_not_extend_that_of_another() -> None:
    pauses = Pauses(most=4)
    pauses.add(None, 100, 0.0)
    pauses.add("a", 10, 0.0)
    assert pauses.until("a", 1.0) == 10
    pauses.add("longest", 500, 1_000.0)
    assert pauses.until("longest", 1_000.0) == 1_120
    assert pauses.until("unknown", 1_000.0) == -math.inf
