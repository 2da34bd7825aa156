"""Reads files and folders as documents.

Worker processes read a few files ahead, and the documents come in the order of the files. A file that can't be read becomes an `Unreadable` with the reason,
even if its reader crashed, and the next file is read.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from datetime import datetime
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import anyio

from ragcore.errors import InvalidInput
from ragcore.ingest.files import File, Others, check_paths, find
from ragcore.ingest.options import READ_SECONDS, Reading, UserReader, reading
from ragcore.ingest.parsed import Parsed
from ragcore.ingest.processes import Broke, Worker, start_worker
from ragcore.ingest.readers import SUFFIXES
from ragcore.ingest.worker import Answer, parse, refusal
from ragcore.resilience.threads import Threads
from ragcore.types import Document, Unreadable

__all__ = ["SUFFIXES", "read", "read_files"]

logger: logging.Logger = logging.getLogger("ragcore.ingest")

SAME_ID = "an earlier document has the same id: give one of them another id, or pass their common folder"

# Number of file names that a thread finds in one step.
NAMES_AT_ONCE = 64
GRACE_SECONDS = 0.5
MOST_TITLE = 300


def read(
    *paths: str | PathLike[str],
    read_timeout: float = READ_SECONDS,
    processes: int | None = None,
    readers: Mapping[str, UserReader] | None = None,
    follow_symlinks: bool = False,
    strict: bool = False,
    whole_pages: bool = False,
) -> AsyncIterator[Document | Unreadable]:
    """Read files and folders in the order of their names. Read subfolders as well, but no hidden files.

    A document's id is its path relative to the given folder, with "/". For a single file it is the file's name, for a line of .jsonl its "id". A form feed
    separates the pages of a PDF, and a chunk's metadata has its "page". The field "expires_at" in a line of .jsonl, in ISO 8601, becomes `Document.expires_at`.
    Doubts about a text, such as a guessed encoding, are in `Document.warnings`.

    Args:
        read_timeout: seconds for each file, and for each 64 lines of .jsonl. Default 120.
        processes: number of worker processes. None: one for each core. 0: read on threads, without a memory limit.
        readers: functions for other types, by suffix, such as {".png": my_ocr}. A function takes bytes and returns a text (or `Parsed`). It runs on a thread
            of this process, and replaces ragcore's reader for the same suffix.
        follow_symlinks: whether to follow symbolic links that lead out of the folder. Default False: they are reported as `Unreadable`.
        strict: whether to report files of unknown types as `Unreadable`. Default False: they are left out, with a warning in the log.
        whole_pages: whether to read all of an HTML page. Default False: only its main content, without navigation, teasers, comments and footers.

    Yields:
        `Document`, or `Unreadable` for a file or a line that can't be read.

    Raises:
        InvalidInput: a path does not exist, or there is no file to read.
        ConfigurationError: an option has an invalid value. If the extra for a format is missing (`pdf`, `chunking` for HTML, `office`), each file that
            needs it is an `Unreadable` whose reason has the install command.

    Examples:
        ```python
        async for document in ragcore.ingest.read("manuals"):
            print(document.id)
        ```
    """
    options = reading(
        read_timeout=read_timeout,
        processes=processes,
        readers=readers,
        follow_symlinks=follow_symlinks,
        strict=strict,
        whole_pages=whole_pages,
    )
    return _distinct(_read([_path(path) for path in paths], options))


def _path(path: object) -> Path:
    if not isinstance(path, str | PathLike) or not os.fspath(path):
        raise InvalidInput(f"{path!r} is not a path: pass each file or folder as a separate argument")
    try:
        return Path(path).expanduser()
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidInput(f"{str(path)[:200]!r} can't be read: {error}") from None


async def _distinct(
    documents: AsyncGenerator[Document | Unreadable, None],
) -> AsyncGenerator[Document | Unreadable, None]:
    """Report a document as unreadable if an earlier one has its id. One of two files of the same name would otherwise replace the other."""
    seen: set[str] = set()
    async with aclosing(documents):
        async for document in documents:
            if isinstance(document, Document) and document.id in seen:
                yield Unreadable(document.id, SAME_ID, source=document.source)
                continue
            seen.add(document.id)
            yield document


async def _read(paths: list[Path], options: Reading) -> AsyncGenerator[Document | Unreadable, None]:
    threads = Threads(1, name="finding files")
    await threads.run(lambda: check_paths(paths, known=options.known))
    others = Others()
    found_any = False

    async def found() -> AsyncGenerator[File | Unreadable, None]:
        nonlocal found_any
        async with aclosing(_found(threads, paths, others, options)) as files:
            async for file in files:
                found_any = True
                yield file

    async with aclosing(read_files(found(), options)) as documents:
        async for document in documents:
            yield document
    if others:
        logger.warning("ingest: files of unknown types were left out: %s", others)
    if not found_any:
        names = ", ".join(map(str, paths))
        raise InvalidInput(f"there is no readable file in {names}; supported types: {', '.join(SUFFIXES)}")


async def read_files(
    found: AsyncGenerator[File | Unreadable, None], options: Reading
) -> AsyncGenerator[Document | Unreadable, None]:
    """Read files ahead in worker processes, and yield their documents in the order of `found`. An `Unreadable` passes unchanged."""
    crew = _Crew(options)
    try:
        async with aclosing(found) as files:
            async for file in files:
                while crew.has_jobs if isinstance(file, Unreadable) else crew.is_full:
                    async with aclosing(crew.first()) as documents:
                        async for document in documents:
                            yield document
                if isinstance(file, Unreadable):
                    yield file
                else:
                    await crew.begin(file)
        while crew.has_jobs:
            async with aclosing(crew.first()) as documents:
                async for document in documents:
                    yield document
    finally:
        await crew.stop()


async def _found(
    threads: Threads, paths: list[Path], others: Others, options: Reading
) -> AsyncGenerator[File | Unreadable, None]:
    """Yield the files. A thread finds a few at a time, so that a large folder needs no list in memory."""
    for path in paths:
        files = find(path, others, known=options.known, follow_symlinks=options.follow_symlinks, strict=options.strict)
        while some := await threads.run(lambda files=files: list(islice(files, NAMES_AT_ONCE))):  # type: ignore[misc]  # mypy can't infer a default's type
            for file in some:
                yield file


class _Job:
    """A file that a worker is reading."""

    def __init__(self, file: File, worker: Worker | None, until: float) -> None:
        self.file = file
        self.worker = worker
        self.until = until


class _Crew:
    """The workers and the files that they read, in order. No background tasks are needed, because the workers are separate processes."""

    def __init__(self, options: Reading) -> None:
        self._options = options
        self._idle: list[Worker] = []
        self._jobs: deque[_Job] = deque()
        self._all: list[Worker] = []
        self._user = Threads(1, name="reading")
        self._is_noted = False

    @property
    def is_full(self) -> bool:
        """Whether the number of files in progress has reached the limit of workers."""
        return len(self._jobs) >= self._options.count

    @property
    def has_jobs(self) -> bool:
        """Whether any file is being read."""
        return bool(self._jobs)

    async def begin(self, file: File) -> None:
        """Give a file to an idle worker."""
        until = anyio.current_time() + self._options.seconds
        if file.path.suffix.lower() in self._options.readers:
            self._jobs.append(_Job(file, None, until))
            return
        worker = self._idle.pop() if self._idle else await self._start()
        job = _Job(file, worker, until)
        try:
            await worker.ask(file.path, lines=file.is_lines, whole_pages=self._options.whole_pages)
        except Broke:  # the worker ended while it was idle
            await self._end(worker)
            job.worker = worker = await self._start()
            await worker.ask(file.path, lines=file.is_lines, whole_pages=self._options.whole_pages)
        self._jobs.append(job)

    async def first(self) -> AsyncGenerator[Document | Unreadable, None]:
        """Yield the documents of the file that was begun first."""
        job = self._jobs.popleft()
        if job.worker is None:
            yield await self._with_users_reader(job.file)
            return
        worker = job.worker
        until = job.until
        while True:
            try:
                # A file that was begun long ago has probably been read already: give its worker a short time to answer.
                with anyio.move_on_after(max(GRACE_SECONDS, until - anyio.current_time())) as scope:
                    answer = await worker.answer()
            except Broke:
                await self._end(worker)
                yield _unreadable(job.file, "its reader crashed or exceeded the memory limit")
                return
            except BaseException:
                self._jobs.appendleft(job)
                raise
            if scope.cancelled_caught:
                await self._end(worker)
                yield _unreadable(job.file, f"it could not be read within {self._options.seconds:g} s")
                return
            if answer.get("end"):
                self._idle.append(worker)
            for document in _documents(job.file, answer, note="" if self._is_noted else worker.note):
                self._is_noted = self._is_noted or isinstance(document, Document)
                yield document
            if answer.get("end"):
                return
            until = anyio.current_time() + self._options.seconds

    async def stop(self) -> None:
        """End all workers."""
        for worker in list(self._all):
            await self._end(worker)

    async def _start(self) -> Worker:
        worker = await start_worker(process=self._options.processes != 0)
        self._all.append(worker)
        return worker

    async def _end(self, worker: Worker) -> None:
        self._all.remove(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        await worker.stop()

    async def _with_users_reader(self, file: File) -> Document | Unreadable:
        reader = self._options.readers[file.path.suffix.lower()]

        def work() -> Parsed:
            def as_parsed(data: bytes) -> Parsed:
                made = reader(data)
                if not isinstance(made, str | Parsed):
                    raise InvalidInput(
                        f"the reader for {file.path.suffix} returned {type(made).__name__}: it must return a str or a Parsed"
                    )
                return made if isinstance(made, Parsed) else Parsed(made)

            return parse(file.path, as_parsed)

        answer: Answer
        with anyio.move_on_after(self._options.seconds) as scope:
            try:
                parsed = await self._user.run(work)
                answer = {"parsed": _fields(parsed)}
            except Exception as error:  # the user's own function may raise anything
                answer = refusal(error)
        if scope.cancelled_caught:
            self._user = Threads(1, name="reading")  # the old thread is abandoned
            return _unreadable(file, f"it could not be read within {self._options.seconds:g} s")
        return next(_documents(file, answer))


def _fields(parsed: Parsed) -> dict[str, Any]:
    return {
        "text": parsed.text,
        "title": parsed.title,
        "metadata": dict(parsed.metadata),
        "warnings": list(parsed.warnings),
    }


def _documents(file: File, answer: Answer, *, note: str = "") -> Iterator[Document | Unreadable]:
    """Yield the documents in a worker's answer."""
    if "refused" in answer:
        yield _unreadable(file, answer["refused"])
    elif "parsed" in answer:
        parsed = answer["parsed"]
        title = " ".join(str(parsed["title"]).split())[:MOST_TITLE]
        yield _document(
            file,
            file.id,
            id=file.id,
            text=parsed["text"],
            title=title or file.path.stem,
            source=str(file.path),
            metadata=parsed["metadata"],
            warnings=tuple(filter(None, [*parsed["warnings"], note])),
        )
    for line in answer.get("lines", ()):
        where = f"{file.id}:{line['number']}"
        if "refused" in line:
            yield Unreadable(where, line["refused"], source=str(file.path))
            continue
        fields = dict(line["fields"])
        try:
            expires_at = _moment(fields.pop("expires_at", None))
        except InvalidInput as error:
            yield Unreadable(where, str(error), source=str(file.path))
            continue
        if isinstance(fields.get("metadata"), dict):  # its fields are joined with the line's other fields
            fields |= {name: value for name, value in fields.pop("metadata").items() if name not in fields}
        yield _document(
            file,
            where,
            expires_at=expires_at,
            id=str(fields.pop("id")),
            text=fields.pop("text"),
            title=str(fields.pop("title", "") or ""),
            source=str(fields.pop("source", "") or where),
            metadata=fields,
            warnings=(note,) if note else (),
        )
        note = ""


def _moment(given: object) -> datetime | None:
    if given is None:
        return None
    try:
        return datetime.fromisoformat(str(given))
    except ValueError:
        raise InvalidInput(f"expires_at is {given!r}: it must be like 2030-01-31T00:00:00Z") from None


def _document(file: File, where: str, **fields: Any) -> Document | Unreadable:
    try:
        return Document(**fields)
    except InvalidInput as error:
        return Unreadable(where, str(error), source=str(file.path))


def _unreadable(file: File, reason: str) -> Unreadable:
    return Unreadable(file.id, reason, source=str(file.path))
