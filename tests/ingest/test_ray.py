"""Ingestion on Ray: the same documents as the local engine's, whatever dies; shared limits; nothing that listens, stays behind or tells a secret.

Starting Ray takes many seconds, so most tests are thorough. They share one cluster, which is started as the manual says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest
from tests.support.ray_ingest import DIMENSION, client, counted, embedder, made_files

import ragcore
from ragcore import ConfigurationError, Document, IngestReport, InvalidInput, StoreError, Unreadable
from ragcore.compat.private import ray_on_loopback
from ragcore.explore import Labelled
from ragcore.explore.ray import _labels
from ragcore.ingest.ray import embed_dataset, ingest
from ragcore.ingest.ray.cluster import cluster as cluster_of
from ragcore.ingest.ray.coordinator import Coordinator, SharedRateLimiter, digest
from ragcore.ingest.ray.engine import _of_ray
from ragcore.ingest.ray.workers import BLOCK_DEATHS, MOST_DEATHS, Adder, Limits, table, unpacked
from ragcore.resilience import RateLimiter
from ragcore.store import migrate
from ragcore.testing import Fail, OpenAIServer

ROOT = Path(__file__).parents[2]
CANARY = "sk-canary-2f9d61"
TOKEN = "a-token-for-tests-that-is-long-enough-0123456789"
# Ray reads these once in a process, when it first connects.
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
pytestmark = pytest.mark.anyio


# Without Ray


class Near:
    """A handle of an actor that is in this process."""

    def __init__(self, actor: object) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        class Method:
            remote = getattr(self._actor, name)

        return Method


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_workers_share_limits_and_pauses() -> None:
    coordinator = Coordinator(60, None)
    ours, theirs = (SharedRateLimiter(Near(coordinator), requests_per_minute=60) for _ in range(2))
    for _ in range(3):
        await ours.acquire()
        await theirs.acquire()
    assert (await ours._turn(1))[0] > 0.5
    wait, before = await theirs._turn(1)
    assert wait > 1.5
    await coordinator.pause(30)
    assert await ours._all_put_off() - before == pytest.approx(30, abs=0.1)
    assert (await theirs._turn(1))[0] > 32


async def test_an_id_belongs_to_one_origin_also_when_a_task_is_repeated() -> None:
    coordinator = Coordinator(None, None)
    claims = [(digest("1"), digest("a.jsonl", 0)), (digest("1"), digest("a.jsonl", 1))]
    assert await coordinator.claim(claims) == [True, False]
    assert await coordinator.claim(claims) == [True, False]


class Death(BaseException):
    """Stands for the death of a process."""


class Deadly:
    """A client whose process dies of one document."""

    def __init__(self) -> None:
        self.added: list[str] = []

    async def add(
        self,
        documents: Any,
        /,
        *,
        tenant: str,
        document_timeout: float | None = None,
        rate_limiter: RateLimiter | None = None,
    ) -> IngestReport:
        if any(document.id == "deadly" and isinstance(document, Document) for document in documents):
            raise Death
        self.added += [document.id for document in documents if isinstance(document, Document)]
        return IngestReport(
            added=sum(isinstance(one, Document) for one in documents),
            failed=tuple(one for one in documents if isinstance(one, Unreadable)),
        )


async def test_a_document_with_which_workers_die_is_reported_and_the_others_are_added() -> None:
    coordinator = Coordinator(None, None)
    made = Deadly()
    worker: Any = object.__new__(Adder)
    worker._loop, worker._tenant, worker._document_timeout = ExitStack(), "a", None
    worker._coordinator, worker._limiter = Near(coordinator), None
    documents = [Document("1", "text"), Document("deadly", "text"), Document("2", "text")]
    deaths = 0
    while True:
        try:
            reports = await worker._add(made, documents)
            break
        except Death:
            deaths += 1
    assert deaths == BLOCK_DEATHS + 1 + MOST_DEATHS
    assert [one.id for report in reports for one in report.failed] == ["deadly"]
    assert set(made.added) == {"1", "2"}
    assert list(coordinator._begun) == [digest("document", "deadly")]


def test_a_client_that_cannot_be_opened_is_one_error_without_its_text() -> None:
    def opens() -> Any:
        raise KeyError(CANARY)

    worker = Adder(opens, "a", None, Limits(), None)
    (row,) = worker(table([Document("1", "text")]))["value"].to_pylist()
    error = unpacked(row).error
    assert isinstance(error, ConfigurationError)
    assert "the function `client` failed in a worker (KeyError)" in str(error)
    assert CANARY not in str(error)


@pytest.mark.parametrize(
    "keeps",
    [
        "workers.kept = made",
        # The interpreter collects the workers after it has stopped its other threads.
        "gc.disable(); made.append(made); del made",
        "gc.disable(); made.append(workers.__dict__); workers.kept = made",
    ],
)
def test_a_worker_ends_with_its_interpreter(keeps: str) -> None:
    code = (
        "import gc\nimport ragcore.ingest.ray.workers as workers\n"
        "made = [workers.Reader(workers.ReadOptions(), None), workers.Adder(dict, 'a', None, workers.Limits(), None)]\n"
    )
    done = subprocess.run([sys.executable, "-c", code + keeps], check=True, timeout=100, capture_output=True, text=True)
    assert done.stderr == ""


def test_labels_to_evaluate_may_be_labels_rows_or_a_frame() -> None:
    pandas = pytest.importorskip("pandas")
    rows = [{"question": "q", "relevant": ["a"], "tenant": "t"}]
    labels = [Labelled("q", ("a",), tenant="t")]
    for given in (labels, iter(labels), rows, pandas.DataFrame(rows)):
        assert _labels(given) == labels


def test_an_error_of_ray_is_the_error_of_the_worker_if_there_is_one() -> None:
    inner = StoreError("down", dependency="store")
    outer = RuntimeError("ray")
    outer.__cause__ = inner
    assert _of_ray(outer) is inner
    assert "RuntimeError" in str(_of_ray(RuntimeError("lost")))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"tenant": " "}, InvalidInput),
        ({"requests_per_minute": 0}, ConfigurationError),
        ({"document_timeout": -1}, InvalidInput),
        ({"read_timeout": 0}, ConfigurationError),
    ],
)
def test_invalid_arguments_are_errors_before_ray_starts(
    tmp_path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        ingest(tmp_path, **{"tenant": "a", "client": client, **options})


def test_ragcore_does_not_import_ray_and_ray_is_imported_with_its_usage_collection_off() -> None:
    code = (
        "import sys, os, ragcore, ragcore.ingest, ragcore.cli.documents, ragcore.ingest.ray, ragcore.explore.ray\n"
        "assert 'ray' not in sys.modules\n"
        "from ragcore.ingest.ray.cluster import load\n"
        "load('a test')\n"
        "from ray._common.usage import usage_lib\n"
        "assert os.environ['RAY_USAGE_STATS_ENABLED'] == '0'\n"
        "assert not usage_lib.usage_stats_enabled()\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=100, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "1"}
    )


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1", "ray://127.0.0.1:10001"])
def test_an_address_without_a_cluster_is_one_clear_error(tmp_path: Path, address: str) -> None:
    made_files(tmp_path, 50)
    with pytest.raises(ConfigurationError, match=re.escape(address)):
        ingest(tmp_path, tenant="a", client=client, address=address)


def test_a_connection_to_this_machine_changes_nothing_for_a_later_one_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="127.0.0.1:9"):
        with cluster_of("127.0.0.1:9", workers=None, purpose="a test"):
            pass
    assert name not in os.environ
    constants = sys.modules["ray._private.ray_constants"]
    before = constants.ENABLE_RAY_CLUSTER
    with ray_on_loopback():
        assert (os.environ[name], constants.ENABLE_RAY_CLUSTER) == ("0", False)
    assert (os.environ.get(name), constants.ENABLE_RAY_CLUSTER) == (None, before)


# With Ray


def ours(folder: str) -> list[psutil.Process]:
    """Return the processes of a Ray session."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_TMPDIR") == folder and "ray" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def open_ports(processes: Sequence[psutil.Process]) -> set[str]:
    """Return the addresses on which processes listen."""
    found = set()
    for process in processes:
        try:
            found |= {one.laddr.ip for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN}
        except psutil.Error:
            continue
    return found


