"""Ingestion on Ray Data: the local engine's steps as operations of a dataset, on many processes or machines.

The driver finds the files. One operation reads them. Another one cuts, embeds and writes the documents, because each of these steps needs the whole document,
and a document is written completely or not at all. If a worker or a node dies, Ray repeats its blocks. The content hash makes that safe: a document that is
stored already is neither embedded nor written again.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from os import PathLike
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import UUID

from ragcore.errors import ConfigurationError, DependencyError, InvalidInput, RagcoreError
from ragcore.ingest.files import File, Others, check_paths, find
from ragcore.ingest.options import READ_SECONDS, check_read_timeout
from ragcore.ingest.ray.cluster import cluster
from ragcore.ingest.ray.coordinator import start_coordinator
from ragcore.ingest.ray.workers import Adder, Adding, Limits, Outcome, Reader, ReadOptions, table, unpacked
from ragcore.ingest.reading import SAME_ID
from ragcore.ingest.run import MOST_DOUBTS
from ragcore.ingest.sources.folder import FolderSource
from ragcore.resilience import RateLimiter
from ragcore.types import Doubt, IngestReport, Origin, Unreadable
from ragcore.types.validation import check_tenant, check_timeout

__all__ = ["CPUS", "executing", "ingest", "outcomes", "pool", "workers_of"]

logger: logging.Logger = logging.getLogger("ragcore.ingest")

PURPOSE = "ingestion on Ray"
# Small blocks keep memory small, and little work is repeated if a worker dies.
BLOCK_BYTES = 256 * 1024
FILES_IN_A_BLOCK = 32
# A worker reserves half a CPU, because it waits for the embedder and the database most of the time.
CPUS = 0.5


def ingest(
    *paths: str | PathLike[str],
    tenant: str | UUID,
    client: Callable[[], AbstractAsyncContextManager[Adding]],
    address: str | None = None,
    workers: int | None = None,
    progress: Callable[[IngestReport], None] | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    document_timeout: float | None = None,
    read_timeout: float = READ_SECONDS,
    follow_symlinks: bool = False,
    strict: bool = False,
    whole_pages: bool = False,
    expires_at: datetime | None = None,
) -> IngestReport:
    """Read files and folders, and add their documents with Ray's workers. Blocks until all are added.

    Each worker opens a client of its own. Documents that can't be read or added are listed in `report.failed`, as with `RAG.add`. A run after an error adds
    only the missing documents. If a worker died, documents that it had written may count as unchanged.

    Args:
        paths: files and folders. Each worker must be able to read them at the same path.
        tenant: the owner of the documents.
        client: function that makes the client. It is called in each worker, so it reads the worker's environment, and no secret leaves a machine. Ray must
            be able to pickle the function; a function of a module that is installed on all machines always works.
        address: the address of a Ray cluster, such as "127.0.0.1:6379"; None: the one in RAY_ADDRESS, or a new cluster on this machine, which ends with
            the call.
        workers: number of processes that add documents. Up to half as many further processes read files. None: the number of the cluster's CPUs.
        progress: called with the report so far.
        requests_per_minute: limit of the embedding provider for all workers together. A pause that it asks for, as with a 429, pauses all workers.
        tokens_per_minute: the same for tokens.
        document_timeout: seconds for each step of a document, as in `RAG.add`.
        read_timeout: seconds for reading each file, as in `ingest.read`.
        follow_symlinks: as in `ingest.read`.
        strict: as in `ingest.read`.
        whole_pages: as in `ingest.read`.
        expires_at: time at which documents without an expiry of their own expire.

    Raises:
        InvalidInput: a path does not exist, or there is no file to read.
        ConfigurationError: an option is invalid, Ray is not installed or can't be reached, or the configuration in a worker is invalid.
        RagcoreError: a dependency failed in a worker, and retries did not help: the errors of `RAG.add`.
        DependencyError: Ray itself failed.

    Examples:
        ```python
        def client() -> ragcore.RAG:
            return ragcore.RAG.from_config(ragcore.Config.from_env())

        report = ingest("manuals", tenant="acme", client=client, tokens_per_minute=1_000_000)
        ```
    """
    began = perf_counter()
    owner = check_tenant(tenant)
    check_read_timeout(read_timeout)
    check_timeout(document_timeout, name="document_timeout")
    RateLimiter(requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute)
    limits = Limits(requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute)
    given = [Path(os.fspath(path)).expanduser() for path in paths]
    check_paths(given)
    tally = _Tally(began, progress)
    files = list(_found(given, tally, follow_symlinks=follow_symlinks, strict=strict))
    if not files:
        return tally.report()
    options = ReadOptions(read_timeout=read_timeout, whole_pages=whole_pages, expires_at=expires_at)
    with cluster(address, workers=workers, purpose=PURPOSE) as ray, executing(ray):
        count = workers_of(ray, workers)
        readers = min(max(1, count // 2), len(files))
        coordinator = start_coordinator(
            ray, requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute
        )
        size = min(FILES_IN_A_BLOCK, max(1, len(files) // (4 * readers)))
        dataset = (
            ray.data.from_arrow([table(*files[start : start + size]) for start in range(0, len(files), size)])
            .map_batches(
                Reader,
                fn_constructor_args=(options, coordinator),
                batch_size=None,
                batch_format="pyarrow",
                # Readers reserve no CPU: after the death of a node, a reader must start even if the other workers reserve all CPUs that are left.
                num_cpus=0,
                compute=pool(ray, readers),
            )
            .map_batches(
                Adder,
                fn_constructor_args=(client, owner, document_timeout, limits, coordinator),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=CPUS,
                # While one block is written, the next one is embedded.
                compute=pool(ray, count, at_once=2),
            )
        )
        for reports in outcomes(dataset):
            for report in reports:
                tally.add(report)
    return tally.report()


def workers_of(ray: Any, workers: int | None) -> int:
    """Return the number of workers; None: the number of the cluster's CPUs.

    Raises:
        ConfigurationError: the number is invalid, or the cluster has too few CPUs.
    """
    if workers is not None and (isinstance(workers, bool) or not (isinstance(workers, int) and workers >= 1)):
        raise ConfigurationError(f"workers is {workers!r}: it must be a whole number, at least 1, or None")
    cpus = float(ray.cluster_resources().get("CPU", 0.0))
    needed = CPUS * (1 if workers is None else workers)
    if cpus < needed:
        raise ConfigurationError(
            f"the Ray cluster has {cpus:g} CPUs, and {workers or 1} workers need {needed:g}: start it with more --num-cpus, or use fewer workers"
        )
    return workers or max(1, int(cpus))


def pool(ray: Any, size: int, *, at_once: int = 1) -> Any:
    """Return a pool of `size` actors. Each works on `at_once` blocks at once."""
    return ray.data.ActorPoolStrategy(
        # The size is fixed: a pool that scales would shrink while the files are still being read.
        size=size,
        max_concurrent_calls_per_actor=at_once,
        enable_true_multi_threading=at_once > 1,
        max_tasks_in_flight_per_actor=at_once + 1,
    )


@contextmanager
def executing(ray: Any) -> Iterator[None]:
    """Configure Ray Data inside the `with` block: small blocks of data, and no output. The settings of other datasets stay."""
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = BLOCK_BYTES
    context.target_min_block_size = 1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    ray_logger = logging.getLogger("ray.data")
    level = ray_logger.level
    ray_logger.setLevel(logging.CRITICAL)
    try:
        with ray.data.DataContext.current(context), warnings.catch_warnings():
            # There may be fewer blocks than workers.
            warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
            yield
    finally:
        ray_logger.setLevel(level)


def outcomes(dataset: Any) -> Iterator[Any]:
    """Run a dataset, and yield the result of each block.

    Raises:
        RagcoreError: the error of a block. It ends the run.
        DependencyError: Ray itself failed.
    """
    from ray.exceptions import RayError

    rows = iter(dataset.iter_rows())
    try:
        for row in rows:
            outcome: Outcome = unpacked(row["value"])
            if outcome.error is not None:
                raise outcome.error
            yield outcome.result
    except RagcoreError:
        raise
    except RayError as error:
        raise _of_ray(error) from error
    finally:
        # Closing the iterator ends the executor, also after an error or Ctrl-C.
        close = getattr(rows, "close", None)
        if close is not None:
            close()


def _of_ray(error: Exception) -> RagcoreError:
    """Return the ragcore error for an error of Ray: a worker's own error if there is one."""
    cause: BaseException | None = getattr(error, "cause", None) or error
    while cause is not None:
        if isinstance(cause, RagcoreError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return DependencyError(
        f"Ray failed ({type(error).__name__}): see the logs in its session directory, /tmp/ray/session_latest/logs. Run the ingest again to add the "
        "missing documents",
        dependency="Ray",
        stage="write",
    )


def _found(paths: list[Path], tally: _Tally, *, follow_symlinks: bool, strict: bool) -> Iterator[File]:
    """Yield the files below the paths, and count those that can't be read. Of two files with the same id, the first one is read."""
    others, seen, found_any = Others(), set[str](), False
    for path in paths:
        source = FolderSource(path, follow_symlinks=follow_symlinks)
        for file in find(path, others, known=frozenset(), follow_symlinks=follow_symlinks, strict=strict):
            found_any = True
            if isinstance(file, Unreadable):
                tally.fail(file)
            elif not file.is_lines and file.id in seen:
                tally.fail(Unreadable(file.id, SAME_ID, source=str(file.path)))
            else:
                if not file.is_lines:
                    seen.add(file.id)
                # The paths and the records are those of the local engine, so that each engine finds the other's documents unchanged.
                yield replace(
                    file,
                    path=file.path.absolute(),
                    address=file.shown,
                    origin=Origin(source=source.name, entry=file.id, takes_over=True),
                )
    others.warn()
    if not found_any:
        raise InvalidInput(f"there is no readable file in {', '.join(map(str, paths))}")


@dataclass(slots=True)
class _Tally:
    """Adds up the reports of the workers."""

    began: float
    progress: Callable[[IngestReport], None] | None
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    chunks: int = 0
    tokens: int | None = None
    failed: list[Unreadable] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)

    def add(self, report: IngestReport) -> None:
        self.added += report.added
        self.updated += report.updated
        self.unchanged += report.unchanged
        self.chunks += report.chunks
        if report.embedding_tokens is not None:
            self.tokens = (self.tokens or 0) + report.embedding_tokens
        self.failed += report.failed
        self.doubts += report.warnings[: max(0, MOST_DOUBTS - len(self.doubts))]
        if self.progress is not None:
            self.progress(self.report())

    def fail(self, unreadable: Unreadable) -> None:
        self.failed.append(unreadable)

    def report(self) -> IngestReport:
        return IngestReport(
            added=self.added,
            updated=self.updated,
            unchanged=self.unchanged,
            chunks=self.chunks,
            embedding_tokens=self.tokens,
            failed=tuple(self.failed),
            warnings=tuple(self.doubts),
            seconds=perf_counter() - self.began,
        )
