"""Object stores and other remote file systems, through fsspec."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import anyio

from ragcore.compat.extras import require
from ragcore.errors import ConfigurationError, DependencyError, InvalidInput
from ragcore.ingest.files import HIDDEN
from ragcore.ingest.sources.patterns import WILDCARDS, compiled
from ragcore.ingest.sources.source import Entry
from ragcore.ingest.sources.temporary import Temporary, clean_up, suffix_of
from ragcore.ingest.sources.urls import parsed, shown
from ragcore.resilience.threads import Threads
from ragcore.types import Unreadable
from ragcore.types.secret import Secret

__all__ = ["FileSystemSource"]

T = TypeVar("T")

NAMES_AT_ONCE = 64
# Seconds for listing the next files, which may need a request for each folder.
STEP_SECONDS = 120.0
PIECE = 1024 * 1024
# Fields of a listing that change with the content, in S3 and HTTP, in Google Cloud Storage, and in Azure.
VERSIONS = ("ETag", "etag", "md5Hash", "generation", "content_settings")
SECRETS = re.compile(r"(?<=://)[^/@\s]+@|\?\S+|(?i:signature|token|key|secret|password)=\S+")


class FileSystemSource:
    """The files below a URL of an object store or another remote file system: s3://, gs://, abfs://, sftp:// and all other schemes of fsspec.

    Needs the extra `sources`, and the package of the file system, such as s3fs or gcsfs. Credentials come from the environment, as that package documents.
    The id of an entry is the path relative to the URL. An object whose ETag has not changed is not fetched again by a run with `sync`.

    Args:
        url: a folder, a file, or a pattern such as "s3://bucket/docs/**/*.md". It must have no query and no fragment.
        options: options of the file system, such as {"anon": True}. A value may be a `Secret`. Values never appear in names, messages or records.

    Raises:
        ConfigurationError: fsspec or the package of the file system is not installed.
        InvalidInput: the URL is malformed.
    """

    def __init__(self, url: str | Secret, /, *, options: Mapping[str, Any] | None = None) -> None:
        given = url.reveal() if isinstance(url, Secret) else url
        parts = parsed(given)
        scheme = parts.scheme.lower()
        if parts.query or parts.fragment:
            raise InvalidInput(
                f"{shown(given)} has a query or a fragment: pass credentials in the environment, or in options="
            )
        require("fsspec", extra="sources", purpose=f"reading {scheme}://")
        first = WILDCARDS.search(given)
        cut = len(given) if first is None else given.rindex("/", 0, first.start()) + 1
        base, self.pattern = given[:cut], given[cut:]
        self._name = shown(base).rstrip("/") + (f"/{self.pattern}" if self.pattern else "")
        has_login = "@" in parsed(base).netloc
        # A Secret can't be pickled, so a source with a password is not sent to another process by mistake.
        self._url: str | Secret = Secret(base) if has_login else base
        self._options = dict(options or {})
        self._address = shown(base).rstrip("/")

    def __repr__(self) -> str:
        return f"FileSystemSource({self.name!r})"

    @property
    def name(self) -> str:
        """The URL without user, password and query, and the pattern if there is one."""
        return self._name

    async def entries(self) -> AsyncIterator[Entry | Unreadable]:
        """List the files folder by folder, on a thread. Memory holds the listings of the current folder and of its parent folders.

        Raises:
            DependencyError: a request of the listing failed, or took longer than 120 s.
            InvalidInput: there is no such folder. An object store has no empty folders, so a folder without objects does not exist.
        """
        threads = Threads(1, name="listing a remote file system")
        found = self._found()
        while some := await self._run(
            threads, lambda: list(islice(found, NAMES_AT_ONCE)), what=f"the listing of {self.name}"
        ):
            for entry in some:
                yield entry

    def address(self, entry: Entry, /) -> str:
        """Return the URL of the file without secrets."""
        in_folder = f"{self._address}/{entry.id}"
        if entry.id != self._address.rpartition("/")[2]:
            return in_folder
        # The URL is that of a file, or a file of the folder has the folder's name.
        url = self._url.reveal() if isinstance(self._url, Secret) else self._url
        core = require("fsspec.core", extra="sources", purpose="reading remote files")
        is_below = entry.location and entry.location.rstrip("/") != str(core.strip_protocol(url)).rstrip("/")
        return in_folder if is_below else self._address

    async def fetch(self, entry: Entry, /, *, into: Path) -> Path:
        """Copy the file into a temporary file.

        Raises:
            InvalidInput: the file has vanished, access is denied, the request fails, or the file is larger than the limit.
        """
        threads = Threads(1, name="fetching from a remote file system")
        file = await threads.run(lambda: Temporary(into, suffix_of(entry.id)))

        def copy() -> Path:
            system, _ = self._opened()
            with system.open(entry.location, "rb") as remote:
                while piece := remote.read(PIECE):
                    file.write(piece)
            return file.keep()

        try:
            return await threads.run(copy)
        except InvalidInput:
            raise
        except FileNotFoundError:
            raise InvalidInput("it vanished after it was listed") from None
        except Exception as error:  # each file system raises errors of its own
            raise InvalidInput(f"it can't be fetched: {self._words(error)}") from None
        finally:
            await clean_up(file.close)

    async def _run(self, threads: Threads, work: Callable[[], T], *, what: str) -> T:
        try:
            with anyio.move_on_after(STEP_SECONDS):
                return await threads.run(work)
        except (InvalidInput, ConfigurationError):
            raise
        except FileNotFoundError:
            raise InvalidInput(f"{self.name} does not exist, or contains no files") from None
        except Exception as error:  # each file system raises errors of its own, also a TimeoutError
            raise DependencyError(f"{what} failed: {self._words(error)}", dependency="source") from None
        raise DependencyError(f"{what} took longer than {STEP_SECONDS:g} s", dependency="source")

    def _opened(self) -> tuple[Any, str]:
        """Return the file system and the path in it. Blocks. fsspec keeps one instance for each set of options."""
        fsspec = require("fsspec.core", extra="sources", purpose="reading remote files")
        url = self._url.reveal() if isinstance(self._url, Secret) else self._url
        options = {name: one.reveal() if isinstance(one, Secret) else one for name, one in self._options.items()}
        try:
            system, path = fsspec.url_to_fs(url, **options)
        except ImportError as error:
            scheme = parsed(url).scheme.lower()
            raise ConfigurationError(f"reading {scheme}:// needs another package: {error}") from None
        except ValueError as error:
            raise InvalidInput(f"{self.name} can't be read: {self._words(error)}") from None
        return system, str(path).rstrip("/")

    def _found(self) -> Iterator[Entry]:
        """List the source. Blocks."""
        system, root = self._opened()
        matches = compiled(self.pattern)
        stack = [iter(_listed(system, root))]
        while stack:
            info = next(stack[-1], None)
            if info is None:
                stack.pop()
                continue
            path = str(info["name"]).rstrip("/")
            name = path.rpartition("/")[2] if path == root else path.removeprefix(root).lstrip("/")
            if info.get("type") == "directory":
                if path != root and not path.rpartition("/")[2].startswith(HIDDEN):
                    stack.append(iter(_listed(system, path)))
                continue
            # An object store may have an object whose name ends with "/", which marks a folder.
            if str(info["name"]).endswith("/") or path.rpartition("/")[2].startswith(HIDDEN) or not name:
                continue
            if matches.fullmatch(name):
                yield Entry(id=name, version=_version(info), location=path)

    def _words(self, error: Exception) -> str:
        """Return the error's type and message without secrets."""
        text = " ".join(str(error).split())
        url = self._url.reveal() if isinstance(self._url, Secret) else self._url
        password = parsed(url).password
        for secret in (password, *(one.reveal() if isinstance(one, Secret) else one for one in self._options.values())):
            if isinstance(secret, str) and len(secret) > 3:
                text = text.replace(secret, "***")
        return f"{type(error).__name__}: {SECRETS.sub('***', text)[:300]}"


def _listed(system: Any, path: str) -> list[Mapping[str, Any]]:
    # fsspec caches listings. A run must see the current one, and must not keep the listings of all folders in memory.
    system.invalidate_cache(path)
    listed = sorted(system.ls(path, detail=True), key=lambda info: str(info["name"]))
    system.invalidate_cache(path)
    return listed


def _version(info: Mapping[str, Any]) -> str | None:
    for name in VERSIONS:
        value = info.get(name)
        if isinstance(value, Mapping):
            value = value.get("content_md5")
        if value:
            return f"{value} {info.get('size')}"
    return None
