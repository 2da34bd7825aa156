"""The command line: its commands, and the options that stand before a command."""

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
    help="Answer questions over private documents, with citations. Results go to stdout, messages to stderr.",
    epilog="Exit codes: 0 success, 1 partial success, 2 invalid command or configuration, 3 a dependency failed, 4 timeout or overload.",
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
    pool_size: Annotated[
        int | None, typer.Option("--pool-size", help="Largest number of connections to PostgreSQL.", show_default="10")
    ] = None,
    ef_search: Annotated[
        int | None,
        typer.Option(
            "--ef-search",
            help="Candidates of a search in the vector index, 1 to 1000: more are slower and find more.",
            show_default="100",
        ),
    ] = None,
    exact_rows: Annotated[
        int | None,
        typer.Option(
            "--exact-rows",
            help="Search a tenant with at most this many chunks exactly, without the index.",
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
        pool_size=pool_size,
        ef_search=ef_search,
        exact_rows=exact_rows,
        verbose=verbose,
    )


# `ragcore --help` lists the commands in this order.
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
