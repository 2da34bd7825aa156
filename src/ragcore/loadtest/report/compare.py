"""Compares two sides of runs: ratios, their noise, and regressions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ragcore.errors import InvalidInput
from ragcore.loadtest.report.by_blocks import ASSUMED_NOISE, by_blocks
from ragcore.loadtest.report.by_runs import by_runs
from ragcore.loadtest.report.comparison import Comparison
from ragcore.loadtest.report.results import Run, read_runs
from ragcore.loadtest.resampling import LEAST_RUNS
from ragcore.loadtest.words import percent

__all__ = ["compare", "compare_runs"]


def compare(before: Path, after: Path, *, tolerance: float = 0.1) -> Comparison:
    """Compare two sides. Each is the folder of a run, or a folder that contains such folders; see `compare_runs`.

    Raises:
        InvalidInput: a folder contains no run, or the runs are of different scenarios.
    """
    return compare_runs(read_runs(before), read_runs(after), tolerance=tolerance)


def compare_runs(before: Sequence[Run], after: Sequence[Run], *, tolerance: float = 0.1) -> Comparison:
    """Compare runs of one scenario.

    With three or more runs on each side, a permutation test decides. It assigns the runs to the two sides in all possible ways, at most 2,000. A figure
    is a regression if three conditions hold: it is worse by more than the tolerance, its interval does not include 1, and at most 5 % of these assignments
    have a figure with an equal or larger difference. If nothing changed, at most 5 % of comparisons report a regression.

    With fewer runs, the noise between runs can't be measured, so it is assumed. It is 30 % up or down for latencies and other figures, 1 % for shares, and
    twice the Poisson scatter for counts. The intervals of latencies also include the noise between blocks of consecutive questions. A figure is a
    regression if the whole interval of its ratio is worse by more than the tolerance. A number of unwanted events that was zero is also a regression if it
    is now at least three; for hangs, one is enough.

    Args:
        tolerance: the change to ignore, as a share: 0.1 is 10 %.

    Raises:
        InvalidInput: the runs are of different scenarios.
    """
    first = before[0]
    for run in (*before, *after):
        if run.summary["scenario"] != first.summary["scenario"]:
            raise InvalidInput(
                f"different scenarios: {first.folder} is a run of {first.summary['scenario']}, {run.folder} of {run.summary['scenario']}"
            )
    comparison = Comparison(missed=list(_missed(after)), notes=list(_differences(first, [*before[1:], *after])))
    if min(len(before), len(after)) >= LEAST_RUNS:
        comparison.notes.append(
            f"{len(before)} runs before, {len(after)} after: a permutation test finds the regressions; "
            "if nothing changed, at most 5 % of comparisons report one"
        )
        comparison.rows += by_runs(before, after, tolerance)
    else:
        comparison.notes.append(
            f"the noise between runs is assumed ({percent(ASSUMED_NOISE)} up or down), not measured: to find smaller changes, "
            f"compare {LEAST_RUNS} or more runs on each side"
        )
        comparison.rows += by_blocks(before, after, tolerance)
    return comparison


def _missed(runs: Sequence[Run]) -> Iterator[str]:
    for number, run in enumerate(runs, 1):
        for text in (*run.summary["failed"], *run.summary["invalid"]):
            yield text if len(runs) == 1 else f"run {number}: {text}"


def _differences(first: Run, others: Sequence[Run]) -> Iterator[str]:
    for what in ("machine", "settings"):
        changed = {
            name
            for other in others
            for name in {*first.summary[what], *other.summary[what]}
            if first.summary[what].get(name) != other.summary[what].get(name)
        }
        if changed:
            yield f"{what} differ: {', '.join(sorted(changed))}"