@contextmanager
def session(*, ends: bool = True) -> Iterator[str]:
    """Yield a folder for a session of Ray. Its path is short, because Ray's sockets lie in it. If the session ends by itself, nothing may be left of it."""
    folder = tempfile.mkdtemp(dir="/tmp", prefix="r")
    try:
        yield folder
        end = time.monotonic() + 20
        while ends and (left := ours(folder)):
            assert time.monotonic() < end, left
            time.sleep(0.2)
    finally:
        for process in ours(folder):
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def environment(folder: str, dsn: str, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        "RAY_TMPDIR": folder,
        "DATABASE_URL": dsn,
        **more,
    }


@pytest.mark.system
@pytest.mark.thorough
@pytest.mark.timeout(300)
async def test_the_command_adds_the_same_documents_as_the_local_engine_and_tells_no_secret(
    database: tuple[str, str], tmp_path: Path
) -> None:
    dsn, owner = database
    await migrate(owner, model="made", dimension=8, role="ragcore")
    made_files(tmp_path, 150)
    (tmp_path / "note.md").write_text("# Note\n\nA text.")
    (tmp_path / "broken.pdf").write_text("no PDF")
    heard: set[str] = set()
    async with OpenAIServer(dimension=8) as server:
        with session() as folder:
            env = environment(
                folder,
                dsn,
                OPENAI_API_KEY=CANARY,
                OPENAI_BASE_URL=server.base_url,
                RAGCORE_EMBEDDING_MODEL="made",
                RAGCORE_EMBEDDING_DIMENSION="8",
            )

            async def run(tenant: str, *options: str) -> dict[str, Any]:
                command = [sys.executable, "-m", "ragcore", "ingest", str(tmp_path), "-t", tenant, "--json", *options]
                process = await anyio.open_process(command, env=env)
                assert process.stdout is not None
                assert process.stderr is not None
                with anyio.fail_after(200):
                    async with anyio.create_task_group() as group:
                        group.start_soon(watch)
                        output = b"".join([part async for part in process.stdout])
                        errors = b"".join([part async for part in process.stderr])
                        await process.wait()
                        group.cancel_scope.cancel()
                assert process.returncode == 1, errors  # the broken file
                assert CANARY.encode() not in output + errors
                report: dict[str, Any] = json.loads(output)
                return report

            async def watch() -> None:
                while True:
                    heard.update(await anyio.to_thread.run_sync(lambda: open_ports(ours(folder))))
                    await anyio.sleep(2)

            local = await run("local")
            ray = await run("ray", "--engine", "ray", "--workers", "1")
            logs = [path for path in Path(folder).rglob("*") if path.is_file()]
            assert len(logs) > 5
            for secret in (CANARY, TOKEN):
                assert [path for path in logs if secret.encode() in path.read_bytes()] == []
    assert heard
    assert heard <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert {**ray, "seconds": 0} == {**local, "seconds": 0}
    assert (ray["added"], [one["id"] for one in ray["failed"]]) == (151, ["broken.pdf"])
    async with ragcore.PgVectorStore(dsn) as store:
        assert await store.hashes(None, tenant="ray") == await store.hashes(None, tenant="local")


