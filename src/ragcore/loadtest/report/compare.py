"""Two sides of runs: ratios, how much of them is noise, and what is a regression."""

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
    """Compare two sides, each the folder of a run or a folder of such folders; see `compare_runs`.

    Raises:
        InvalidInput: a folder holds no run, or the runs are of different scenarios.
    """
    return compare_runs(read_runs(before), read_runs(after), tolerance=tolerance)


def compare_runs(before: Sequence[Run], after: Sequence[Run], *, tolerance: float = 0.1) -> Comparison:
    """Compare runs of one scenario.

    With three runs or more on each side, a figure that is worse by more than the tolerance is a regression if at most 5 % of all exchanges of runs
    between the sides make any figure look as much worse, and if its interval leaves out 1: of two sides alike, at most 5 % of comparisons find one.

    With fewer, nothing tells how runs differ of themselves. Latencies get intervals from blocks of neighbouring questions and 30 % either way for what
    runs are assumed to differ by; other figures 30 %, shares 1 %, counts twice their Poisson scatter. A regression is a ratio that is worse by more than
    the tolerance with the whole of its interval, or a count that was zero and is not any more: of three events at least, of a single hang.

    Args:
        tolerance: a ratio this far from 1 does not matter.

    Raises:
        InvalidInput: the runs are of different scenarios.
    """
    first = before[0]
    for run in (*before, *after):
        if run.summary["scenario"] != first.summary["scenario"]:
            raise InvalidInput(
                f"{first.folder} is a run of {first.summary['scenario']}, {run.folder} one of {run.summary['scenario']}"
            )
    comparison = Comparison(missed=list(_missed(after)), notes=list(_differences(first, [*before[1:], *after])))
    if min(len(before), len(after)) >= LEAST_RUNS:
        comparison.notes.append(
            f"{len(before)} runs before, {len(after)} after: a regression must be one that at most 5 % of all exchanges of runs between the sides show"
        )
        comparison.rows += by_runs(before, after, tolerance)
    else:
        comparison.notes.append(
            f"how much runs of one service differ is assumed ({percent(ASSUMED_NOISE)} either way), not measured: to find smaller changes, "
            f"compare {LEAST_RUNS} runs or more on each side"
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
