"""Files and folders as documents: .md, .txt, .html, .pdf, .jsonl and .jsonl.gz.

Reading and parsing happen on threads. A file that can't be read becomes an `Unreadable` with its reason, and the next one is read.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import IO, Any, cast

import anyio

from ragcore.errors import ConfigurationError, DeadlineExceeded, InvalidInput
from ragcore.extras import require
from ragcore.ingest.chunking import HEADING, PAGE_BREAK
from ragcore.resilience.deadline import deadline
from ragcore.resilience.threads import Threads
from ragcore.types import Document, Unreadable

__all__ = ["SUFFIXES", "read"]

logger = logging.getLogger("ragcore.ingest")

MOST_BYTES = 64 * 1024 * 1024
MOST_LINE_BYTES = 16 * 1024 * 1024
LINES_AT_ONCE = 64
SECONDS_PER_FILE = 120.0
# A line of a PDF is a heading if it is this much larger than most of the page's letters.
HEADING_RATIO = 1.15
MOST_HEADING_CHARACTERS = 120


def read(*paths: str | PathLike[str]) -> AsyncIterator[Document | Unreadable]:
    """The documents of files and folders, in the order of their names; folders with all that lies in them, hidden files left out.

    Ids are the paths relative to the folder that was named, with "/"; of a single file, its name; of a line of .jsonl, its "id". A PDF's pages
    are parted by a form feed, from which a chunk's metadata gets its "page".

    Yields:
        `Document`, or `Unreadable` for a file or a line that is broken.

    Raises:
        InvalidInput: a path that doesn't exist, or a folder with nothing to read in it.
        ConfigurationError: the extra for a format (`pdf`; `chunking` for HTML) is missing.

    Example:
        ```python
        async for document in ragcore.ingest.read("policies"):
            print(document.id)
        ```
    """
    return _read([Path(path) for path in paths])


async def _read(paths: list[Path]) -> AsyncIterator[Document | Unreadable]:
    threads = Threads(1, name="reading")
    for path in paths:
        for file in await threads.run(lambda path=path: _files(path)):  # type: ignore[misc]  # mypy can't infer a default's type here
            if file.is_lines:
                async for document in _read_lines(threads, file):
                    yield document
            else:
                yield await _read_file(threads, file)


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    id: str

    @property
    def is_lines(self) -> bool:
        return self.path.name.lower().endswith((".jsonl", ".jsonl.gz"))


def _files(path: Path) -> list[_File]:
    path = path.expanduser()
    if path.is_file():
        if _reader(path) is None and not _File(path, "").is_lines:
            raise InvalidInput(f"{path} is of a type that can't be read; these can: {', '.join(SUFFIXES)}")
        return [_File(path, path.name)]
    if not path.is_dir():
        raise InvalidInput(f"there is no file or folder {path}")
    files, others = [], Counter[str]()
    for found in sorted(_walk(path)):
        if _reader(found) is not None or _File(found, "").is_lines:
            files.append(_File(found, found.relative_to(path).as_posix()))
        else:
            others[found.suffix.lower() or found.name] += 1
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        logger.warning("%s: files of other types were left out: %s", path, kinds)
    if not files:
        raise InvalidInput(f"the folder {path} has nothing to read; these types can be read: {', '.join(SUFFIXES)}")
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent) / name for name in names if not name.startswith("."))


async def _read_file(threads: Threads, file: _File) -> Document | Unreadable:
    try:
        with deadline(SECONDS_PER_FILE):
            return await threads.run(lambda: _parse(file))
    except DeadlineExceeded:
        return Unreadable(file.id, f"it could not be read within {SECONDS_PER_FILE:g} s", source=str(file.path))


def _parse(file: _File) -> Document | Unreadable:
    reader = _reader(file.path)
    assert reader is not None
    try:
        if file.path.stat().st_size > MOST_BYTES:
            raise InvalidInput(f"it is larger than {MOST_BYTES // 2**20} MB: split it")
        parsed = reader(file.path.read_bytes())
        if not parsed.text.strip():
            raise InvalidInput("it has no text")
        title = parsed.title or file.path.stem
        return Document(file.id, parsed.text, title=title, source=str(file.path), metadata=parsed.metadata)
    except ConfigurationError:
        raise
    except InvalidInput as error:
        return Unreadable(file.id, str(error), source=str(file.path))
    except OSError as error:
        return Unreadable(file.id, f"it can't be opened: {error.strerror or error}", source=str(file.path))
    except Exception as error:  # parsers raise anything on a broken file; the rest must go in
        return Unreadable(file.id, f"it is broken ({type(error).__name__}: {str(error)[:200]})", source=str(file.path))


@dataclass(frozen=True, slots=True)
class _Parsed:
    text: str
    title: str
    metadata: dict[str, Any]


def _reader(path: Path) -> Callable[[bytes], _Parsed] | None:
    return READERS.get(path.suffix.lower())


def _read_text(data: bytes) -> _Parsed:
    return _Parsed(_decoded(data), "", {})


def _read_markdown(data: bytes) -> _Parsed:
    text = _decoded(data)
    first = next((line for line in text.splitlines() if line.strip()), "")
    heading = HEADING.match(first)
    return _Parsed(text, heading[2].strip() if heading else "", {})


def _read_html(data: bytes) -> _Parsed:
    bs4 = require("bs4", extra="chunking", purpose="reading HTML")
    markdownify = require("markdownify", extra="chunking", purpose="reading HTML")
    page = bs4.BeautifulSoup(data, "html.parser")
    title = page.title.get_text(" ", strip=True) if page.title else ""
    for element in page(["script", "style", "noscript", "template", "svg", "nav", "head"]):
        element.decompose()
    text = markdownify.MarkdownConverter(
        heading_style="ATX", escape_asterisks=False, escape_underscores=False
    ).convert_soup(page)
    text = "\n".join(line.rstrip() for line in text.splitlines())
    return _Parsed(text.strip() + "\n" if text.strip() else "", title, {})


def _read_pdf(data: bytes) -> _Parsed:
    pypdf = require("pypdf", extra="pdf", purpose="reading PDF")
    import io

    reader = pypdf.PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not _opens_without_password(reader):
        raise InvalidInput("it is encrypted: save it without a password")
    pages = [_page_text(page) for page in reader.pages]
    if not any(page.strip() for page in pages):
        raise InvalidInput(
            f"none of its {len(pages)} pages has text: it is images only, so run a text recognition (OCR) over it first"
        )
    title = str((reader.metadata.title if reader.metadata else None) or "").strip()
    return _Parsed(PAGE_BREAK.join(pages), title, {"pages": len(pages)})


def _page_text(page: Any) -> str:
    """A page's text, with Markdown's mark before lines that are set larger than most or in bold: they are its headings."""
    letters: Counter[float] = Counter()
    pieces: list[tuple[str, float, bool]] = []

    def visit(text: str, user: Any, matrix: Any, font: Any, size: float) -> None:
        line = text.strip()
        if line:
            height = round(abs(size * matrix[3] * user[3]), 1)
            letters[height] += len(line)
            pieces.append((line, height, "bold" in str((font or {}).get("/BaseFont", "")).lower()))

    text: str = page.extract_text(visitor_text=visit) or ""
    if not letters:
        return text
    body = letters.most_common(1)[0][0]
    bold = sum(len(line) for line, _, is_bold in pieces if is_bold) < sum(letters.values()) / 2
    headings = {
        line
        for line, height, is_bold in pieces
        if len(line) <= MOST_HEADING_CHARACTERS
        and (height > HEADING_RATIO * body or (bold and is_bold and height >= body))
    }
    return "\n".join(f"\n## {line.strip()}\n" if line.strip() in headings else line for line in text.splitlines())


def _opens_without_password(reader: Any) -> bool:
    try:
        return bool(reader.decrypt(""))
    except Exception as error:
        raise InvalidInput(f"it is encrypted ({type(error).__name__}): save it without a password") from error


READERS: dict[str, Callable[[bytes], _Parsed]] = {
    ".md": _read_markdown,
    ".markdown": _read_markdown,
    ".txt": _read_text,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
}
SUFFIXES = (*READERS, ".jsonl", ".jsonl.gz")


def _decoded(data: bytes) -> str:
    if b"\0" in data:
        raise InvalidInput("it is binary, not text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"it is not UTF-8 (at byte {error.start:,}): save it as UTF-8") from None


async def _read_lines(threads: Threads, file: _File) -> AsyncIterator[Document | Unreadable]:
    lines = _Lines(file)
    try:
        while True:
            try:
                with deadline(SECONDS_PER_FILE):
                    some = await threads.run(lines.take)
            except (OSError, EOFError) as error:
                yield Unreadable(
                    file.id, f"it can't be read on after line {lines.number}: {error}", source=str(file.path)
                )
                return
            if not some:
                return
            for document in some:
                yield document
    finally:
        with anyio.CancelScope(shield=True):
            await threads.run(lines.close)


class _Lines:
    """The documents of a .jsonl file, some at a time. Blocks."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._stream: IO[bytes] | None = None
        self.number = 0

    def take(self) -> list[Document | Unreadable]:
        if self._stream is None:
            is_packed = self._file.path.name.lower().endswith(".gz")
            self._stream = cast("IO[bytes]", gzip.open(self._file.path) if is_packed else self._file.path.open("rb"))  # noqa: SIM115  # closed in close
        return list(islice(self._documents(self._stream), LINES_AT_ONCE))

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _documents(self, stream: IO[bytes]) -> Iterator[Document | Unreadable]:
        while line := stream.readline(MOST_LINE_BYTES):
            self.number += 1
            if len(line) == MOST_LINE_BYTES:
                raise OSError(f"line {self.number} is longer than {MOST_LINE_BYTES // 2**20} MB")
            if line.strip():
                yield self._document(line)

    def _document(self, line: bytes) -> Document | Unreadable:
        where = f"{self._file.id}:{self.number}"
        try:
            fields = json.loads(_decoded(line))
            if (
                not isinstance(fields, dict)
                or not isinstance(fields.get("text"), str)
                or not isinstance(fields.get("id"), str | int)
            ):
                raise InvalidInput('it must be an object with "id" and "text"')
            return Document(
                str(fields.pop("id")),
                fields.pop("text"),
                title=str(fields.pop("title", "") or ""),
                source=str(fields.pop("source", "") or where),
                metadata=fields,
            )
        except InvalidInput as error:
            return Unreadable(where, str(error), source=str(self._file.path))
        except ValueError as error:
            return Unreadable(where, f"it is not JSON: {error}", source=str(self._file.path))
