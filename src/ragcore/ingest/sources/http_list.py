"""A list of URLs that a web server publishes: a text with one URL in each line."""

from __future__ import annotations

import hashlib
import ssl
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urljoin

import anyio
import httpx

from ragcore.errors import DependencyError, InvalidInput
from ragcore.ingest.readers import HOMES, is_lines
from ragcore.ingest.sources.source import Entry
from ragcore.ingest.sources.temporary import Temporary, clean_up, suffix_of
from ragcore.ingest.sources.urls import parsed, server_of, shown, without_login
from ragcore.resilience.threads import Threads
from ragcore.types import Unreadable
from ragcore.types.secret import Secret

__all__ = ["HttpListSource"]

MOST_REDIRECTS = 5
MOST_LINE = 8_192
MOST_LIST_BYTES = 256 * 1024 * 1024
LINES_AT_ONCE = 64
# Seconds until the server must send the next byte, and seconds for the whole list.
IDLE_SECONDS = 30.0
LIST_SECONDS = 600.0
# Types of documents whose URL has no known suffix.
TYPES = {
    "text/html": ".html",
    "application/xhtml+xml": ".xhtml",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "application/json": ".json",
    "application/jsonl": ".jsonl",
    "application/x-ndjson": ".jsonl",
    "application/xml": ".xml",
    "text/xml": ".xml",
    "application/pdf": ".pdf",
    "message/rfc822": ".eml",
}
PAGES = (".html", ".xhtml")


