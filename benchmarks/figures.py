"""What a scenario returns, and what several need."""

from __future__ import annotations

import gzip
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SQUAD = Path(__file__).parents[2] / "shared" / "data" / "squad"


@dataclass
class Figures:
    """Named numbers, and the criteria that were not reached."""

    values: dict[str, float | int | str | None] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def expect(self, holds: bool, criterion: str) -> None:
        """Note a criterion that does not hold."""
        if not holds:
            self.failed.append(criterion)


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def percentile(values: Iterable[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def interleaved(rounds: int, **sides: Callable[[], float]) -> dict[str, float]:
    """The median of what each side returns, round by round in turn: machines are noisy, and noise hits both."""
    results: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            results[name].append(side())
    return {name: statistics.median(values) for name, values in results.items()}


def timed(work: Callable[[], Any]) -> float:
    """Seconds of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def read_lines(name: str) -> list[dict[str, Any]]:
    """The rows of a .jsonl.gz of squad; ends the run with a message where it is not there."""
    if not SQUAD.is_dir():
        sys.exit(f"this scenario needs the folder {SQUAD}, which is not on this machine")
    with gzip.open(SQUAD / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
