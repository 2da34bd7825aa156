"""A comparison: which changes count as regressions, and how often chance alone produces one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ragcore.loadtest.driving.outcome import Outcome
from ragcore.loadtest.figures import Figures
from ragcore.loadtest.report.compare import compare, compare_runs
from ragcore.loadtest.report.results import Run, write
from tests.loadtest.report.test_results import figures, outcome

PHASES = (5, 10, 20, 50)


def run(draw: random.Random, *, slower: float = 1.0, noise: float = 0.15, only: int | None = None) -> Run:
    """A run of the ladder with noise in the whole run and in each phase. Its questions wait for each other.

    Args:
        slower: factor of all times, or of the times of one level if `only` names it.
        noise: standard deviation of the logarithms.
    """
    whole = draw.gauss(0, noise)
    outcomes: list[Outcome] = []
    for level in PHASES:
        factor = slower if only in (None, level) else 1.0
        base = whole + draw.gauss(0, noise / 3)
        waiting = 0.0
        for _ in range(2 * level):
            waiting = 0.9 * waiting + draw.gauss(0, 0.1)  # a delay also affects the next questions
            outcomes.append(outcome(factor * 2.718 ** (base + waiting), phase=f"concurrency {level}"))
    seconds = sorted(one.seconds for one in outcomes)
    errors = int(draw.random() < 0.2)
    found: dict[str, Any] = {
        "hung": 0,
        "wrong": errors,
        "success_rate": 1 - errors / len(outcomes),
        "p50_s": seconds[len(seconds) // 2],
        "goodput": len(outcomes) / sum(seconds),
        "highest_concurrency": 50,
    }
    empty: dict[str, Any] = {"machine": {}, "settings": {}, "failed": [], "invalid": []}
    return Run(Path("run"), {"scenario": "ladder", "figures": found, **empty}, outcomes)


def share_with_a_regression(runs: int, *, comparisons: int = 200, noise: float = 0.15, **later: Any) -> float:
    found = 0
    for seed in range(comparisons):
        draw = random.Random(seed)
        before = [run(draw, noise=noise) for _ in range(runs)]
        after = [run(draw, noise=noise, **later) for _ in range(runs)]
        found += bool(compare_runs(before, after).regressions)
    return found / comparisons


@pytest.mark.parametrize("noise", [0.03, 0.15, 0.4])
@pytest.mark.slow
def test_repeated_runs_of_an_unchanged_service_show_a_regression_in_at_most_five_percent_of_comparisons(
    noise: float,
) -> None:
    assert share_with_a_regression(3, noise=noise) <= 0.05


@pytest.mark.parametrize(("runs", "noise"), [(3, 0.05), (4, 0.1)])
@pytest.mark.slow
def test_latency_that_grows_by_half_is_found(runs: int, noise: float) -> None:
    assert share_with_a_regression(runs, comparisons=60, noise=noise, slower=1.5) >= 0.9


@pytest.mark.slow
def test_latency_that_grows_by_half_is_mostly_found_in_three_runs_with_ten_percent_noise() -> None:
    assert share_with_a_regression(3, comparisons=60, noise=0.1, slower=1.5) >= 0.8


@pytest.mark.slow
def test_one_level_with_doubled_latency_is_found_in_four_runs_a_side() -> None:
    assert share_with_a_regression(4, comparisons=40, noise=0.1, slower=2.0, only=50) >= 0.9


@pytest.mark.slow
def test_single_runs_of_an_unchanged_service_rarely_show_a_regression() -> None:
    """The noise is assumed, so this holds only up to the assumed noise: a standard deviation of 10 %, with 95 % of runs within 30 % of each other."""
    worse = 0
    for seed in range(100):
        draw = random.Random(seed)
        found = compare_runs([run(draw, noise=0.1)], [run(draw, noise=0.1)]).regressions
        worse += bool(found)
    assert worse <= 5


def test_single_runs_have_wide_intervals_and_a_note() -> None:
    draw = random.Random(1)
    comparison = compare_runs([run(draw)], [run(draw)])
    measured = [row for row in comparison.rows if row.low is not None and row.high is not None]
    assert measured
    assert all(row.low and row.high and row.high / row.low > 1.3**2 for row in measured)
    assert any("assumed (30 % up or down), not measured" in note for note in comparison.notes)


def test_all_runs_of_two_folders_are_compared(tmp_path: Path) -> None:
    for side, seconds in (("before", 1.0), ("after", 1.6)):
        for number in range(3):
            write(tmp_path / side / str(number), "ladder", figures(seconds=seconds + number / 50, seed=number))
    comparison = compare(tmp_path / "before", tmp_path / "after")
    assert "concurrency 5, p50_s" in [row.figure for row in comparison.regressions]
    assert any(note.startswith("3 runs before, 3 after") for note in comparison.notes)
    row = comparison.rows[0]
    assert row.low is not None
    assert row.high is not None
    assert row.low < 1.6 < row.high
    assert not compare(tmp_path / "after", tmp_path / "before").regressions


def test_a_count_that_grows_within_its_scatter_is_the_same(tmp_path: Path) -> None:
    write(tmp_path / "a", "load", Figures(values={"wrong": 3, "degraded": 10, "errors.http": 0}))
    write(tmp_path / "b", "load", Figures(values={"wrong": 4, "degraded": 40, "errors.http": 2}))
    assert [row.figure for row in compare(tmp_path / "a", tmp_path / "b").regressions] == ["degraded"]


def test_criteria_that_later_runs_did_not_meet_name_their_run(tmp_path: Path) -> None:
    write(tmp_path / "a", "ladder", figures())
    for number in (1, 2):
        later = figures()
        later.expect(number == 1, "success 90 % (more than 95 %)")
        write(tmp_path / "b" / str(number), "ladder", later)
    assert compare(tmp_path / "a", tmp_path / "b").missed == ["run 2: success 90 % (more than 95 %)"]


def test_two_equal_runs_show_no_regression(tmp_path: Path) -> None:
    write(tmp_path / "a", "ladder", figures(seed=1))
    write(tmp_path / "b", "ladder", figures(seed=2))
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert comparison.regressions == []
    assert comparison.missed == []


@pytest.mark.parametrize(
    ("later", "word"),
    [
        (figures(seconds=1.5, seed=2), "p50_s"),
        (figures(seed=2, success=0.9), "success_rate"),
    ],
)
def test_a_figure_that_gets_worse_beyond_its_noise_is_a_regression(tmp_path: Path, later: Figures, word: str) -> None:
    write(tmp_path / "a", "ladder", figures(seed=1))
    write(tmp_path / "b", "ladder", later)
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert any(word in one.figure for one in comparison.regressions)
    backwards = compare(tmp_path / "b", tmp_path / "a")
    assert not any(word in one.figure for one in backwards.regressions)


def test_a_count_that_was_zero_before_and_is_positive_now_is_a_regression(tmp_path: Path) -> None:
    write(tmp_path / "a", "ladder", figures(seed=1))
    later = figures(seed=1)
    later.values["hung"] = 2
    write(tmp_path / "b", "ladder", later)
    assert any(one.figure == "hung" for one in compare(tmp_path / "a", tmp_path / "b").regressions)


def test_a_first_token_that_comes_later_is_a_regression(tmp_path: Path) -> None:
    for name, first in (("a", 0.06), ("b", 0.96)):
        found = Figures(outcomes=[outcome(1.0, first_token=1.0 + first, last_token=2.0, tokens=5) for _ in range(50)])
        write(tmp_path / name, "load", found)
    assert any("first_token" in one.figure for one in compare(tmp_path / "a", tmp_path / "b").regressions)


@pytest.mark.parametrize(
    ("figure", "before", "after", "verdict"),
    [
        ("tokens_per_s", 100.0, 10.0, "regression"),
        ("slo_share", 1.0, 0.9, "regression"),
        ("errors.timeout", 0, 3, "regression"),
        ("added_latency_alone_ms", -0.5, 3.0, "regression"),
        ("added_latency_alone_ms", 0.16, 0.26, "same"),
        ("highest_rate", 4.0, 3.75, "same"),
        ("lateness_p99_ms", 1.8, 28.0, ""),
        ("driver_lag_p99_ms", 1.8, 28.0, ""),
    ],
)
def test_each_figure_is_judged_by_its_own_noise(
    tmp_path: Path, figure: str, before: float, after: float, verdict: str
) -> None:
    write(tmp_path / "a", "load", Figures(values={figure: before}))
    write(tmp_path / "b", "load", Figures(values={figure: after}))
    (row,) = compare(tmp_path / "a", tmp_path / "b").rows
    assert row.verdict == verdict


def test_a_comparison_for_programs_is_one_flat_object_of_strict_json(tmp_path: Path) -> None:
    write(tmp_path / "a", "load", Figures(values={"hung": 0, "p50_s": 1.0}))
    write(tmp_path / "b", "load", Figures(values={"hung": 3, "p50_s": 1.0}))
    told = compare(tmp_path / "a", tmp_path / "b").to_dict()
    assert told["regressions"] == 1
    assert not any(isinstance(value, dict | list) for value in told.values())
    json.dumps(told, allow_nan=False)


def test_a_criterion_that_the_later_run_did_not_meet_is_reported(tmp_path: Path) -> None:
    write(tmp_path / "a", "ladder", figures())
    later = figures()
    later.expect(False, "success 90 % (more than 95 %)")
    write(tmp_path / "b", "ladder", later)
    assert compare(tmp_path / "a", tmp_path / "b").missed == ["success 90 % (more than 95 %)"]


def test_runs_of_different_scenarios_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", "ladder", figures())
    write(tmp_path / "b", "load", figures())
    with pytest.raises(ValueError, match="is a run of ladder"):
        compare(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ValueError, match="no summary"):
        compare(tmp_path / "a", tmp_path / "missing")
