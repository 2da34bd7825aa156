"""Finds the files below the given paths."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ragcore.errors import InvalidInput
from ragcore.ingest.readers import HOMES, SUFFIXES, is_lines
from ragcore.types import Origin, Unreadable

__all__ = ["HIDDEN", "UNKNOWN_TYPE", "File", "Others", "check_paths", "find", "is_readable", "walk"]

logger: logging.Logger = logging.getLogger("ragcore.ingest")

# Hidden files, and the lock files of office programs.
HIDDEN = (".", "~$")
UNKNOWN_TYPE = "files of this type can't be read: to add a reader, pass read(…, readers={'.png': your_function})"


@dataclass(frozen=True, slots=True)
class File:
    """A file to read.

    Attributes:
        path: the path of the file.
        id: the document's id: its path relative to the given folder.
        address: what the document shows as its source; "" for the path.
        origin: the source that lists the file; None if it was not found by a source.
        is_temporary: whether to delete the file after it was read.
    """

    path: Path
    id: str
    address: str = ""
    origin: Origin | None = None
    is_temporary: bool = False

    @property
    def shown(self) -> str:
        """What the document shows as its source."""
        return self.address or str(self.path)

    @property
    def is_lines(self) -> bool:
        """Whether each line is a document."""
        return is_lines(self.path)


class Others(dict[str, int]):
    """Number of files that were left out, by type."""

    def add(self, path: Path) -> None:
        """Count a file."""
        kind = path.suffix.lower() or path.name
        self[kind] = self.get(kind, 0) + 1

    def warn(self) -> None:
        """Log the number of these files, if there are any."""
        if self:
            logger.warning("ingest: files of unknown types were left out: %s", self)

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self.items()))


def check_paths(paths: list[Path], *, known: frozenset[str] = frozenset()) -> None:
    """Check paths before workers are started. Blocks for a short time.

    Args:
        known: suffixes of the user's own readers.

    Raises:
        InvalidInput: a path does not exist, or none of the paths can be read.
    """
    unknown = []
    for path in paths:
        try:
            if path.is_dir():
                continue
            there = path.exists() or path.is_symlink()
        except (OSError, ValueError) as error:  # for example, the name is too long or contains a NUL
            raise InvalidInput(f"{str(path)[:200]!r} can't be read: {error}") from None
        if not there:
            raise InvalidInput(f"there is no file or folder {path}")
        if not is_readable(path, known):
            unknown.append(path)
    if unknown and len(unknown) == len(paths):
        raise InvalidInput(
            f"{unknown[0]} is of a type that can't be read; supported types: {', '.join(SUFFIXES)}. For another type, pass "
            "read(…, readers={'.png': your_function})"
        )


def is_readable(path: Path, known: frozenset[str]) -> bool:
    """Return whether there is a reader for this file's type."""
    return path.suffix.lower() in known or is_lines(path) or path.suffix.lower() in HOMES


def find(
    path: Path, others: Others, *, known: frozenset[str], follow_symlinks: bool, strict: bool = False
) -> Iterator[File | Unreadable]:
    """Yield the files below a path in the order of their names, without hidden files. This function blocks.

    Args:
        others: counts the files of unknown types.
        follow_symlinks: whether to follow symbolic links that lead out of the folder.
        strict: whether to report files of unknown types as well.
    """
    path = path.expanduser()
    if not path.is_dir():
        if is_readable(path, known):
            yield File(path, path.name)
        else:
            others.add(path)
            if strict:
                yield Unreadable(path.name, UNKNOWN_TYPE, source=str(path))
        return
    root = path.resolve()
    for file in walk(path, root, follow_symlinks):
        if isinstance(file, Unreadable):
            yield file
        elif is_readable(file, known):
            yield File(file, file.relative_to(path).as_posix())
        else:
            others.add(file)
            if strict:
                yield Unreadable(file.relative_to(path).as_posix(), UNKNOWN_TYPE, source=str(file))


def walk(folder: Path, root: Path, follow_symlinks: bool) -> Iterator[Path | Unreadable]:
    """Yield the files folder by folder, sorted by name. Memory holds only the names in the folders that are open.

    Args:
        folder: the folder; the paths begin with it.
        root: its real path.
        follow_symlinks: whether to follow symbolic links that lead out of it.

    Raises:
        OSError: the folder itself can't be opened. A folder below it that can't be opened is an `Unreadable`.
    """
    stack: list[Iterator[os.DirEntry[str]]] = [_entries(folder)]
    seen = {_identity(folder)}
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        path = Path(entry.path)
        if entry.is_symlink() and not follow_symlinks and not _leads_into(path, root):
            reason = (
                "it is a symbolic link that leads out of the folder; pass follow_symlinks=True to follow it"
                if path.exists()
                else "it is a symbolic link whose target does not exist"
            )
            yield Unreadable(path.relative_to(folder).as_posix(), reason, source=str(path))
            continue
        try:
            if not entry.is_dir():
                yield path
                continue
            identity = _identity(path)
            if identity in seen:  # it is a link to a folder that was already read
                continue
            stack.append(_entries(path))
            seen.add(identity)
        except OSError as error:
            reason = f"the folder can't be opened: {error.strerror or error}"
            yield Unreadable(path.relative_to(folder).as_posix(), reason, source=str(path))


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return iter(sorted((one for one in entries if not one.name.startswith(HIDDEN)), key=lambda one: one.name))


def _leads_into(path: Path, root: Path) -> bool:
    try:
        return path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
