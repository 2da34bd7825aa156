"""Temporary files for fetched contents."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from ragcore.errors import InvalidInput
from ragcore.ingest.readers import is_lines
from ragcore.ingest.worker import MOST_BYTES
from ragcore.lifecycle.owner import cleaning_up
from ragcore.resilience.threads import Threads

__all__ = ["Temporary", "clean_up", "suffix_of"]

logger: logging.Logger = logging.getLogger("ragcore.ingest")

# A file of lines is read line by line, so it may be larger than a document.
MOST_LINES_BYTES = 1024 * 1024 * 1024
SUFFIX = re.compile(r"\.\w{1,15}")


class Temporary:
    """A temporary file that is written piece by piece. Its methods block.

    The name is random, so a name in a listing never becomes a path on this machine. The file is deleted unless `keep` is called.

    Args:
        folder: the folder of the file.
        suffix: its suffix, which determines the type.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        self._most = MOST_LINES_BYTES if is_lines(PurePosixPath(f"file{suffix}")) else MOST_BYTES
        descriptor, name = tempfile.mkstemp(dir=folder, suffix=suffix)
        self._file: IO[bytes] = os.fdopen(descriptor, "wb")
        self.path = Path(name)
        self._size = 0
        self._is_kept = False

    def check(self, size: int) -> None:
        """Check a size.

        Raises:
            InvalidInput: it is larger than the limit of the type.
        """
        if size > self._most:
            raise InvalidInput(f"it is larger than {self._most // 2**20} MB: split it")

    def write(self, piece: bytes) -> None:
        """Append a piece.

        Raises:
            InvalidInput: the file is larger than the limit of its type.
        """
        self._size += len(piece)
        self.check(self._size)
        self._file.write(piece)

    def keep(self) -> Path:
        """Finish the file and return its path."""
        self._file.close()
        self._is_kept = True
        return self.path

    def close(self) -> None:
        """Delete the file unless it is kept."""
        if not self._is_kept:
            self._file.close()
            self.path.unlink(missing_ok=True)


async def clean_up(work: Callable[[], object], /) -> None:
    """Run a clean-up on a thread of its own. Wait for it for a short time, even if the caller is cancelled. Log its error instead of raising it."""
    with cleaning_up():
        try:
            await Threads(1, name="cleaning up").run(work)
        except Exception:
            logger.exception("ingest: a clean-up failed")


def suffix_of(name: str) -> str:
    """Return the suffix of a name, in lower case; "" if it has none, or one with other characters than letters, digits and underscores."""
    path = PurePosixPath(name.lower())
    if is_lines(path):
        return ".jsonl.gz" if path.name.endswith(".gz") else ".jsonl"
    return path.suffix if SUFFIX.fullmatch(path.suffix) else ""
