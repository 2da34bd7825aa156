"""The benchmarks fail with services that are broken in different ways, and pass with services that work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from benchmarks.peers.crew import member
from benchmarks.scenarios.peers import FAULT_DEADLINE, HUNG, TENANT, fill, job_of

from tests.support.elsewhere import Elsewhere, elsewhere

pytestmark = [pytest.mark.system, pytest.mark.blocking_allowed, pytest.mark.timeout(240)]
ROOT = Path(__file__).parents[2]
# Packages that a user who only checks a deployment does not need.
NOT_NEEDED = ("asyncpg", "openai", "pgvector", "numpy", "matplotlib", "psutil", "h11_server", "tiktoken")


def run(*arguments: str, out: Path, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({without!r})); " if without else ""
    command = f"{blocked}from benchmarks.command import main; main({[*arguments, '--out', str(out)]!r})"
    return subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=200)


@pytest.mark.parametrize(
    ("how", "options", "criterion"),
    [
        ("hangs", ("--timeout", "1.5", "--hung-after", "0.5"), "no hang at 5 or more at once"),
        pytest.param(
            "drips",
            ("--timeout", "1", "--hung-after", "0.5"),
            "no hang at 5 or more at once",
            marks=pytest.mark.thorough,
        ),
        ("wrong", ("--levels", "1,100"), "(more than 95 %)"),
        ("leaks", ("--levels", "1,5"), "memory growth at least"),
        pytest.param("apologises", ("--levels", "1,5"), "(more than 95 %)", marks=pytest.mark.thorough),
    ],
)
def test_a_broken_service_fails_the_benchmark(
    how: str, options: tuple[str, ...], criterion: str, tmp_path: Path
) -> None:
    done = run("ladder", "--quick", "--broken", how, "--steady-seconds", "3", *options, out=tmp_path)
    assert done.returncode == 1, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    failed_first = next(failed for failed in summary["failed"] if criterion in failed)
    assert f"NOT MET {failed_first}" in " ".join(done.stdout.split())
    if how == "hangs":
        assert summary["figures"]["highest_concurrency"] == 3
        assert summary["figures"]["hung"] == 5


@pytest.mark.thorough
def test_the_steady_load_detects_a_service_that_breaks_after_the_ladder(tmp_path: Path) -> None:
    options = ("--levels", "1,2,3", "--steady-seconds", "2", "--timeout", "1.5", "--hung-after", "0.5")
    done = run("ladder", "--quick", "--broken", "hangs", *options, out=tmp_path)
    assert done.returncode == 1
    assert "NOT MET no hang at 5 or more at once" in " ".join(done.stdout.split())


def test_an_unreachable_service_ends_the_ladder_at_once(tmp_path: Path) -> None:
    options = ("--levels", "1,5", "--steady-seconds", "1", "--question", "q", "--fact", "f")
    done = run("ladder", "--quick", "--url", "http://127.0.0.1:9/chat", *options, out=tmp_path)
    assert done.returncode == 2
    assert "none of the first 5 questions was accepted: ConnectError" in " ".join(done.stderr.split())


@pytest.mark.thorough
def test_sigterm_leaves_no_server_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "overload", "--quick", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    # A shell starts background jobs with SIGINT ignored.
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGINT, former)
    try:
        until = time.monotonic() + 150  # the simulated cells come first, and take a minute on a busy machine
        while not (list(tmp_path.glob("*/postmaster.pid")) or list(tmp_path.glob("*/*/postmaster.pid"))):
            assert time.monotonic() < until, [str(path) for path in tmp_path.rglob("*")][:20]
            time.sleep(0.1)
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
        assert not list(tmp_path.rglob("postmaster.pid"))
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("options", "highest", "requests"),
    [
        pytest.param(("--levels", "1,2,3,5,10,50", "--steady-seconds", "3"), 50, 71, id="up to 50"),
        pytest.param((), 200, 391, id="up to 200", marks=pytest.mark.thorough),
    ],
)
def test_the_library_passes_the_ladder(options: tuple[str, ...], highest: int, requests: int, tmp_path: Path) -> None:
    done = run("ladder", "--quick", "--json", *options, out=tmp_path)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert (values["hung"], values["wrong"], values["success_rate"]) == (0, 0, 1.0)
    assert values["highest_concurrency"] == highest
    assert len((tmp_path / "requests.jsonl").read_text().splitlines()) > requests


@pytest.mark.thorough
def test_the_reference_application_passes_the_ladder_over_http(tmp_path: Path) -> None:
    done = run("ladder", "--quick", "--json", "--reference", "--levels", "1,5,20", out=tmp_path)
    values = json.loads(done.stdout)
    assert (values["hung"], values["wrong"], values["success_rate"]) == (0, 0, 1.0), done.stderr
    assert "Bearer" not in (tmp_path / "summary.json").read_text()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_deployment_is_checked_without_the_clients_dependencies(tmp_path: Path) -> None:
    """Typer, rich and httpx are enough. Imports of the client's dependencies are blocked."""
    from benchmarks.targets.broken import broken

    async with broken("wrong") as (how, _):
        arguments = (
            "ladder",
            "--quick",
            "--url",
            how.url,
            "--question",
            "What is my deductible?",
            "--fact",
            "deductible",
        )
        options = ("--levels", "1,3", "--steady-seconds", "1")
        done = await anyio.to_thread.run_sync(lambda: run(*arguments, *options, out=tmp_path, without=NOT_NEEDED))
    assert done.returncode == 0, done.stderr
    assert "<svg" in (tmp_path / "report.html").read_text()


