"""The sliding window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ragcore.resilience.window import BUCKETS, SlidingWindow


def test_old_outcomes_leave_the_window_bucket_by_bucket() -> None:
    window = SlidingWindow(10)
    window.add(0.0, True, False)
    window.add(0.5, False, True)
    assert window.add(9.9, False, False) == 3
    assert (window.calls, window.failures, window.slow) == (3, 1, 1)
    assert window.add(10.0, False, False) == 2
    assert (window.calls, window.failures, window.slow) == (2, 0, 0)
    window.advance(1_000_000.0)
    assert (window.calls, window.failures, window.slow) == (0, 0, 0)


def test_a_clock_that_goes_back_empties_the_window() -> None:
    window = SlidingWindow(10)
    window.add(5_000.0, True, False)
    assert window.add(3.0, False, False) == 1
    assert window.failures == 0
    assert window.add(12.9, False, False) == 2
    assert window.add(13.0, False, False) == 2


def test_its_size_is_bounded() -> None:
    window = SlidingWindow(1)
    for number in range(10_000):
        window.add(number / 100, False, False)
    assert len(window._buckets) == BUCKETS
    assert 90 <= window.calls <= 100


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans(), st.booleans()), max_size=60), st.floats(0.5, 20))
def test_it_counts_the_same_as_a_list_of_all_calls(steps: list[tuple[float, bool, bool]], seconds: float) -> None:
    window = SlidingWindow(seconds)
    period = seconds / BUCKETS
    calls: list[tuple[int, bool, bool]] = []
    now = 100.0
    for wait, failed, slow in steps:
        now += wait
        window.add(now, failed, slow)
        calls.append((int(now // period), failed, slow))
        kept = [call for call in calls if call[0] > int(now // period) - BUCKETS]
        assert (window.calls, window.failures, window.slow) == (
            len(kept),
            sum(call[1] for call in kept),
            sum(call[2] for call in kept),
        )


def test_a_bucket_covers_exactly_its_period() -> None:
    window = SlidingWindow(10)
    window.add(7.0, True, False)
    assert (window._begins, window._ends) == (7.0, 8.0)
    window.add(8.0, True, False)
    assert (window._begins, window._ends) == (8.0, 9.0)
    assert window.calls == 2
