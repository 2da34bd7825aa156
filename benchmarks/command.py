"""The command line of the benchmarks. Each scenario is a command; the parameters of its `run` are the options."""

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
    help="Run a benchmark. Figures go to stdout, progress to stderr, and a report to results/.",
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
        # Import only the requested scenario: others may need packages that are not installed.
        app.command(name, help=what)(scenario_of(name) if name == asked else _unloaded)
    app(given)


def scenario_of(name: str) -> Callable[..., None]:
    """Return the scenario as a command."""
    return scenario_command(name, scenario(name), commit=_commit)


def _unloaded() -> None:
    """Placeholder for a scenario that was not requested."""


def _commit() -> str | None:
    """Return the commit of the checkout, and whether there are changes."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return f"{commit} and changes" if _git("status", "--porcelain") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*command: str) -> str:
    return subprocess.run(
        ["git", "-C", str(Path(__file__).parent), *command], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
