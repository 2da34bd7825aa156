"""The command line: its commands, and the options that all commands share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
import typer.main
from typer.core import TyperGroup

import ragcore
from ragcore.cli.session import Options, results

__all__ = ["run"]

# The module of each command, in the order in which `ragcore --help` lists them. A command is the function, or the Typer, of its own name.
COMMANDS: Final = {
    "init": "ragcore.cli.init:init",
    "ingest": "ragcore.cli.documents:ingest",
    "ask": "ragcore.cli.questions:ask",
    "search": "ragcore.cli.questions:search",
    "similarity": "ragcore.cli.questions:similarity",
    "thresholds": "ragcore.cli.exploring:thresholds",
    "evaluate": "ragcore.cli.exploring:evaluate",
    "delete": "ragcore.cli.documents:delete",
    "expire": "ragcore.cli.database:expire",
    "documents": "ragcore.cli.documents:documents",
    "migrate": "ragcore.cli.database:migrate",
    "index": "ragcore.cli.database:index",
    "reembed": "ragcore.cli.database:reembed",
    "copy": "ragcore.cli.database:copy",
    "share": "ragcore.cli.database:share",
    "unshare": "ragcore.cli.database:unshare",
    "doctor": "ragcore.cli.service:doctor",
    "serve": "ragcore.cli.service:serve",
    "dashboards": "ragcore.cli.dashboards:dashboards",
    "mcp": "ragcore.cli.mcp:mcp",
    "rollout": "ragcore.cli.rollouts:app",
    "loadtest": "ragcore.cli.loadtest:app",
}


class _Commands(Mapping[str, Any]):
    """The commands by name. The module of a command is imported when its command is looked up, because all of them together take .4 s."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _made(name, COMMANDS[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


def _made(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    value = getattr(import_module(module), attribute)
    if isinstance(value, typer.Typer):
        group = typer.main.get_group(value)
        group.name = name
        return group
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name)(value)
    return typer.main.get_command(alone)


class _OptionsAnywhere(TyperGroup):
    """Accepts the options of the group before and after the command, because people write `ragcore ask … --data folder`."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = cast("Any", _Commands())

    def list_commands(self, ctx: Any) -> list[str]:
        return [*self.commands]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # a Context of click, or of typer's own copy of click
        return super().parse_args(ctx, self._to_the_front(args))

    def _to_the_front(self, args: list[str]) -> list[str]:
        command = next((name for name in args if name in self.commands), None)
        theirs = {name for option in self.commands[command].params for name in option.opts} if command else set()
        # For each option of the group, whether it is a flag. "--version" is left out, because it is eager and so works in any position.
        own = {
            name: bool(getattr(option, "is_flag", False))
            for option in self.params
            for name in {*option.opts} - theirs - {"--version"}
        }
        front: list[str] = []
        rest: list[str] = []
        waiting = iter(args)
        for argument in waiting:
            if argument == "--":  # all arguments after it are positional, even those that look like options
                rest.append(argument)
                break
            name, equals, _ = argument.partition("=")
            if name not in own:
                rest.append(argument)
                continue
            front.append(argument)
            if not equals and not own[name]:
                front += [value for value in [next(waiting, None)] if value is not None]
        return [*front, *rest, *waiting]


app: typer.Typer = typer.Typer(
    name="ragcore",
    cls=_OptionsAnywhere,
    help="Answer questions over private documents, with citations. Results go to stdout, messages to stderr.",
    epilog="Exit codes: 0 success, 1 partial success, 2 invalid command or configuration, 3 a dependency failed, 4 timeout, overload or open circuit breaker.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def run() -> None:
    """Run the command line."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        results.print(f"ragcore {ragcore.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder of an embedded database. Replaces the database that the environment names."
        ),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(
            "--schema", help="The collection, a schema in PostgreSQL.", show_default="RAGCORE_SCHEMA or ragcore"
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option("--language", help="Language of full-text search in a new collection.", show_default="english"),
    ] = None,
    read_dsn: Annotated[
        str | None,
        typer.Option(
            "--read-dsn",
            help="DSN of read replicas, or several separated by blanks. Set RAGCORE_READ_DSN instead if it has a password.",
            show_default="none",
        ),
    ] = None,
    pool_size: Annotated[
        int | None, typer.Option("--pool-size", help="Largest number of connections to PostgreSQL.", show_default="10")
    ] = None,
    ef_search: Annotated[
        int | None,
        typer.Option(
            "--ef-search",
            help="Number of candidates of a search in the vector index, 1 to 1000. A larger number is slower and finds more.",
            show_default="100",
        ),
    ] = None,
    exact_rows: Annotated[
        int | None,
        typer.Option(
            "--exact-rows",
            help="Search exactly, without the index, if the tenant has at most this many chunks.",
            show_default="2,000,000 / dimension",
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show more messages, and tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    context.obj = Options(
        data=data,
        schema=schema,
        language=language,
        read_dsn=read_dsn,
        pool_size=pool_size,
        ef_search=ef_search,
        exact_rows=exact_rows,
        verbose=verbose,
    )
