"""Options of reading and chunking: their defaults and their checks."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, get_args

from ragcore.errors import ConfigurationError
from ragcore.ingest.parsed import Parsed
from ragcore.types import EmbedText

__all__ = [
    "CHUNK_TOKENS",
    "OVERLAP_TOKENS",
    "READ_SECONDS",
    "Reading",
    "UserReader",
    "check_chunking",
    "check_read_timeout",
    "reading",
]

UserReader: TypeAlias = Callable[[bytes], Parsed | str]

CHUNK_TOKENS: Final = 200
OVERLAP_TOKENS: Final = 40
LEAST_CHUNK_TOKENS: Final = 8
READ_SECONDS: Final = 120.0


def check_chunking(chunk_tokens: int, overlap_tokens: int, embed_text: EmbedText | None) -> None:
    """Check the options of chunks.

    Raises:
        ConfigurationError: an option has an invalid value.
    """
    if not (isinstance(chunk_tokens, int) and chunk_tokens >= LEAST_CHUNK_TOKENS):
        raise ConfigurationError(
            f"chunk_tokens is {chunk_tokens!r}: it must be a whole number, at least {LEAST_CHUNK_TOKENS}"
        )
    if not (isinstance(overlap_tokens, int) and 0 <= overlap_tokens < chunk_tokens):
        raise ConfigurationError(
            f"overlap_tokens is {overlap_tokens!r}: it must be a whole number, at least 0 and less than chunk_tokens ({chunk_tokens})"
        )
    if embed_text is not None and embed_text not in get_args(EmbedText):
        raise ConfigurationError(
            f"embed_text is {embed_text!r}: it must be one of {', '.join(get_args(EmbedText))}, or None"
        )


def check_read_timeout(seconds: float) -> None:
    """Check the timeout for reading a file.

    Raises:
        ConfigurationError: the number is not positive and finite.
    """
    if isinstance(seconds, bool) or not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
        raise ConfigurationError(f"read_timeout is {seconds!r}: it must be a positive, finite number of seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The options of `read`, checked.

    Attributes:
        seconds: seconds for each file.
        processes: number of worker processes; None: one for each core; 0: threads.
        readers: the user's own readers, by suffix in lower case.
        follow_symlinks: whether to follow symbolic links that lead out of a folder.
        strict: whether files of unknown types are reported.
        whole_pages: whether to read all of an HTML page.
    """

    seconds: float
    processes: int | None
    readers: Mapping[str, UserReader]
    follow_symlinks: bool
    strict: bool
    whole_pages: bool

    @property
    def known(self) -> frozenset[str]:
        """The suffixes of the user's own readers."""
        return frozenset(self.readers)

    @property
    def count(self) -> int:
        """Number of workers at once."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores if self.processes is None else self.processes)


def reading(
    *,
    read_timeout: float = READ_SECONDS,
    processes: int | None = None,
    readers: Mapping[str, UserReader] | None = None,
    follow_symlinks: bool = False,
    strict: bool = False,
    whole_pages: bool = False,
) -> Reading:
    """Check the options of `read`.

    Raises:
        ConfigurationError: an option has an invalid value.
    """
    check_read_timeout(read_timeout)
    if processes is not None and (isinstance(processes, bool) or not (isinstance(processes, int) and processes >= 0)):
        raise ConfigurationError(f"processes is {processes!r}: it must be a whole number, at least 0, or None")
    if not isinstance(readers, Mapping | None):
        raise ConfigurationError(
            f"readers is a {type(readers).__name__}: it must be a mapping, such as {{'.png': read_png}}"
        )
    for suffix, reader in (readers or {}).items():
        if not (isinstance(suffix, str) and suffix.startswith(".") and callable(reader)):
            raise ConfigurationError(
                f"readers has {suffix!r}: {reader!r}; each key must be a suffix with its dot and each value a function, such as {{'.png': read_png}}"
            )
    own = {suffix.lower(): reader for suffix, reader in (readers or {}).items()}
    return Reading(
        seconds=read_timeout,
        processes=processes,
        readers=own,
        follow_symlinks=follow_symlinks,
        strict=strict,
        whole_pages=whole_pages,
    )