@pytest.mark.thorough
@pytest.mark.timeout(600)
async def test_all_documents_are_stored_once_although_a_worker_and_a_node_die(database: tuple[str, str]) -> None:
    dsn, owner = database
    await migrate(owner, model="made", dimension=DIMENSION, role="ragcore")
    command = [sys.executable, "-m", "tests.support.ray_ingest", "kill", "4000"]
    with session() as folder:
        env = environment(folder, dsn)
        done = await anyio.to_thread.run_sync(
            lambda: subprocess.run(command, env=env, capture_output=True, text=True, timeout=580, check=False)
        )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["killed"] == ["worker", "node"]
    assert (report["added"] + report["unchanged"], report["failed"]) == (4_000, [])
    assert await counted(owner, "killed") == (4_000, 0)


@pytest.mark.thorough
@pytest.mark.timeout(300)
async def test_ctrl_c_leaves_no_process_of_ray(database: tuple[str, str], tmp_path: Path) -> None:
    dsn, owner = database
    await migrate(owner, model="made", dimension=DIMENSION, role="ragcore")
    made_files(tmp_path, 2_000)
    code = "import sys\nfrom tests.support.ray_ingest import client\nfrom ragcore.ingest.ray import ingest\n"
    code += "ingest(sys.argv[1], tenant='a', client=client, workers=1, progress=lambda _: print('.', flush=True))"
    with session() as folder:
        with (tmp_path.parent / "errors").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-c", code, str(tmp_path)],
                env=environment(folder, dsn),
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        assert process.stdout is not None
        stdout = process.stdout
        first = await anyio.to_thread.run_sync(lambda: stdout.read(1))
        assert first == b".", (tmp_path.parent / "errors").read_text()[-2000:]
        # A terminal sends the signal to all processes of the group.
        os.killpg(process.pid, signal.SIGINT)
        assert await anyio.to_thread.run_sync(lambda: process.wait(60)) != 0
        stdout.close()


