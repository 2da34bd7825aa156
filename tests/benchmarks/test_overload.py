"""The overload benchmark judges correctly and finds planted faults."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from benchmarks.scenarios.overload import MOST_ANSWERS, real_cells
from hypothesis import given
from hypothesis import strategies as st

from ragcore.resilience.fair_queue import FairQueue
from ragcore.resilience.waiter import Flow
from tests.examples import examples
from tests.support import overload
from tests.support.overload import Asked, Cell, clairvoyant, grid, is_false, run_cell

SMALL = Cell(slots=4, service=0.5, queue=256, timeout=5.0, load=4.0, loop="open", given_seconds=15.0)


def most_by_trying(cell: Cell, arrivals: list[float]) -> int:
    """Return the largest number of calls that can be answered in time, by trying all orders."""
    best = 0
    for count in range(len(arrivals), 0, -1):
        for order in itertools.permutations(arrivals, count):
            free = [0.0] * cell.slots
            for at in order:
                begin = max(min(free), at)
                if begin + cell.service > at + cell.timeout - cell.reserve + 1e-9:
                    break
                free[free.index(min(free))] = begin + cell.service
            else:
                best = max(best, count)
                break
        if best:
            break
    return best


@examples()
@given(arrivals=st.lists(st.integers(0, 30), max_size=6), slots=st.integers(1, 2), timeout=st.sampled_from([2.0, 3.0]))
def test_the_clairvoyant_scheduler_reaches_the_largest_possible_number(
    arrivals: list[int], slots: int, timeout: float
) -> None:
    cell = Cell(slots, 1.0, 256, timeout, 1.0, "open", given_seconds=1_000.0)
    times = sorted(number / 10 for number in arrivals)
    assert clairvoyant(cell, [Asked(at, 1.0) for at in times]) == most_by_trying(cell, times)


def test_a_full_queue_drops_the_call_with_the_least_time() -> None:
    cell = Cell(1, 1.0, 1, 3.0, 1.0, "open", given_seconds=100.0)
    assert clairvoyant(cell, [Asked(at, 1.0) for at in (0.0, 0.1, 0.2, 0.3)]) == 2


@pytest.mark.parametrize("loop", ["open", "closed"])
def test_goodput_under_overload_is_near_the_optimum(loop: Any) -> None:
    outcome = run_cell(Cell(4, 0.5, 256, 5.0, 4.0, loop, given_seconds=15.0))
    assert outcome.ratio >= 0.95
    assert outcome.false == []
    assert max(outcome.late, default=0.0) < 0.05


def test_a_queue_that_admits_in_order_of_arrival_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    give_back = FairQueue.give_back

    def learns_nothing(self: FairQueue, flow: Flow, service_time: float | None, finished: bool, now: float) -> None:
        give_back(self, flow, None, finished, now)

    monkeypatch.setattr(FairQueue, "give_back", learns_nothing)
    monkeypatch.setattr(FairQueue, "_pick", lambda self, flow: flow.oldest())
    monkeypatch.setattr(FairQueue, "_refuse_hopeless", lambda self, flow, now: None)
    assert run_cell(SMALL).ratio < 0.5


def test_a_queue_whose_wait_counts_as_silence_of_the_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragcore.resilience.patience.Patience.pause", lambda self: None)
    monkeypatch.setattr("ragcore.resilience.patience.Patience.resume", lambda self: None)
    outcome = run_cell(Cell(1, 0.5, 256, 5.0, 2.0, "open", given_seconds=30.0))
    assert outcome.false
    assert "did not begin to answer" in outcome.false[0]


def test_a_false_reason_is_found() -> None:
    assert is_false("the model said nothing within 1.8 s", SMALL, 2.0)
    assert is_false("no place within 9.0 s; 3 callers were waiting", SMALL, 2.0)
    assert is_false("no place within 1.0 s; 300 callers were waiting", SMALL, 2.0)
    assert is_false("no place within 1.0 s; 3 callers were waiting and the queue was full", SMALL, 2.0)
    assert is_false("recent calls took 9.0 s and only 0.1 s are left", SMALL, 2.0)
    assert is_false("concurrency limit and queue are full (4 running, 3 waiting)", SMALL, 2.0)
    assert not is_false("no place within 2.0 s; 30 callers were waiting", SMALL, 2.0)


def test_the_grid_is_complete_and_omitted_cells_have_a_reason() -> None:
    cells = grid()
    assert len(cells) == len(set(cells)) == (4 * 3 + 1) * 2 * 2 * 6 * 2
    assert Cell(4, 3.0, 4, 5.0, 1.0, "open", first=1.0).why_not == "the first token comes after its limit"
    assert Cell(4, 4.9, 4, 5.0, 1.0, "open").why_not == "service and reserve exceed the timeout"
    assert {cell.callers for cell in cells if cell.slots == 1} == {1, 2, 4, 10, 50}


def test_the_cells_over_sockets_are_reproducible_and_fit_two_cores() -> None:
    cells = real_cells(24)
    assert cells == real_cells(24)
    assert real_cells(3) == cells[:3]
    assert all(0.05 <= cell.service <= 0.5 and cell.slots / cell.service <= MOST_ANSWERS for cell in cells)
    assert len({(cell.slots, cell.queue, cell.loop) for cell in cells}) > 6


def test_earliest_deadline_first_is_available_for_comparison() -> None:
    outcome = run_cell(Cell(4, 0.5, 256, 5.0, 4.0, "open", order="deadline", given_seconds=15.0))
    assert outcome.ratio > 0.5
    assert overload.LOADS[-1] == 50.0
