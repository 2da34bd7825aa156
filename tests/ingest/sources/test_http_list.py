"""`HttpListSource` against a real web server on this machine."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import ragcore
from ragcore import DependencyError, InvalidInput, Unreadable
from ragcore.ingest import Entry, HttpListSource
from ragcore.testing import FakeEmbedder, FakeGenerator

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed]

CANARY = "canary-pass"


@dataclass
class Site:
    """A web server: its pages by path, and the requests that it got."""

    port: int = 0
    pages: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def page(
        self, path: str, body: str, kind: str = "text/plain", *, status: int = 200, length: int = -1, location: str = ""
    ) -> None:
        data = body.encode()
        headers = {"content-type": kind, "content-length": str(len(data) if length < 0 else length)}
        self.pages[path] = status, headers | ({"location": location} if location else {}), data

    def url(self, path: str, host: str = "127.0.0.1", login: str = "") -> str:
        return f"http://{login}{host}:{self.port}{path}"


@contextmanager
def serving() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append((self.path, self.headers.get("authorization")))
            status, headers, body = site.pages.get(self.path, (404, {"content-length": "0"}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as made:
        made.page("/docs/list.txt", "# a list\n\na.md\nsub/b.md\n/c.html\n")
        made.page("/docs/a.md", "# A\n\nThe text of a.", "text/markdown")
        made.page("/docs/sub/b.md", "The text of b.")
        made.page("/c.html", "<html><title>C</title><p>The text of c.</p></html>", "text/html")
        yield made


async def listed(source: HttpListSource) -> list[Entry | Unreadable]:
    return [entry async for entry in source.entries()]


async def reasons(site: Site, *lines: str) -> dict[str, str]:
    site.page("/docs/list.txt", "\n".join(lines))
    found = await listed(HttpListSource(site.url("/docs/list.txt")))
    return {one.id: one.reason for one in found if isinstance(one, Unreadable)}


async def test_a_list_is_ingested_and_kept_in_step(site: Site, anyio_backend: str) -> None:
    async with ragcore.MemoryStore() as store, FakeEmbedder() as embedder:
        retriever = ragcore.Retriever(store=store, embedder=embedder)
        async with ragcore.RAG(retriever=retriever, generator=FakeGenerator()) as rag:
            url = site.url("/docs/list.txt")
            report = await rag.ingest(url, tenant="a", sync=True, processes=0)
            host = f"127.0.0.1:{site.port}"
            assert (report.added, report.failed) == (3, ())
            assert set(await rag.documents(tenant="a")) == {"a.md", "sub/b.md", f"{host}/c.html"}
            chunks = await rag.chunks("a.md", tenant="a")
            assert chunks[0].source == site.url("/docs/a.md")
            # A document that can't be fetched any more is not gone; one that the list does not name is.
            site.page("/docs/list.txt", "a.md\n/c.html\n")
            del site.pages["/docs/a.md"]
            report = await rag.ingest(url, tenant="a", sync=True, confirmed=True, processes=0)
            assert (report.gone, [one.id for one in report.failed]) == (("sub/b.md",), ["a.md"])
            assert "status 404" in report.failed[0].reason
            assert set(await rag.documents(tenant="a")) == {"a.md", f"{host}/c.html"}
            for status, page in ((500, "broken"), (404, "")):
                site.page("/docs/list.txt", page, status=status)
                with pytest.raises(DependencyError, match=f"status {status}"):
                    await rag.ingest(url, tenant="a", sync=True, confirmed=True)
            assert len(await rag.documents(tenant="a")) == 2


async def test_a_list_that_ends_early_is_an_error(site: Site) -> None:
    site.page("/docs/list.txt", "a.md\nsub/b.md\n", length=500)
    with pytest.raises(DependencyError, match="RemoteProtocolError"):
        await listed(HttpListSource(site.url("/docs/list.txt")))
    del site.pages["/docs/list.txt"][1]["content-length"]
    with pytest.raises(InvalidInput, match="neither Content-Length"):
        await listed(HttpListSource(site.url("/docs/list.txt")))


async def test_what_is_not_a_list_is_refused(site: Site) -> None:
    site.page("/login", "<html>Please log in</html>", "text/html; charset=utf-8")
    with pytest.raises(InvalidInput, match="is an HTML page"):
        await listed(HttpListSource(site.url("/login")))
    site.page("/long", "x" * 20_000)
    with pytest.raises(InvalidInput, match="a line of more than"):
        await listed(HttpListSource(site.url("/long")))
    for wrong in ("ftp://host/list", "http:///list", "http://host:port/list", "http://h/a b"):
        with pytest.raises(InvalidInput):
            HttpListSource(wrong)


async def test_a_list_can_not_lead_elsewhere(site: Site) -> None:
    found = await reasons(
        site,
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data",
        f"http://localhost:{site.port}/docs/a.md",
        "http://127.0.0.1:1/docs/a.md",
        "//elsewhere.example/x.md",
        "%2e%2e/%2E%2e/etc/passwd",
        "a%2f..%2f..%2fpasswd",
        "nul%00.md",
        "not%ffutf8.md",
        f"http://user:{CANARY}@127.0.0.1:{site.port}/docs/a.md",
        "http://[bad/x",
    )
    assert len(found) == 11
    assert CANARY not in str(found)
    assert sum("leads to another server" in reason for reason in found.values()) == 4
    # Dots that are not encoded are resolved by the rules of URLs, and the id is only a name.
    site.page("/docs/list.txt", "../c.html\n../../../etc/passwd\n")
    found_entries = await listed(HttpListSource(site.url("/docs/list.txt")))
    host = f"127.0.0.1:{site.port}"
    assert [one.id for one in found_entries] == [f"{host}/c.html", f"{host}/etc/passwd"]


async def test_an_allowed_host_is_read_without_the_login(site: Site, tmp_path: Path) -> None:
    site.page("/docs/list.txt", f"a.md\nhttp://localhost:{site.port}/docs/sub/b.md\n")
    source = HttpListSource(site.url("/docs/list.txt", login=f"user:{CANARY}@"), hosts=["localhost"])
    entries = [entry for entry in await listed(source) if isinstance(entry, Entry)]
    for entry in entries:
        assert CANARY not in f"{entry!r} {source.address(entry)}"
        await source.fetch(entry, into=tmp_path)
    login = "Basic " + base64.b64encode(f"user:{CANARY}".encode()).decode()
    assert site.requests == [("/docs/list.txt", login), ("/docs/a.md", login), ("/docs/sub/b.md", None)]
    assert CANARY not in f"{source!r} {source.name}"
    with pytest.raises(TypeError, match="can't be pickled"):
        __import__("pickle").dumps(source)


async def test_a_redirect_stays_on_the_server(site: Site, tmp_path: Path) -> None:
    source = HttpListSource(site.url("/docs/list.txt", login=f"user:{CANARY}@"))
    site.page("/docs/moved.md", "", status=302, location="/docs/a.md")
    site.page("/docs/out.md", "", status=302, location=f"http://localhost:{site.port}/docs/a.md?token={CANARY}")
    site.page("/docs/file.md", "", status=302, location="file:///etc/passwd")
    site.page("/docs/loop.md", "", status=302, location="/docs/loop.md")
    site.page("/docs/list.txt", "moved.md\nout.md\nfile.md\nloop.md\n")
    moved, *others = [entry for entry in await listed(source) if isinstance(entry, Entry)]
    assert (await source.fetch(moved, into=tmp_path)).read_text().endswith("The text of a.")
    for entry, message in zip(others, ("another server", "scheme 'file'", "more than 5 redirects"), strict=True):
        with pytest.raises(InvalidInput, match=message) as caught:
            await source.fetch(entry, into=tmp_path)
        assert CANARY not in str(caught.value)
    assert len(list(tmp_path.iterdir())) == 1


async def test_the_type_comes_from_the_url_or_else_from_the_server(site: Site, tmp_path: Path) -> None:
    site.page("/docs/page", "<p>Text.</p>", "text/html; charset=utf-8")
    site.page("/docs/q?id=1&token=canary-pass", "Text.")
    site.page("/docs/list.txt", "page\nq?id=1&token=canary-pass\nq?id=2\na.md?x=1\n")
    source = HttpListSource(site.url("/docs/list.txt"))
    entries = [entry for entry in await listed(source) if isinstance(entry, Entry)]
    assert [entry.has_type for entry in entries] == [False, False, False, True]
    assert len({entry.id for entry in entries}) == 4
    assert CANARY not in str([(entry, source.address(entry)) for entry in entries])
    suffixes = [(await source.fetch(entry, into=tmp_path)).suffix for entry in entries[:2]]
    assert suffixes == [".html", ".txt"]


async def test_a_large_answer_is_refused_before_it_fills_the_disk(site: Site, tmp_path: Path) -> None:
    site.page("/docs/a.md", "small", length=10**10)
    source = HttpListSource(site.url("/docs/list.txt"))
    (entry, *_) = [entry for entry in await listed(source) if isinstance(entry, Entry)]
    with pytest.raises(InvalidInput, match="larger than 64 MB"):
        await source.fetch(entry, into=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_of_sources_have_no_secrets_and_differ_by_query() -> None:
    one, other = (HttpListSource(f"https://user:{CANARY}@h.example/list?token={CANARY}{n}").name for n in "12")
    assert one != other
    assert CANARY not in one + other
    assert one.startswith("https://h.example/list?sha256-")
