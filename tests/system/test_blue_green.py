"""Blue-green behind nginx: the first release and this one serve from one database. No request fails while the traffic moves to the new version and back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import httpx
import pytest

from ragcore import Document, PgVectorStore
from ragcore.ingest import Ingestor
from ragcore.store import migrate
from ragcore.testing import FakeEmbedder

from ..conftest import ROOT, outside
from ..store.contract import DIMENSION
from ..store.test_rolling_upgrade import first_release as first_release
from .test_edge import free_port

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.blocking_allowed, pytest.mark.timeout(300)]

# It runs with both libraries, so it uses only what both have.
SERVICE = """
    import asyncio, json, sys, urllib.parse
    import uvicorn
    from ragcore import RAG, PgVectorStore, Retriever
    from ragcore.testing import FakeEmbedder, FakeGenerator

    dsn, port, name = sys.argv[1:]
    retriever = Retriever(store=PgVectorStore(dsn, pool_size=4), embedder=FakeEmbedder(dimension=64))
    rag = RAG(retriever=retriever, generator=FakeGenerator())

    running = 0

    async def app(scope, receive, send):
        global running
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                if message["type"] == "lifespan.startup":
                    await rag.start()
                    await send({"type": "lifespan.startup.complete"})
                else:
                    await rag.aclose()
                    await send({"type": "lifespan.shutdown.complete"})
                    return
        status, body = 200, {"version": name}
        if scope["path"] == "/ask":
            running += 1
            try:
                answer = await rag.ask("How high is the deductible?", tenant="a", timeout=10)
                body["found"] = bool(answer.citations)
            except Exception as error:
                status, body = 503, {"version": name, "error": repr(error), "cause": repr(error.__cause__)}
            finally:
                running -= 1
        elif scope["path"] == "/readyz":
            body["running"] = running
            status = 200 if (await rag.health()).ready else 503
        data = json.dumps(body).encode()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": data})

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", lifespan="on", timeout_keep_alive=75)
"""
CONFIGURATION = """
    daemon off; master_process on; pid {folder}/nginx.pid; error_log {folder}/error.log warn; worker_processes 1;
    events {{ worker_connections 512; }}
    http {{
        access_log off;
        keepalive_timeout 0;  # otherwise a reload closes idle connections of clients, perhaps just when a client sends a request on one
        client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
        uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
        upstream service {{ include {folder}/upstream.conf; keepalive 8; }}
        server {{
            listen 127.0.0.1:{port};
            location / {{ proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection ""; }}
        }}
    }}
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program: an installed one, else that of Debian's package."""
    if found := shutil.which("nginx") or shutil.which("/usr/sbin/nginx"):
        return found
    folder = tmp_path_factory.mktemp("nginx")
    if shutil.which("apt-get") and shutil.which("dpkg"):
        steps = ("apt-get download nginx", "dpkg -x nginx_*.deb .", "./usr/sbin/nginx -v")
        done = subprocess.run(
            ["sh", "-c", " && ".join(steps)], cwd=folder, env=outside(), capture_output=True, timeout=60, check=False
        )
        if done.returncode == 0:
            return str(folder / "usr" / "sbin" / "nginx")
    pytest.skip("nginx is not installed, and Debian's package can't be downloaded: blue-green is NOT tested")


