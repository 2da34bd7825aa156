"""Reports when the files of a folder change."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from os import PathLike
from pathlib import Path

import anyio

from ragcore.compat.extras import require
from ragcore.errors import ConfigurationError, InvalidInput
from ragcore.ingest.files import HIDDEN
from ragcore.ingest.sources.folder import FolderSource
from ragcore.ingest.sources.temporary import clean_up
from ragcore.resilience.threads import Threads

__all__ = ["changes"]

# Changes within this time are reported together. So a text editor, which writes a new file and renames it, causes one report.
DEBOUNCE_SECONDS = 1.6
# After this time without an event, a change is reported anyway: a network drive sends no events, and the system drops some if there are too many.
RESCAN_SECONDS = 300.0
# Seconds after which the thread checks whether to end.
STOP_SECONDS = 0.5


async def changes(
    folder: str | PathLike[str] | FolderSource, /, *, debounce: float = DEBOUNCE_SECONDS, rescan: float = RESCAN_SECONDS
) -> AsyncGenerator[None, None]:
    """Yield None once at the start, and then after each change of the folder's files. Needs the extra `sources`.

    The iterator does not report which files changed. An ingest with `sync` finds that out, and reads only files that have changed. Changes that happen while
    you handle a report are reported together afterwards. Changes of hidden files are ignored.

    Args:
        folder: the folder to watch, or a `FolderSource`.
        debounce: the longest time in seconds for which changes are collected before they are reported. Default 1.6.
        rescan: seconds without a change after which the iterator yields anyway. Default 300.

    Raises:
        InvalidInput: the folder does not exist, or the source is not a folder.
        ConfigurationError: watchfiles is not installed, or a number is not positive.

    Examples:
        ```python
        async for _ in ragcore.ingest.changes("manuals"):
            await rag.ingest("manuals", tenant="a", sync=True)
        ```
    """
    watchfiles = require("watchfiles", extra="sources", purpose="watching a folder")
    if not (debounce > 0 and rescan > 0):
        raise ConfigurationError(
            f"debounce is {debounce} and rescan is {rescan}: both must be positive numbers of seconds"
        )
    threads = Threads(1, name="watching a folder")
    source = folder if isinstance(folder, FolderSource) else await threads.run(lambda: FolderSource(folder))
    if not source.is_folder:
        raise InvalidInput(f"{source.name} is a file: only folders can be watched")
    root = source.root
    ending = threading.Event()
    watcher = watchfiles.watch(
        root,
        watch_filter=lambda _, path: not _is_hidden(root, path),
        stop_event=ending,
        debounce=int(debounce * 1_000),
        rust_timeout=int(STOP_SECONDS * 1_000),
        yield_on_timeout=True,
        raise_interrupt=False,
        ignore_permission_denied=True,
    )
    try:
        # The watch begins before the first report, so that no change is missed.
        await threads.run(lambda: next(watcher, None))
        yield
        last = anyio.current_time()
        while (found := await threads.run(lambda: next(watcher, None))) is not None:
            if found or anyio.current_time() - last >= rescan:
                yield
                last = anyio.current_time()
    finally:
        # If a thread still waits for changes, it ends by itself within half a second.
        ending.set()
        await clean_up(lambda: _close(watcher))


def _close(watcher: Generator[object, None, None]) -> None:
    with suppress(ValueError):  # a thread that still waits for changes runs it
        watcher.close()


def _is_hidden(root: Path, path: str) -> bool:
    try:
        parts = Path(path).relative_to(root).parts
    except ValueError:
        return False
    return any(part.startswith(HIDDEN) for part in parts)
