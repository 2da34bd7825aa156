"""`ragcore ingest --watch`: repeats an ingest with `sync` after each change of a folder, until it is stopped."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from contextlib import aclosing

import anyio

from ragcore.cli.rendering import show_ingest
from ragcore.cli.session import DONE, messages
from ragcore.client.rag import RAG
from ragcore.compat.ability import offers
from ragcore.compat.extras import require
from ragcore.errors import ConfigurationError, InvalidInput, Overloaded, RagcoreError, Unsupported
from ragcore.ingest.sources.folder import FolderSource
from ragcore.ingest.sources.options import IngestOptions
from ragcore.ingest.sources.source import Source
from ragcore.ingest.sources.watching import changes
from ragcore.protocols import OriginStore
from ragcore.types import IngestReport

__all__ = ["check_folders", "watch_folders"]

# Seconds before the next attempt after an error. Each further error doubles them, up to the second number.
FIRST_WAIT, MOST_WAIT = 1.0, 60.0


def check_folders(sources: Sequence[Source]) -> list[FolderSource]:
    """Return the sources if all of them are folders.

    Raises:
        InvalidInput: a source is not a folder.
        ConfigurationError: watchfiles is not installed.
    """
    require("watchfiles", extra="sources", purpose="--watch")
    folders = [source for source in sources if isinstance(source, FolderSource) and source.is_folder]
    for source in sources:
        if source not in folders:
            raise InvalidInput(f"{source.name} is not a folder: --watch watches only folders")
    return folders


async def watch_folders(
    rag: RAG, folders: Sequence[FolderSource], *, tenant: str, as_json: bool, options: IngestOptions
) -> int:
    """Repeat an ingest with `sync` after each change of a folder, until SIGINT or SIGTERM. Return the exit code.

    Raises:
        RagcoreError: the error of the first folder whose watch fails before a run has succeeded. It ends all watches.
    """
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        error: RagcoreError | None = None

        async def stop() -> None:
            async for _ in signals:
                messages.print("watch.stopping: no document is left half-written")
                group.cancel_scope.cancel()
                return

        async def one(folder: FolderSource) -> None:
            nonlocal error
            try:
                await _Watch(rag, folder, tenant, as_json, options).run()
            except RagcoreError as failed:  # kept here, because the task group would raise it in an ExceptionGroup
                error = error or failed
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(stop)
            for folder in folders:
                group.start_soon(one, folder)
        if error is not None:
            raise error
    return DONE


class _Watch:
    """The watch of one folder."""

    def __init__(self, rag: RAG, folder: FolderSource, tenant: str, as_json: bool, options: IngestOptions) -> None:
        self._rag = rag
        self._folder = folder
        self._tenant = tenant
        self._as_json = as_json
        self._options = options
        self._has_worked = False
        self._wait = FIRST_WAIT

    async def run(self) -> None:
        """Watch the folder. After an error, try again.

        Raises:
            RagcoreError: the command is wrong, or another process watches the folder, and no run has succeeded yet.
        """
        while True:
            try:
                await self._watch()
            except RagcoreError as error:
                if not self._has_worked and isinstance(error, InvalidInput | ConfigurationError | Overloaded):
                    raise
                messages.print(f"watch.failed: {error}. Trying again in {self._wait:g} s", style="red", markup=False)
            else:
                messages.print(
                    f"watch.lost: {self._folder.name} is no longer watched. Trying again in {self._wait:g} s",
                    markup=False,
                )
            await anyio.sleep(self._wait)
            self._wait = min(2 * self._wait, MOST_WAIT)

    async def _watch(self) -> None:
        store, name = self._rag.retriever.store, self._folder.name
        if not offers(store, OriginStore):
            raise Unsupported(f"--watch needs a store with records of sources, and {type(store).__name__} has none")
        # Each run has a lock of its own. This lock allows only one process to watch the folder.
        async with store.lock_sources([f"{name} (--watch)"], tenant=self._tenant) as check:
            messages.print(f"watch.started: {name}; stop it with Ctrl+C", markup=False)
            async with aclosing(changes(self._folder)) as changed:
                async for _ in changed:
                    await check()
                    report = await self._rag.ingest(self._folder, tenant=self._tenant, **self._options)
                    self._show(report)
                    self._has_worked, self._wait = True, FIRST_WAIT

    def _show(self, report: IngestReport) -> None:
        if self._has_worked and not (report.added or report.updated or report.failed or report.gone or report.warnings):
            return
        if self._as_json:
            sys.stdout.write(json.dumps(report.to_dict(), ensure_ascii=False, default=str) + "\n")
            sys.stdout.flush()
        else:
            show_ingest(report, as_json=False, sync=True)
