"""The command line of the benchmarks. Each scenario is a command; the parameters of its `run` are the options."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.published import pages, publish, rendered, runs
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


@app.command("readme")
def readme_command(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN", help="Folders of runs to publish.", show_default=False)
    ] = None,
) -> None:
    """Publish runs, and write their figures into the README and the manual."""
    try:
        for name in publish(folders or ()):
            typer.echo(f"published {name}")
        published = runs()
        for page in pages():
            text = page.read_text()
            written = rendered(text, published)
            if written != text:
                page.write_text(written)
                typer.echo(f"wrote {page.name}")
    except (KeyError, ValueError) as error:
        raise typer.BadParameter(
            f"no source for a figure: {error}" if isinstance(error, KeyError) else str(error)
        ) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = next((word for word in given if word in SCENARIOS), None)
    for name, what in SCENARIOS.items():
        # Import only the requested scenario, because other scenarios may need packages that are not installed.
        app.command(name, help=what)(scenario_of(name) if name == asked else _unloaded)
    app(given)


def scenario_of(name: str) -> Callable[..., None]:
    """Return the scenario as a command."""
    return scenario_command(name, scenario(name), commit=_commit)


def _unloaded() -> None:
    """Do nothing. This function stands for each scenario that was not requested."""


def _commit() -> str | None:
    """Return the commit of the checkout, with a mark if files were changed since; None if it is unknown."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return f"{commit} and changes" if _git("status", "--porcelain") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*command: str) -> str:
    return subprocess.run(
        ["git", "-C", str(Path(__file__).parent), *command], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
