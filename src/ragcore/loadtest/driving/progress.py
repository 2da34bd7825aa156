"""Live progress on a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ragcore.loadtest.driving.outcome import Outcome

__all__ = ["Watching", "watching"]


class Watching:
    """Shows a progress bar and the number of outcomes of each kind."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._kinds: Counter[str] = Counter()
        self._task = progress.add_task("starting", total=None, kinds="")

    def phase(self, name: str, total: int | None = None) -> None:
        """Begin a phase of `total` questions; None: the number is not known."""
        self._progress.remove_task(self._task)  # remove it, because a reset would keep the task's old total
        self._task = self._progress.add_task(name, total=total, kinds=self._shown())
        if not self._progress.console.is_terminal:
            self._progress.console.print(name, style=None, highlight=False)

    def count(self, outcome: Outcome) -> None:
        """Count the outcome of one question."""
        self._kinds[outcome.kind] += 1
        self._progress.update(self._task, advance=1, kinds=self._shown())

    def _shown(self) -> str:
        return ", ".join(f"{count:,} {kind}" for kind, count in self._kinds.most_common())


@contextmanager
def watching() -> Iterator[Watching]:
    """Show progress on stderr while the block runs. Without a terminal, print one line for each phase."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[kinds]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Watching(progress)