class HttpListSource:
    """The documents that a list on a web server names: a text with one URL in each line, absolute or relative to the list's own URL.

    Blank lines and lines that begin with "#" are ignored. The id of an entry is its path relative to the folder of the list. Outside that folder, it is host
    and path. A query is part of the id as a hash.

    The URLs of the list and the targets of redirects must be on the server of the list, or on one of `hosts`. So a list can't make ragcore read from other
    servers of your network. User and password in the list's URL are sent only to the server of the list. Names, messages and records never contain them.

    A server has 30 seconds to send the next byte, and 600 seconds to send the whole list. A list has at most 256 MB.

    Args:
        url: the URL of the list, http or https.
        hosts: names of further hosts that the list may name, such as "cdn.example.org".

    Raises:
        InvalidInput: the URL is malformed, or has another scheme.
    """

    def __init__(self, url: str | Secret, /, *, hosts: Iterable[str] = ()) -> None:
        given = url.reveal() if isinstance(url, Secret) else url
        parts = parsed(given)
        if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
            raise InvalidInput(f"{shown(given)} is not the URL of a list: it must begin with http:// or https://")
        self._base, self._login = without_login(given)
        self.hosts = frozenset(host.lower() for host in hosts)

    def __repr__(self) -> str:
        return f"HttpListSource({self.name!r})"

    @property
    def name(self) -> str:
        """The URL without user and password, and with a hash instead of its query."""
        return shown(self._base)

    async def entries(self) -> AsyncIterator[Entry | Unreadable]:
        """Read the whole list into a temporary file, then list its lines.

        Raises:
            DependencyError: the server did not answer, answered with an error, or the list ended early.
            InvalidInput: the response is not a list, has no length, or is too large.
        """
        threads = Threads(1, name="reading the list")
        file = await threads.run(tempfile.TemporaryFile)
        try:
            await self._read_list(threads, file)
            while lines := await threads.run(
                lambda: list(islice(iter(lambda: file.readline(MOST_LINE), b""), LINES_AT_ONCE))
            ):
                for line in lines:
                    if len(line) == MOST_LINE:
                        raise InvalidInput(f"the list {self.name} has a line of more than {MOST_LINE:,} bytes")
                    entry = self._entry(line.decode(errors="replace").strip().removeprefix("\ufeff"))
                    if entry is not None:
                        yield entry
        finally:
            file.close()

    async def _read_list(self, threads: Threads, file: IO[bytes]) -> None:
        what, size = f"the list {self.name}", 0
        try:
            with anyio.fail_after(LIST_SECONDS):
                async with self._response(self._base) as response:
                    if _type_of(response) in PAGES:
                        raise InvalidInput(f"{what} is an HTML page: a list is a text with one URL in each line")
                    if not {"content-length", "transfer-encoding"} & {name.lower() for name in response.headers}:
                        raise InvalidInput(
                            f"{what} has neither Content-Length nor Transfer-Encoding, so its end could be missing: let the server send Content-Length"
                        )
                    async for piece in response.aiter_bytes():
                        size += len(piece)
                        if size > MOST_LIST_BYTES:
                            raise InvalidInput(f"{what} is larger than {MOST_LIST_BYTES // 2**20} MB: split it")
                        await threads.run(lambda piece=piece: file.write(piece))  # type: ignore[misc]  # mypy can't infer a default's type
        except _Refused as error:
            raise DependencyError(f"{what}: {error}", dependency="source", status=error.status) from None
        except TimeoutError:
            raise DependencyError(f"{what} was not read within {LIST_SECONDS:g} s", dependency="source") from None
        await threads.run(lambda: file.seek(0))

    def _entry(self, line: str) -> Entry | Unreadable | None:
        if not line or line.startswith("#"):
            return None
        try:
            url = urljoin(self._base, line)
            parts = parsed(url)
            self._check_place(url)
            if "@" in parts.netloc:
                raise InvalidInput("its URL has a user or a password: write them into the URL of the list")
            path = unquote(parts.path, errors="strict")
            if any(part in (".", "..") for part in path.replace("\\", "/").split("/")) or "\0" in path:
                raise InvalidInput("its path contains an encoded '.' or '..', or a NUL character")
        except (InvalidInput, ValueError) as error:
            reason = str(error) if isinstance(error, InvalidInput) else "its URL is malformed"
            return Unreadable(_shown(line), reason, source=self.name)
        folder = unquote(parsed(self._base).path).rpartition("/")[0] + "/"
        is_below = server_of(url) == server_of(self._base) and path.startswith(folder) and path != folder
        name = path.removeprefix(folder) if is_below else f"{parts.netloc.lower()}{path}"
        if parts.query:
            name += f"?{hashlib.sha256(parts.query.encode()).hexdigest()[:16]}"
        suffix = suffix_of(parts.path)
        return Entry(id=name, location=url, has_type=suffix in HOMES or is_lines(Path(f"file{suffix}")))

    def address(self, entry: Entry, /) -> str:
        """Return the URL of the entry without secrets."""
        return shown(entry.location)

    async def fetch(self, entry: Entry, /, *, into: Path) -> Path:
        """Fetch the entry into a temporary file.

        Raises:
            InvalidInput: the server refuses it, redirects to another server, does not answer, or sends more than the limit.
        """
        threads = Threads(1, name="writing fetched files")
        try:
            async with self._response(entry.location) as response:
                suffix = suffix_of(parsed(entry.location).path) if entry.has_type else _type_of(response)
                file = await threads.run(lambda: Temporary(into, suffix))
                try:
                    file.check(int(response.headers.get("content-length") or 0))
                    async for piece in response.aiter_bytes():
                        await threads.run(lambda piece=piece: file.write(piece))  # type: ignore[misc]  # mypy can't infer a default's type
                    return await threads.run(file.keep)
                finally:
                    await clean_up(file.close)
        except _Refused as error:
            raise InvalidInput(f"it can't be fetched: {error}") from None

    @asynccontextmanager
    async def _response(self, url: str) -> AsyncGenerator[httpx.Response, None]:
        """Yield the response to a GET request. Follow redirects to allowed servers."""
        context = await Threads(1, name="reading certificates").run(_certificates)
        # A client for each request: it keeps neither cookies nor connections, so the source has nothing to close.
        async with httpx.AsyncClient(verify=context, timeout=IDLE_SECONDS, follow_redirects=False) as client:
            try:
                for _ in range(MOST_REDIRECTS + 1):
                    request = client.build_request("GET", url)
                    login = self._login if server_of(url) == server_of(self._base) else None
                    response = await client.send(
                        request,
                        stream=True,
                        auth=None if login is None else httpx.BasicAuth(*login.reveal().split("\0")),
                    )
                    try:
                        if not response.has_redirect_location:
                            if not response.is_success:
                                raise _Refused(
                                    f"the server answered with status {response.status_code}", response.status_code
                                )
                            yield response
                            return
                        url = urljoin(url, response.headers["location"])
                    finally:
                        await response.aclose()
                    try:
                        self._check_place(url)
                    except InvalidInput as error:
                        raise _Refused(f"it redirects: {error}") from None
                raise _Refused(f"more than {MOST_REDIRECTS} redirects")
            except httpx.HTTPError as error:
                # The message of httpx may contain the URL.
                raise _Refused(f"the request failed ({type(error).__name__})") from None

    def _check_place(self, url: str) -> None:
        """Raise `InvalidInput` if neither the list's own server nor an allowed host has this URL."""
        scheme, host, _ = server = server_of(url)
        own = server_of(self._base)
        upgraded = scheme == "https" and own[0] == "http" and host == own[1]
        if scheme not in ("http", "https"):
            raise InvalidInput(f"its URL has the scheme {scheme[:20]!r}: only http and https are allowed")
        if server != own and not upgraded and host not in self.hosts:
            raise InvalidInput(
                f"its URL leads to another server ({host}): to allow it, pass hosts=[{host!r}] or --allow-host {host}"
            )


class _Refused(Exception):
    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _type_of(response: httpx.Response) -> str:
    return TYPES.get(response.headers.get("content-type", "").partition(";")[0].strip().lower(), "")


def _shown(line: str) -> str:
    """Return a line of a list without secrets, for a message."""
    try:
        return shown(line)[:300]
    except InvalidInput:
        return "a line of the list"