@pytest.fixture(scope="module")
def cluster(server: tuple[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield (address, DSN of the plain role, DSN of the owner) of a cluster that runs as the manual says, with a database for it."""

    async def prepare() -> tuple[str, str]:
        import asyncpg

        name = f"ray_{os.urandom(4).hex()}"
        admin = await asyncpg.connect(server[1])
        await admin.execute(f"create database {name}")
        await admin.close()
        plain, owner = (dsn.replace("/ragcore?", f"/{name}?") for dsn in server)
        await migrate(owner, model="made", dimension=DIMENSION, role="ragcore")
        return plain, owner

    dsn, owner = anyio.run(prepare)
    with session(ends=False) as folder:
        env = environment(folder, dsn, RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--port=0", "--num-cpus=2"]
        command += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--object-store-memory=150000000"]
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = {name: os.environ.get(name) for name in ("RAY_TMPDIR", "PYTHONPATH")}
        os.environ.update({name: env[name] for name in before})
        try:
            named = Path(folder) / "ray" / "ray_current_cluster"
            end = time.monotonic() + 100
            while not named.exists() and time.monotonic() < end:
                time.sleep(0.2)
            assert open_ports(ours(folder)) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
            yield named.read_text().strip(), dsn, owner
        finally:
            for one in ours(folder):
                one.kill()
            process.kill()
            process.wait()
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


on_cluster = [
    pytest.mark.thorough,
    pytest.mark.timeout(300),
    pytest.mark.blocking_allowed,
    pytest.mark.filterwarnings("ignore"),
]


def marked(test: Any) -> Any:
    for mark in on_cluster:
        test = mark(test)
    return test


def limited(base_url: str) -> ragcore.RAG:
    embedder = ragcore.OpenAIEmbedder("made", dimension=DIMENSION, base_url=base_url, api_key=CANARY)
    store = ragcore.PgVectorStore(os.environ["DATABASE_URL"])
    return ragcore.RAG(
        retriever=ragcore.Retriever(store=store, embedder=embedder), generator=ragcore.ExtractiveGenerator()
    )


@marked
async def test_limits_and_a_pause_hold_for_all_workers(cluster: tuple[str, str, str], tmp_path: Path) -> None:
    address, _, owner = cluster
    made_files(tmp_path, 1_200)
    times: list[float] = []

    async with OpenAIServer(dimension=DIMENSION) as server:
        server.faults.next(None, None, Fail(429, headers={"Retry-After": "4"}))

        async def note() -> None:
            while True:
                while len(times) < len(server.requests):
                    times.append(anyio.current_time())
                await anyio.sleep(0.01)

        async with anyio.create_task_group() as group:
            group.start_soon(note)
            report = await anyio.to_thread.run_sync(
                lambda: ingest(
                    tmp_path,
                    tenant="limited",
                    client=partial(limited, server.base_url),
                    address=address,
                    workers=2,
                    requests_per_minute=120,
                )
            )
            group.cancel_scope.cancel()
    assert (report.added, report.failed) == (1_200, ())
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert sum(gap > 3 for gap in gaps) == 1  # only requests that were on their way may follow the 429
    for start in times:
        assert sum(start <= one < start + 60 for one in times) <= 120
    assert await counted(owner, "limited") == (1_200, 0)


@marked
def test_a_worker_without_its_configuration_is_one_clear_error(cluster: tuple[str, str, str], tmp_path: Path) -> None:
    made_files(tmp_path, 50)
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        ingest(tmp_path, tenant="a", client=configured, address=cluster[0], workers=1)


def configured() -> ragcore.RAG:
    return ragcore.RAG.from_config(ragcore.Config.from_env())


@marked
async def test_texts_of_a_dataset_are_embedded_and_a_connection_of_the_user_stays(
    cluster: tuple[str, str, str],
) -> None:
    import ray
    import ray.data

    def work() -> list[dict[str, Any]]:
        ray.init(address=cluster[0], log_to_driver=False)
        try:
            rows = ray.data.from_items([{"text": f"text {n}"} for n in range(300)] + [{"text": " "}])
            found: list[dict[str, Any]] = embed_dataset(rows, embedder=embedder, workers=1).take_all()
            assert ray.is_initialized()
            return found
        finally:
            ray.shutdown()

    found = await anyio.to_thread.run_sync(work)
    assert len(found) == 301
    assert {len(row["embedding"]) for row in found if not row["embedding_error"]} == {DIMENSION}
    assert [row["embedding"] for row in found if row["embedding_error"] == "it has no text"] == [None]


@marked
async def test_questions_are_evaluated_as_by_the_local_functions(
    cluster: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ragcore import explore
    from ragcore.explore.ray import answers_dataset, evaluate_dataset

    monkeypatch.setenv("DATABASE_URL", cluster[1])
    documents = [Document(f"d{n}", f"The answer number {n} is {n * 7}.") for n in range(40)]
    labels = [
        Labelled(f"The answer number {n} is {n * 7}.", tenant="questions", relevant=(f"d{n}",)) for n in range(40)
    ]
    async with client() as rag:
        await rag.add(documents, tenant="questions")
        local = await explore.evaluate(rag.retriever, labels, k=5)
        asked = await explore.answers(rag, labels)
    run = anyio.to_thread.run_sync
    far = await run(lambda: evaluate_dataset(labels, client=client, k=5, workers=2, address=cluster[0]))
    assert far == local
    answered = await run(lambda: answers_dataset(labels, client=client, workers=2, address=cluster[0]))
    assert [(one.question, one.text) for one in answered.questions] == [
        (one.question, one.text) for one in asked.questions
    ]
