"""A scenario as a command: its options from the parameters of its function, its figures on stdout, its report in a folder."""

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

EXIT_CODES = (
    "Exit codes: 0 all criteria reached, 1 one was not, 2 the command is at fault, 3 the run should not be believed."
)
Json = Annotated[bool, typer.Option("--json", help="One flat JSON object on stdout.")]
Quick = Annotated[bool, typer.Option("--quick", help="Less of everything: ends within 50 s on 2 cores.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder for the report.", show_default="results/<time>-<scenario>")
]


def scenario_command(
    name: str, run: Callable[..., Figures], *, commit: Callable[[], str | None] = lambda: None
) -> Callable[..., None]:
    """The scenario as a command: its own options, those of a dataclass among them one by one, and those of every scenario.

    Args:
        run: called with its options by name; a parameter that is a dataclass gets one made of its fields.
        commit: names the version of what is measured, for the report.
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
                folder.rmdir()  # where nothing stands in it
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
        Path, typer.Argument(help="Folder of the earlier run, or of several runs' folders.", show_default=False)
    ],
    after: Annotated[
        Path, typer.Argument(help="Folder of the later run, or of several runs' folders.", show_default=False)
    ],
    tolerance: Annotated[float, typer.Option(help="A ratio this far from 1 does not matter.")] = 0.1,
    as_json: Json = False,
) -> None:
    """Compare runs of a scenario before and after a change.

    Prints ratios and their noise. Three runs or more on each side measure the noise, fewer assume it. Exits with 1 if a figure got worse beyond it, or if
    a later run missed a criterion.
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
        say(f"not reached after: {one}")
    if not comparison.regressions and not comparison.missed:
        say("no regression")
    raise typer.Exit(1 if comparison.regressions or comparison.missed else 0)


def _fault(error: Exception) -> str | None:
    """What the command or its surroundings are at fault for, in words; None: a fault of the program's own."""
    if isinstance(error, ModuleNotFoundError):
        return f"this needs the package {error.name!r}: {install_command('all')} psutil"
    if isinstance(error, ValueError | OSError | RagcoreError):
        return str(error)
    return None


def _plain(name: str, value: Any) -> Any:
    """A setting as a report may show it."""
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
            say(f"not reached: {missed}")
    else:
        console = Console(highlight=False)
        for table in figures.tables:
            draw_table(console, table)
        draw_values(console, figures.values)
        draw_criteria(console, figures)
    for note in figures.notes:
        say(f"note: {note}")
    for reason in figures.invalid:
        say(f"not to be believed: {reason}")
    say({0: "all criteria reached", 1: "NOT ALL CRITERIA REACHED", 3: "NOT TO BE BELIEVED"}[figures.exit_code])
    say(f"report: {folder / 'report.html'}")
