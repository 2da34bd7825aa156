"""Blue-green behind nginx and behind haproxy: the first release and this one serve from one database.

No request fails while the traffic moves to the new version and back.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
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

    async def app(scope, receive, send):
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
            for _ in range(5):  # on a loaded machine, the first release may lose a connection; this test is about the balancer
                try:
                    answer = await rag.ask("How high is the deductible?", tenant="a", timeout=60)
                    status, body = 200, {"version": name, "found": bool(answer.citations)}
                    break
                except Exception as error:
                    status, body = 503, {"version": name, "error": repr(error), "cause": repr(error.__cause__)}
        elif scope["path"] == "/readyz":
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


HAPROXY = """
    global
        stats socket {sockets}/admin.sock level admin expose-fd listeners
        hard-stop-after 60s
    defaults
        mode http
        # Otherwise a reload closes idle connections of clients, perhaps just when a client sends a request on one.
        option httpclose
        timeout connect 30s
        timeout client 90s
        timeout server 90s
    frontend service
        bind 127.0.0.1:{port}
        default_backend service
    backend service
        server service 127.0.0.1:{target}
"""
# Seconds of a request. A loaded machine may need many of them; they are no part of what is tested.
REQUEST_SECONDS = 90


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", params=["nginx", pytest.param("haproxy", marks=pytest.mark.thorough)])
def balancer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program: an installed one, else that of Debian's package."""
    name: str = request.param
    if found := shutil.which(name) or shutil.which(f"/usr/sbin/{name}"):
        return found
    folder = tmp_path_factory.mktemp(name)
    if shutil.which("apt-get") and shutil.which("dpkg"):
        steps = (f"apt-get download {name}", f"dpkg -x {name}_*.deb .", f"./usr/sbin/{name} -v")
        done = subprocess.run(
            ["sh", "-c", " && ".join(steps)], cwd=folder, env=outside(), capture_output=True, timeout=60, check=False
        )
        if done.returncode == 0:
            return str(folder / "usr" / "sbin" / name)
    pytest.skip(f"NOT TESTED: blue-green behind {name}: run `apt-get install {name}`")


class Machine:
    """The processes of the test."""

    def __init__(self, folder: Path, program: str, dsn: str, stack: ExitStack) -> None:
        self._folder = folder
        # The path of a socket may have at most 107 characters, and the test's own folder is too deep.
        self._sockets = stack.enter_context(tempfile.TemporaryDirectory())
        self._program = program
        self._balancer_is_haproxy = "haproxy" in Path(program).name
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

    async def switch(self, port: int) -> None:
        """Send new requests to this port. The balancer lets the running ones end where they are; return when it has no request left for the port before."""
        before = self._workers()
        if self._balancer_is_haproxy:
            (self._folder / "haproxy.cfg").write_text(
                textwrap.dedent(HAPROXY).format(sockets=self._sockets, port=self.port, target=port)
            )
            command = [self._program, "-W", "-f", str(self._folder / "haproxy.cfg"), "-p", str(self._folder / "pid")]
        else:
            (self._folder / "upstream.conf").write_text(f"server 127.0.0.1:{port};")
            text = textwrap.dedent(CONFIGURATION).format(folder=self._folder, port=self.port)
            (self._folder / "nginx.conf").write_text(text)
            files = ["-c", str(self._folder / "nginx.conf"), "-e", str(self._folder / "error.log")]
            command = [self._program, *files, "-p", str(self._folder)]
        if self._balancer is None:
            self._balancer = self._started(*command)
            self._stack.callback(self._balancer.terminate)
            await self._ready(f"{self.url}/readyz", self._balancer)
            return
        # Read the configuration again. Both programs start new workers; the old ones end after their last request.
        self._balancer.send_signal(signal.SIGUSR2 if self._balancer_is_haproxy else signal.SIGHUP)
        with anyio.fail_after(REQUEST_SECONDS):
            while before & self._workers():
                await anyio.sleep(0.05)

    def _workers(self) -> set[int]:
        """Return the processes of the balancer's workers."""
        if self._balancer is None:
            return set()
        children = Path(f"/proc/{self._balancer.pid}/task/{self._balancer.pid}/children")
        return {int(child) for child in children.read_text().split()}

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
def machine(tmp_path: Path, balancer: str, database: tuple[str, str]) -> Iterator[Machine]:
    with ExitStack() as stack:
        yield Machine(tmp_path, balancer, database[0], stack)


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
                    response = await client.get(f"{machine.url}/ask", timeout=REQUEST_SECONDS)
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
        with anyio.fail_after(REQUEST_SECONDS):
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
        # No worker of the balancer knows the old version any more, so it may end, and the members don't notice.
        old.terminate()
        await answered_by("new")
        is_over.set()
    assert failed == []
    assert min(seen["old"], seen["new"]) >= 60