@pytest.mark.thorough
def test_a_fault_during_a_run_is_shaded_and_counted(tmp_path: Path) -> None:
    options = ("--rate", "10", "--repeats", "1", "--seconds", "5", "--warm-up", "1")
    fault = ("--fault", "generate:503", "--fault-from", "1", "--fault-for", "2")
    done = run("load", "--json", *options, *fault, out=tmp_path)
    values = json.loads(done.stdout)
    assert done.returncode in (1, 3)  # 3: the machine was too busy for valid figures
    assert values["degraded"] > 0
    assert values["hung"] == 0
    assert "generate:503" in (tmp_path / "report.html").read_text()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.thorough
class TestPeers:
    """Adapters that need only the library's own dependencies."""

    @pytest.fixture
    async def servers(self, tmp_path: Path) -> AsyncIterator[Elsewhere]:
        async with elsewhere() as made:
            await fill(made.addresses, tmp_path)
            yield made

    async def test_each_adapter_does_the_same_job(self, servers: Elsewhere, tmp_path: Path) -> None:
        assert TENANT
        ballast = b"x" * 400_000_000  # memory that must not count for the processes started below
        for name in ("hand_written", "ragcore_client", "threaded"):
            async with member(name, Path(sys.executable), job_of(servers.addresses, straight=True), tmp_path) as one:
                lap = await one.run(concurrency=3, count=12, deadline=20, patience=60)
            assert set(lap.kinds.values()) == {"right"}, (name, lap.details)
            assert 20 < lap.done["peak_mb"] < len(ballast) / 2**20 / 2

    async def test_the_threaded_style_adds_up_and_hangs(self, servers: Elsewhere, tmp_path: Path) -> None:
        """Five questions at once take five times as long. With a frozen database no question is answered."""
        job = job_of(servers.addresses, straight=False)
        async with member("threaded", Path(sys.executable), job, tmp_path) as one:
            await servers.latencies(embedding=0.05, first_token=0.2, token=0.0)
            alone = await one.run(concurrency=1, count=1, deadline=20, patience=60)
            five = await one.run(concurrency=5, count=5, deadline=20, patience=60)
            assert max(five.ended.values()) - min(five.asked.values()) > 3 * max(alone.seconds)
            await servers.strike("search", "frozen")
            await anyio.sleep(0.1)
            patience = FAULT_DEADLINE + HUNG + 0.5
            frozen = await one.run(concurrency=5, count=5, deadline=FAULT_DEADLINE, patience=patience)
            assert frozen.hung(FAULT_DEADLINE, HUNG) == 5
            await servers.fair()
