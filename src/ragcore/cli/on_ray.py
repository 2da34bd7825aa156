"""`ragcore ingest --engine ray`: the client of a worker, which reads the worker's own environment."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from ragcore.cli.rendering import ingest_progress
from ragcore.cli.session import Options, open_client
from ragcore.client.rag import RAG
from ragcore.config import Config
from ragcore.errors import ConfigurationError
from ragcore.types import IngestReport

__all__ = ["ingest_on_ray"]

# Settings that must be the same in all workers. Otherwise the stored document would depend on the worker that adds it.
SAME = ("embedding_model", "embedding_dimension", "schema", "chunk_tokens", "overlap_tokens", "embed_text")


@dataclass(frozen=True, slots=True)
class _Expected:
    """The settings in which a worker's configuration must equal the driver's. They contain no secret."""

    is_local: bool
    settings: tuple[object, ...]


def ingest_on_ray(
    options: Options,
    paths: Sequence[Path],
    *,
    tenant: str,
    address: str | None,
    workers: int | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    strict: bool,
    follow_symlinks: bool,
    whole_pages: bool,
    expires_at: datetime | None,
) -> IngestReport:
    """Run `ragcore.ingest.ray.ingest` with clients that read the environment of their workers, and show its progress."""
    from ragcore.ingest.ray import ingest  # only here, so that the command line starts quickly

    config = options.config()  # an invalid configuration is an error before Ray starts
    expected = _Expected(options.is_local(), _settings(config))
    if options.is_local():
        # A worker's current folder and RAGCORE_DATA may differ.
        options = replace(options, data=options.folder().absolute())
    with ingest_progress() as progress:
        return ingest(
            *paths,
            tenant=tenant,
            client=partial(_open, options, expected),
            address=address,
            workers=workers,
            progress=progress,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            document_timeout=config.settings.document_timeout,
            read_timeout=config.read_timeout,
            follow_symlinks=follow_symlinks,
            strict=strict,
            whole_pages=whole_pages,
            expires_at=expires_at,
        )


@asynccontextmanager
async def _open(options: Options, expected: _Expected) -> AsyncIterator[RAG]:
    """Open the client in a worker.

    Raises:
        ConfigurationError: the worker's environment differs from the driver's.
    """
    where = f"in the environment of the Ray worker on {socket.gethostname()}"
    if options.is_local() and not expected.is_local:
        raise ConfigurationError(f"DATABASE_URL is not set {where}: set it where `ray start` runs")
    try:
        found = _settings(options.config())
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None
    for name, mine, yours in zip(SAME, found, expected.settings, strict=True):
        if mine != yours:
            raise ConfigurationError(f"{name} is {mine!r} {where}, and {yours!r} here: set the same value in both")
    async with open_client(options, creates=True) as rag:
        yield rag


def _settings(config: Config) -> tuple[object, ...]:
    return tuple(getattr(config, name) for name in SAME)
