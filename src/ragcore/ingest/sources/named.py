"""Makes the source that a path or a URL names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from os import PathLike

from ragcore.errors import InvalidInput
from ragcore.ingest.sources.folder import FolderSource
from ragcore.ingest.sources.source import Source
from ragcore.resilience.threads import Threads

__all__ = ["source_of", "sources_of"]

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def source_of(
    given: str | PathLike[str] | Source, /, *, follow_symlinks: bool = False, hosts: Iterable[str] = ()
) -> Source:
    """Return the source that a path or a URL names. Blocks for a moment.

    Args:
        given: a folder, a file or a pattern; the URL of a list, with http:// or https://; another URL, such as s3://bucket/folder; or a source.
        follow_symlinks: as in `FolderSource`.
        hosts: as in `HttpListSource`.

    Raises:
        InvalidInput: there is no such folder or file, or the URL is malformed.
        ConfigurationError: the extra `sources` is not installed.
    """
    if not isinstance(given, str | PathLike):
        if not isinstance(given, Source):
            raise InvalidInput(f"a source is of type {type(given).__name__}: pass a path, a URL, or a Source")
        return given
    text = os.fspath(given)
    if not isinstance(text, str):
        raise InvalidInput(f"{text!r} is not a path or a URL: pass a str")
    scheme = SCHEME.match(text)
    if scheme is None:
        return FolderSource(text, follow_symlinks=follow_symlinks)
    if scheme[1].lower() == "file":
        raise InvalidInput("a source begins with file://: pass the path without it")
    # Imported here, because a client that reads folders needs no HTTP.
    if scheme[1].lower() in ("http", "https"):
        from ragcore.ingest.sources.http_list import HttpListSource

        return HttpListSource(text, hosts=hosts)
    from ragcore.ingest.sources.filesystem import FileSystemSource

    return FileSystemSource(text)


async def sources_of(
    given: Sequence[str | PathLike[str] | Source], /, *, follow_symlinks: bool, hosts: Iterable[str]
) -> list[Source]:
    """Return the sources, made on a thread, because that may read the file system. See `source_of`.

    Raises:
        InvalidInput: a source is given twice.
    """
    allowed = tuple(hosts)

    def work() -> list[Source]:
        return [source_of(one, follow_symlinks=follow_symlinks, hosts=allowed) for one in given]

    found = await Threads(1, name="finding sources").run(work)
    seen: set[str] = set()
    for source in found:
        if source.name in seen:
            raise InvalidInput(f"the source {source.name} is given more than once: pass it once")
        seen.add(source.name)
    return found
