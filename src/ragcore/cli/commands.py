"""The command line as a whole: its commands, and the options before any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import ragcore
from ragcore.cli import loadtest
from ragcore.cli.database import expire, migrate, reembed
from ragcore.cli.documents import delete, documents, ingest
from ragcore.cli.exploring import evaluate, thresholds
from ragcore.cli.questions import ask, search, similarity
from ragcore.cli.service import doctor, serve
from ragcore.cli.session import Options, results

__all__ = ["run"]

app: typer.Typer = typer.Typer(
    name="ragcore",
    help="Questions over private documents, answered with citations. Results on stdout, messages on stderr.",
    epilog="Exit codes: 0 done, 1 done in part, 2 command or configuration at fault, 3 a dependency failed, 4 out of time or room.",
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
        typer.Option("--data", help="Folder of an embedded database, in place of the one that the environment names."),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(
            "--schema", help="The collection: its schema in PostgreSQL.", show_default="RAGCORE_SCHEMA or ragcore"
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option("--language", help="Of text search, for a collection that is made.", show_default="english"),
    ] = None,
    pool_size: Annotated[
        int | None, typer.Option("--pool-size", help="Connections to PostgreSQL at most.", show_default="10")
    ] = None,
    ef_search: Annotated[
        int | None, typer.Option("--ef-search", help="How widely the index is searched, 1 to 1000.", show_default="100")
    ] = None,
    exact_rows: Annotated[
        int | None,
        typer.Option(
            "--exact-rows",
            help="Chunks up to which a tenant is searched exactly.",
            show_default="2,000,000 / dimension",
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More messages, and tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    context.obj = Options(
        data=data,
        schema=schema,
        language=language,
        pool_size=pool_size,
        ef_search=ef_search,
        exact_rows=exact_rows,
        verbose=verbose,
    )


# In the order of `ragcore --help`.
for command in (
    ingest,
    ask,
    search,
    similarity,
    thresholds,
    evaluate,
    delete,
    expire,
    documents,
    migrate,
    reembed,
    doctor,
    serve,
):
    app.command()(command)
app.add_typer(loadtest.app, name="loadtest")
