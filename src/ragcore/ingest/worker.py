"""A process that reads files for another one: `python -m ragcore.ingest.worker BYTES`.

It reads requests as JSON lines from stdin, {"path": …, "lines": …, "whole_pages": …}, and writes answers to stdout: four bytes with the length, then JSON. The
parent kills it when a file takes too long or too much memory, so a parser can harm only one file. It ends when its stdin ends.
"""

from __future__ import annotations

import gzip
import json
import os
import stat
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, cast

from ragcore.errors import ConfigurationError, InvalidInput
from ragcore.ingest.parsed import Parsed, Reader
from ragcore.ingest.readers import reader_of
from ragcore.ingest.readers.encoding import decode, storable

__all__ = ["MOST_BYTES", "answers", "main", "parse"]

MOST_BYTES = 64 * 1024 * 1024
MOST_LINE_BYTES = 16 * 1024 * 1024
# Limits for the lines of a .jsonl file in one message, so that a message stays small even if the file is large.
LINES_AT_ONCE = 64
BYTES_AT_ONCE = 4 * 1024 * 1024

Answer = dict[str, Any]


def main() -> None:
    """Answer requests until stdin ends."""
    sys.setrecursionlimit(2_000)
    _limit_memory(int(sys.argv[1]))
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Output that a parser prints must not be mixed with the answers.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    for line in iter(requests.readline, b""):
        for answer in answers(**json.loads(line)):
            body = json.dumps(answer).encode()
            replies.write(struct.pack(">I", len(body)) + body)
            replies.flush()


def answers(path: str, lines: bool, whole_pages: bool) -> Iterator[Answer]:
    """Yield the answers for a file: one answer, or several for a file of lines. The last one has "end": true."""
    try:
        if lines:
            yield from _read_lines(Path(path))
            return
        reader = reader_of(Path(path), whole_pages=whole_pages)
        assert reader is not None
        yield {"parsed": asdict(parse(Path(path), reader)), "end": True}
    except Exception as error:  # a parser may raise any exception: only this file is not read
        yield {**refusal(error), "end": True}


def refusal(error: Exception) -> Answer:
    """Return the reason why a file was not read."""
    match error:
        case (
            InvalidInput() | ConfigurationError()
        ):  # the extra for this format is missing: files of other formats are read
            return {"refused": str(error)}
        case MemoryError():
            return {"refused": "reading it exceeds the memory limit"}
        case RecursionError():
            return {"refused": "it is nested too deeply"}
        case OSError():
            return {"refused": f"it can't be opened: {error.strerror or error}"}
    return {"refused": f"it is broken ({type(error).__name__}: {str(error)[:200]})"}


def parse(path: Path, reader: Reader) -> Parsed:
    """Read a file with its reader.

    Raises:
        InvalidInput: the file is too large, not a regular file, or has no text.
    """
    with _regular(path) as file:
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise InvalidInput(f"it is larger than {MOST_BYTES // 2**20} MB: split it")
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InvalidInput(f"it is larger than {MOST_BYTES // 2**20} MB: split it")
    parsed = reader(data)
    if not parsed.text.strip():
        raise InvalidInput("it has no text")
    return replace(parsed, text=storable(parsed.text), title=storable(parsed.title))


def _regular(path: Path) -> IO[bytes]:
    """Open a regular file. Refuse pipes and devices, because they may never end."""
    # With O_NONBLOCK, opening a pipe doesn't wait until another process opens its other end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidInput("it is not a regular file")
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _read_lines(path: Path) -> Iterator[Answer]:
    number = 0
    try:
        with _regular(path) as raw:
            packed = path.name.lower().endswith(".gz")
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
            batch: list[Answer] = []
            size = 0
            while line := stream.readline(MOST_LINE_BYTES):
                number += 1
                if len(line) == MOST_LINE_BYTES:
                    raise InvalidInput(f"line {number:,} is longer than {MOST_LINE_BYTES // 2**20} MB")
                if line.strip():
                    batch.append(_line(number, line))
                    size += len(line)
                if len(batch) >= LINES_AT_ONCE or size >= BYTES_AT_ONCE:
                    yield {"lines": batch, "end": False}
                    batch, size = [], 0
            yield {"lines": batch, "end": True}
            return
    except (OSError, EOFError, zlib.error, InvalidInput) as error:
        reason = str(error) or type(error).__name__
        if number:
            reason = f"reading stopped after line {number:,}: {reason}"
        yield {"lines": batch if number else [], "end": False}
        yield {"refused": reason, "end": True}


def _line(number: int, line: bytes) -> Answer:
    try:
        text, _ = decode(line)
        fields = json.loads(text)
    except InvalidInput as error:
        return {"number": number, "refused": str(error)}
    except ValueError as error:
        return {"number": number, "refused": f"it is not JSON: {error}"}
    except RecursionError:
        return {"number": number, "refused": "it is nested too deeply"}
    if (
        not isinstance(fields, dict)
        or not isinstance(fields.get("text"), str)
        or isinstance(fields.get("id"), bool)
        or not isinstance(fields.get("id"), str | int)
    ):
        return {"number": number, "refused": 'it must be an object with "id" and "text"'}
    fields["text"] = storable(fields["text"])
    return {"number": number, "fields": fields}


def _limit_memory(most: int) -> None:
    """Limit the bytes of memory that this process may use in addition to its present use. 0: no limit."""
    if not most:
        return
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        has = pages * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, OSError, ValueError):  # not supported on this system: only the time limit applies
        return


if __name__ == "__main__":
    main()