class Machine:
    """The processes of the test."""

    def __init__(self, folder: Path, nginx: str, dsn: str, stack: ExitStack) -> None:
        self._folder = folder
        self._nginx = nginx
        self._dsn = dsn
        self._stack = stack
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._balancer: subprocess.Popen[bytes] | None = None

    def _started(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self._folder / f"log-{time.monotonic_ns()}").open("wb"))
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    async def serve(self, name: str, source: Path) -> tuple[int, subprocess.Popen[bytes]]:
        """Start a version, and wait until it is ready."""
        port = free_port()
        command = [sys.executable, "-c", textwrap.dedent(SERVICE), self._dsn, str(port), name]
        process = self._started(*command, PYTHONPATH=str(source))
        await self._ready(f"http://127.0.0.1:{port}/readyz", process)
        return port, process

    async def idle(self, port: int) -> None:
        """Wait until a version has had no request for a second."""
        async with httpx.AsyncClient() as client:
            quiet = 0
            while quiet < 10:
                body = (await client.get(f"http://127.0.0.1:{port}/readyz", timeout=20)).json()
                quiet = 0 if body["running"] else quiet + 1
                await anyio.sleep(0.1)

    async def switch(self, port: int) -> None:
        """Send new requests to this port. nginx lets the running ones end where they are."""
        (self._folder / "upstream.conf").write_text(f"server 127.0.0.1:{port};")
        if self._balancer is not None:
            self._balancer.send_signal(1)  # SIGHUP: read the configuration again
            return
        text = textwrap.dedent(CONFIGURATION).format(folder=self._folder, port=self.port)
        (self._folder / "nginx.conf").write_text(text)
        arguments = [
            "-c",
            str(self._folder / "nginx.conf"),
            "-p",
            str(self._folder),
            "-e",
            str(self._folder / "error.log"),
        ]
        self._balancer = self._started(self._nginx, *arguments)
        self._stack.callback(self._balancer.terminate)
        await self._ready(f"{self.url}/readyz", self._balancer)

    async def _ready(self, url: str, process: subprocess.Popen[bytes]) -> None:
        async with httpx.AsyncClient() as client:
            for _ in range(600):
                assert process.poll() is None, "the process has ended: " + self._logs()
                try:
                    if (await client.get(url, timeout=5)).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await anyio.sleep(0.1)
        raise AssertionError(f"{url} is not ready: {self._logs()}")

    def _logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-800:] for path in self._folder.glob("*log*"))


@pytest.fixture
def machine(tmp_path: Path, nginx: str, database: tuple[str, str]) -> Iterator[Machine]:
    with ExitStack() as stack:
        yield Machine(tmp_path, nginx, database[0], stack)


async def test_no_request_fails_while_the_traffic_moves_and_moves_back(
    machine: Machine, database: tuple[str, str], first_release: Path
) -> None:
    # The schema of the new version comes first; the old library works with it.
    await migrate(database[1], model="fake", dimension=DIMENSION, role="ragcore")
    embedder = FakeEmbedder(dimension=DIMENSION)
    async with embedder, PgVectorStore(database[0]) as store:
        await Ingestor(embedder=embedder, store=store).add([Document("d", "The deductible is $1,500.")], tenant="a")
    blue, old = await machine.serve("old", first_release)
    await machine.switch(blue)
    seen: Counter[str] = Counter()
    failed: list[str] = []
    is_over = anyio.Event()

    async def member() -> None:
        async with httpx.AsyncClient() as client:
            while not is_over.is_set():
                try:
                    response = await client.get(f"{machine.url}/ask", timeout=20)
                    body = response.json()
                    if response.status_code != 200 or not body["found"]:
                        failed.append(f"{dict(seen)}: {response.status_code} {body}")
                    else:
                        seen[body["version"]] += 1
                except (httpx.HTTPError, ValueError) as error:
                    failed.append(f"{dict(seen)}: {error!r}")

    async def answered_by(version: str) -> None:
        """Wait until the version answers, and then for a while."""
        count = seen[version]
        with anyio.fail_after(60):
            while seen[version] < count + 30 and not failed:
                await anyio.sleep(0.05)

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(member)
        await answered_by("old")
        green, _ = await machine.serve("new", ROOT / "src")
        for port, version in ((green, "new"), (blue, "old"), (green, "new"), (blue, "old"), (green, "new")):
            await machine.switch(port)
            await answered_by(version)
        # The old version ends after its last request, and the members don't notice.
        await machine.idle(blue)
        old.terminate()
        await answered_by("new")
        is_over.set()
    assert failed == []
    assert min(seen["old"], seen["new"]) >= 60
