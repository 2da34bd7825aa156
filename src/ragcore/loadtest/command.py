"""Turns a scenario into a command: the parameters of its function become options. The command prints the figures and writes the report to a folder."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ragcore.compat.distribution import install_command
from ragcore.errors import RagcoreError
from ragcore.loadtest.figures import Figures, say
from ragcore.loadtest.http import bare
from ragcore.loadtest.report.compare import compare
from ragcore.loadtest.report.results import new_folder, write
from ragcore.loadtest.report.terminal import changed, draw_comparison, draw_criteria, draw_table, draw_values

__all__ = ["EXIT_CODES", "compare_command", "scenario_command"]

EXIT_CODES = "Exit codes: 0 all criteria met, 1 a criterion not met, 2 wrong usage or configuration, 3 invalid run: don't use its figures."
Json = Annotated[bool, typer.Option("--json", help="Print one flat JSON object to stdout.")]
Quick = Annotated[bool, typer.Option("--quick", help="Run a shorter test: it ends within 50 s on 2 cores.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Write the report to this folder.", show_default="results/<time>-<scenario>"),
]


def scenario_command(
    name: str, run: Callable[..., Figures], *, commit: Callable[[], str | None] = lambda: None
) -> Callable[..., None]:
    """Return a command with the scenario's own options and the options that all scenarios share.

    Args:
        run: called with its options as keyword arguments. Each field of a parameter that is a dataclass becomes an option.
        commit: returns the commit of the measured code, for the report; None if it is unknown.
    """
    own = typing.get_type_hints(run, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type[Any]] = {}
    for parameter in inspect.signature(run).parameters.values():
        kind = own[parameter.name]
        if is_dataclass(kind) and isinstance(kind, type):
            groups[parameter.name] = kind
            parameters += _of_fields(kind)
        elif parameter.name != "quick":
            parameters.append(parameter.replace(annotation=kind))
    parameters.sort(key=lambda parameter: parameter.default is not inspect.Parameter.empty)
    common = {"quick": Quick, "json_": Json, "out": Out}
    for option, kind in common.items():
        default = None if option == "out" else False
        parameters.append(inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))

    def command(**given: Any) -> None:
        as_json, out = given.pop("json_"), given.pop("out")
        settings = {key: _plain(key, value) for key, value in given.items()}
        folder = out or new_folder(name)
        try:
            for group, kind in groups.items():
                given[group] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
            folder.mkdir(parents=True, exist_ok=True)
            figures = run(**given)
        except Exception as error:
            with suppress(OSError):
                folder.rmdir()  # fails if the folder is not empty; then the folder stays
            fault = _fault(error)
            if fault is None:
                raise
            raise typer.BadParameter(fault) from None
        except KeyboardInterrupt:
            say("interrupted: nothing was written")
            raise typer.Exit(130) from None
        figures.settings = settings | figures.settings
        write(folder, name, figures, commit=commit())
        _show(figures, folder, as_json=as_json)
        raise typer.Exit(figures.exit_code)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def compare_command(
    before: Annotated[
        Path, typer.Argument(help="Folder of the earlier run, or a folder with several runs.", show_default=False)
    ],
    after: Annotated[
        Path, typer.Argument(help="Folder of the later run, or a folder with several runs.", show_default=False)
    ],
    tolerance: Annotated[float, typer.Option(help="Ignore a change of this share or less: 0.1 is 10 %.")] = 0.1,
    as_json: Json = False,
) -> None:
    """Compare runs of a scenario before and after a change.

    Prints the ratio of each figure and its noise. The noise is measured if there are three or more runs on each side; otherwise it is assumed.
    Exits with 1 if a figure is worse by more than the noise, or if a later run did not meet a criterion.
    """
    try:
        comparison = compare(before, after, tolerance=tolerance)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if as_json:
        print(json.dumps(comparison.to_dict()))
    else:
        draw_comparison(Console(highlight=False), comparison)
    for note in comparison.notes:
        say(f"note: {note}")
    for row in comparison.regressions:
        say(f"regression: {changed(row)}")
    for one in comparison.missed:
        say(f"a later run did not meet a criterion: {one}")
    if not comparison.regressions and not comparison.missed:
        say("no regression")
    raise typer.Exit(1 if comparison.regressions or comparison.missed else 0)


def _fault(error: Exception) -> str | None:
    """Return the message for an error in the command or its environment; None for a bug in the program."""
    if isinstance(error, ModuleNotFoundError):
        return f"package {error.name!r} is not installed: {install_command('all')} psutil"
    if isinstance(error, ValueError | OSError | RagcoreError):
        return str(error)
    return None


def _plain(name: str, value: Any) -> Any:
    """Return a setting without secrets, for the report."""
    if name.endswith("url") and value:
        return bare(value)
    if name == "body" and not str(value).startswith("@"):
        return "given" if "{question}" in str(value) and len(str(value)) > len('{"message": "{question}"}') else value
    return str(value) if isinstance(value, Path) else value


def _of_fields(kind: type[Any]) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]


def _show(figures: Figures, folder: Path, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(figures.values))
        for missed in figures.failed:
            say(f"not met: {missed}")
    else:
        console = Console(highlight=False)
        for table in figures.tables:
            draw_table(console, table)
        draw_values(console, figures.values)
        draw_criteria(console, figures)
    for note in figures.notes:
        say(f"note: {note}")
    for reason in figures.invalid:
        say(f"invalid run: {reason}")
    say({0: "all criteria met", 1: "NOT ALL CRITERIA MET", 3: "INVALID RUN: don't use its figures"}[figures.exit_code])
    say(f"report: {folder / 'report.html'}")
