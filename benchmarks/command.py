"""The command line of the benchmarks: a command for each scenario, with the options of its `run`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from benchmarks.registry import SCENARIOS, scenario
from ragcore.loadtest.command import EXIT_CODES, compare_command, scenario_command

__all__ = ["main", "scenario_of"]

app = typer.Typer(
    name="python -m benchmarks",
    help="The benchmarks. Figures on stdout, progress on stderr, a report in results/.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("compare")(compare_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = next((word for word in given if word in SCENARIOS), None)
    for name, what in SCENARIOS.items():
        # Only the one that is asked for is imported: another one's needs are not its own.
        app.command(name, help=what)(scenario_of(name) if name == asked else _unloaded)
    app(given)


def scenario_of(name: str) -> Callable[..., None]:
    """The scenario as a command."""
    return scenario_command(name, scenario(name), commit=_commit)


def _unloaded() -> None:
    """Stands for a scenario that was not asked for."""


def _commit() -> str | None:
    """Of the checkout, and whether it has changes."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return f"{commit} and changes" if _git("status", "--porcelain") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*command: str) -> str:
    return subprocess.run(
        ["git", "-C", str(Path(__file__).parent), *command], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
