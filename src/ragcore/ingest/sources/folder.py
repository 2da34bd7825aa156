"""A folder, a file, or the files below a folder that match a pattern."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from os import PathLike
from pathlib import Path

from ragcore.errors import InvalidInput
from ragcore.ingest.files import walk
from ragcore.ingest.sources.patterns import WILDCARDS, compiled
from ragcore.ingest.sources.source import Entry
from ragcore.resilience.threads import Threads
from ragcore.types import Unreadable

__all__ = ["FolderSource"]

# Number of files that a thread lists in one step.
NAMES_AT_ONCE = 64
# A file that was changed less than this many nanoseconds ago may be changed again without a change of its times, as their resolution is limited.
SETTLED_NANOSECONDS = 2_000_000_000


class FolderSource:
    """The files of a folder and its subfolders, without hidden files; or one file.

    Attributes:
        path: the folder or file as it was given, without a pattern.
        root: its real path.
        pattern: the pattern for paths relative to it; "" for all.
        is_folder: whether it is a folder.

    The id of an entry is the path relative to the folder, with "/". The source's name is the folder's real path, and the pattern if there is one.

    Args:
        path: a folder, a file, or a pattern such as "docs/**/*.md": `*` and `?` stand for characters of one name, `**` for any folders.
        follow_symlinks: whether to follow symbolic links that lead out of the folder. Default False: such links are reported as unreadable.

    Raises:
        InvalidInput: there is no such folder or file. The constructor checks this, so it blocks for a moment.

    Examples:
        ```python
        report = await rag.ingest(ragcore.ingest.FolderSource("docs/**/*.md"), tenant="a", sync=True)
        ```
    """

    def __init__(self, path: str | PathLike[str], /, *, follow_symlinks: bool = False) -> None:
        given = os.fspath(path)
        if not given or "\0" in given:
            raise InvalidInput(f"{given!r} is not the path of a folder or a file")
        try:
            self.path = Path(given).expanduser()
            self.pattern = ""
            if WILDCARDS.search(given) and not self.path.exists():  # a name may have a wildcard's character itself
                self.path, self.pattern = _split(self.path)
            self.root = self.path.resolve()
            self.is_folder = self.root.is_dir()
            there = self.is_folder or self.root.exists()
        except (OSError, RuntimeError, ValueError) as error:
            raise InvalidInput(f"{given[:200]!r} can't be read: {error}") from None
        if not there or (self.pattern and not self.is_folder):
            raise InvalidInput(f"there is no file or folder {self.path}")
        self.follow_symlinks = follow_symlinks

    def __repr__(self) -> str:
        return f"FolderSource({self.name!r})"

    @property
    def name(self) -> str:
        """The real path, and the pattern if there is one."""
        return _valid(f"{self.root}/{self.pattern}" if self.pattern else str(self.root))

    async def entries(self) -> AsyncIterator[Entry | Unreadable]:
        """List the files in the order of their names. A thread lists a few at a time.

        Raises:
            InvalidInput: the folder does not exist or can't be opened, or the pattern is invalid.
        """
        threads = Threads(1, name="listing files")
        found = self._found()
        while some := await threads.run(lambda: list(islice(found, NAMES_AT_ONCE))):
            for entry in some:
                yield entry

    def address(self, entry: Entry, /) -> str:
        """Return the path of the file, below the folder as it was given."""
        return _valid(str(self._path_of(self.path, entry)))

    async def fetch(self, entry: Entry, /, *, into: Path) -> Path:
        """Return the path of the file itself."""
        return self._path_of(self.root, entry)

    def _path_of(self, folder: Path, entry: Entry) -> Path:
        return folder / entry.id if self.is_folder else folder

    def _found(self) -> Iterator[Entry | Unreadable]:
        """List the source. Blocks."""
        root = self.root
        try:
            if not self.is_folder:
                os.stat(root)
                yield Entry(id=root.name, version=_version(root))
                return
            matches = compiled(self.pattern)
            for file in walk(root, root, self.follow_symlinks):
                if isinstance(file, Unreadable):
                    yield Unreadable(_valid(file.id), file.reason, source=_valid(file.source))
                    continue
                name = file.relative_to(root).as_posix()
                if not matches.fullmatch(name):
                    continue
                if name == _valid(name):
                    yield Entry(id=name, version=_version(file))
                else:
                    yield Unreadable(_valid(name), "its name is not valid UTF-8: rename it", source=_valid(str(file)))
        except FileNotFoundError:
            raise InvalidInput(f"there is no file or folder {self.path}") from None
        except OSError as error:
            raise InvalidInput(f"{self.path} can't be listed: {error.strerror or error}") from None


def _valid(name: str) -> str:
    """Return a name in valid Unicode. Python represents a byte of a file's name that is not UTF-8 as a lone surrogate; this function writes it as an escape."""
    return name.encode(errors="backslashreplace").decode()


def _version(file: Path) -> str | None:
    """Return a text that changes with the file; None if the file was changed within the last two seconds, or is gone.

    The time of the last change of the inode can't be set back by a program, unlike the time of the last change of the content.
    """
    try:
        status = file.stat()
    except OSError:
        return None
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < SETTLED_NANOSECONDS:
        return None
    return f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_size} {status.st_dev} {status.st_ino}"


def _split(path: Path) -> tuple[Path, str]:
    """Return the folder before the first part with a wildcard, and the rest."""
    parts = path.parts
    first = next(number for number, part in enumerate(parts) if WILDCARDS.search(part))
    return Path(*parts[:first]), "/".join(parts[first:])
