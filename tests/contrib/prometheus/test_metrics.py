"""The metrics of a client, as Prometheus reads them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.prometheus import program

import ragcore
from ragcore import (
    RAG,
    ConfigurationError,
    DeadlineExceeded,
    Document,
    LimitExceeded,
    MemoryStore,
    RagcoreError,
    Retriever,
    Settings,
    StoreError,
    events,
)
from ragcore.contrib import asgi
from ragcore.contrib.prometheus import Metrics
from ragcore.contrib.prometheus.sampling import Sampling
from ragcore.contrib.prometheus.series import ROLLOUT_CHANGES, Series
from ragcore.embedding import CachedEmbedder
from ragcore.resilience import Bulkhead, Policy, RetryPolicy
from ragcore.rollout import Guard, Rollout
from ragcore.testing import Fail, FakeEmbedder, FakeGenerator, FakeStore, Hang, Slow, fake_rag

pytestmark = pytest.mark.anyio

QUESTION = "What is my deductible?"
PLAN = Document("plan", "Your deductible is $1,500 per calendar year.")


class Read:
    """The metrics at a moment."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """Return the sum of the values of a metric with these labels; 0 if there is none."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == f"ragcore_{name}" and labels.items() <= sample.labels.items()
        )

    @property
    def labels(self) -> set[tuple[str, str]]:
        return {(name, value) for sample in self._samples for name, value in sample.labels.items()}


def read(metrics: Metrics) -> Read:
    return Read(metrics.exposition()[1].decode())


async def sampled(metrics: Metrics) -> Read:
    """Return the metrics with the present state of the client."""
    await metrics._sample()
    return read(metrics)


async def test_calls_are_counted_by_outcome_and_their_stages_are_measured() -> None:
    async with fake_rag() as rag, Metrics(rag) as metrics:
        await rag.add([PLAN], tenant="m")
        for _ in range(3):
            await rag.ask(QUESTION, tenant="m")
        async with rag.stream(QUESTION, tenant="m") as stream:
            await stream.answer()
        seen = await sampled(metrics)
    assert seen("calls_total", method="ask", outcome="ok") == 3
    assert seen("calls_total", method="stream", outcome="ok") == 1
    assert seen("call_duration_seconds_count", method="ask", outcome="ok") == 3
    for stage in ("embed", "search", "generate"):
        assert seen("stage_duration_seconds_count", stage=stage, outcome="ok") == 4
    assert seen("first_token_seconds_count") == 4
    assert seen("answers_total", found="true") == 4
    assert seen("top_score_count") == 4
    assert seen("tokens_total", kind="completion") == 4 * 7
    assert seen("tokens_total", kind="embedding") > 0
    assert seen("dependency_calls_total", dependency="generation fake") == 4
    assert seen("breaker_outcomes_total", dependency="embedding", outcome="success") == 5


async def test_a_degraded_call_is_not_ok_and_has_a_stage_and_a_reason() -> None:
    embedder, generator = FakeEmbedder(), FakeGenerator()
    async with fake_rag(embedder=embedder, generator=generator) as rag, Metrics(rag) as metrics:
        await rag.add([PLAN], tenant="m")
        embedder.faults.always(Fail(500))
        await rag.ask(QUESTION, tenant="m")
        embedder.faults.always(None)
        generator.faults.always(Fail(500))
        await rag.ask(QUESTION, tenant="m")
        seen = read(metrics)
    assert seen("calls_total", method="ask", outcome="ok") == 0
    assert seen("calls_total", method="ask", outcome="degraded") == 2
    assert seen("call_duration_seconds_count", method="ask", outcome="degraded") == 2
    assert seen("degradations_total", stage="embed", reason="EmbeddingError") == 1
    assert seen("degradations_total", stage="generate", reason="GenerationError") == 1
    assert seen("stage_duration_seconds_count", stage="embed", outcome="degraded") == 1
    assert seen("stage_duration_seconds_count", stage="embed", outcome="ok") == 1
    assert seen("stage_duration_seconds_count", stage="generate", outcome="degraded") == 1


async def test_failures_have_the_name_of_their_error_and_the_stage_of_the_timeout() -> None:
    store = FakeStore()
    async with fake_rag(store=store) as rag, Metrics(rag) as metrics:
        await rag.add([PLAN], tenant="m")
        store.faults.always(Fail(OSError("no connection")))
        with pytest.raises(StoreError):
            await rag.ask(QUESTION, tenant="m")
        store.faults.always(Hang())
        with pytest.raises(DeadlineExceeded):
            await rag.ask(QUESTION, tenant="m", timeout=0.05)
        seen = read(metrics)
    assert seen("calls_total", outcome="StoreError") == 1
    assert seen("calls_total", outcome="DeadlineExceeded") == 1
    assert seen("timeouts_total", stage="search") == 1
    assert seen("timeouts_total") == 1
    assert seen("stage_duration_seconds_count", stage="search", outcome="failed") == 2


async def test_attempts_that_take_too_long_count_for_their_dependency() -> None:
    store = FakeStore(policy=Policy("slow store", retry=False, attempt_timeout=0.05))
    async with fake_rag(store=store) as rag, Metrics(rag) as metrics:
        store.faults.always(Hang())
        with pytest.raises(StoreError):
            await rag.ask(QUESTION, tenant="m")
        seen = read(metrics)
    assert seen("dependency_timeouts_total", dependency="store", limit="attempt") == 1
    assert seen("dependency_timeouts_total", limit="deadline") == 0


async def test_breaker_states_are_one_series_each_and_transitions_are_counted() -> None:
    store = FakeStore()
    async with fake_rag(store=store) as rag, Metrics(rag) as metrics:
        assert [read(metrics)("breaker_state", dependency="store", state=one) for one in ("closed", "open")] == [1, 0]
        assert 'ragcore_breaker_transitions_total{dependency="store",state="open"} 0.0' in read(metrics).text
        store.faults.always(Fail(OSError("no connection")))
        for _ in range(15):
            with suppress(RagcoreError):
                await rag.ask(QUESTION, tenant="m")
        seen = await sampled(metrics)
    assert {
        state: seen("breaker_state", dependency="store", state=state)
        for state in ("closed", "half_open", "open", "isolated")
    } == {
        "closed": 0,
        "half_open": 0,
        "open": 1,
        "isolated": 0,
    }
    assert seen("breaker_transitions_total", dependency="store", state="open") == 1
    assert seen("breaker_outcomes_total", dependency="store", outcome="failure") == 10
    assert seen("breaker_outcomes_total", dependency="store", outcome="rejected") == 5


async def test_queues_retries_and_their_budget() -> None:
    policy = Policy("queued model", bulkhead=Bulkhead(1, queue=10), retry=RetryPolicy(attempts=2, backoff=0.0))
    generator = FakeGenerator(policy=policy)
    async with fake_rag(generator=generator) as rag, Metrics(rag) as metrics:
        await rag.add([PLAN], tenant="m")
        generator.faults.next(Fail(500))
        await rag.ask(QUESTION, tenant="m")
        generator.faults.always(Slow(0.05))
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(lambda: rag.ask(QUESTION, tenant="m"))
            await anyio.sleep(0.03)
            during = await sampled(metrics)
        after = await sampled(metrics)
    name = "generation fake"
    assert during("places", dependency=name) == 1
    assert during("places_used", dependency=name) == 1
    assert during("queue_waiting", dependency=name) == 2
    assert during("calls_running") == 3
    assert after("queue_waiting", dependency=name) == 0
    assert after("queue_wait_seconds_count", dependency=name) == 2
    assert after("retries_total", dependency=name) == 1
    assert 9 <= after("retry_budget", dependency=name) <= 10


async def test_cache_hits_and_empty_results() -> None:
    async with RAG(
        retriever=Retriever(store=MemoryStore(), embedder=CachedEmbedder(FakeEmbedder())),
        generator=FakeGenerator(),
        settings=Settings(watchdog=False),
    ) as rag:
        async with Metrics(rag) as metrics:
            for _ in range(3):
                assert not (await rag.ask(QUESTION, tenant="m")).found
            seen = await sampled(metrics)
    assert seen("cache_requests_total", cache="embedding", result="hit") == 2
    assert seen("cache_requests_total", cache="embedding", result="miss") == 1
    assert seen("answers_total", found="false") == 3
    assert seen("top_score_count") == 0


async def test_the_best_score_counts_even_if_it_is_below_the_threshold() -> None:
    async with fake_rag() as rag, Metrics(rag) as metrics:
        await rag.add([PLAN], tenant="m")
        assert not (await rag.retrieve(QUESTION, tenant="m", mode="vector", score_threshold=0.99)).passages
        seen = read(metrics)
    assert (seen("top_score_count"), seen("answers_total", found="false")) == (1, 1)


async def test_a_rollout_is_shown_from_its_start_to_its_rollback() -> None:
    candidate = fake_rag(generator=FakeGenerator("It is $9,999 [1]."))
    guard = Guard(found=None, citations=None, least_calls=1_000)
    async with fake_rag(generator=FakeGenerator("It is $1,500 [1].")) as rag, Metrics(rag) as metrics:
        assert [name for name, _ in read(metrics).labels if name.startswith("rollout_calls")] == []
        async with Rollout(rag, candidate, share=1.0, guard=guard, name="release-7") as rollout:
            for one in (rag, candidate):
                await one.add([Document("plan", "Your deductible is $1,500 or $9,999.")], tenant="m")
            begun = read(metrics)
            await rollout.pause()
            await rollout.resume()
            with anyio.fail_after(20):
                while rollout.state.status == "running":
                    await rollout.ask(QUESTION, tenant="m")
    ended = read(metrics)
    assert (begun("rollout_share"), ended("rollout_share")) == (1.0, 0.0)
    assert begun("rollout_status", status="running") == 1
    assert ended("rollout_status", status="running") == 0
    assert ended("rollout_status", status="rolled_back") == 1
    changes = {name: ended("rollout_changes_total", change=name) for name in ROLLOUT_CHANGES}
    assert changes == {"started": 1, "paused": 1, "resumed": 1, "rolled_back": 1, "promoted": 0}
    assert ended("rollout_calls_total", side="candidate", outcome="ok") > 0
    assert ended("rollout_call_duration_seconds_count", side="stable") > 0
    assert ended("rollout_differences_total", difference="figures") == ended("rollout_compared_total") > 0
    assert "release-7" not in metrics.exposition()[1].decode()


async def test_calls_that_fall_back_to_the_stable_side_are_counted() -> None:
    async def broken(question: str, **options: object) -> ragcore.Answer:
        raise StoreError("down", dependency="store")

    async with fake_rag() as rag, Metrics(rag) as metrics, Rollout(rag, broken, share=1.0, shadow=None) as rollout:
        await rag.add([Document("plan", "Your deductible is $1,500.")], tenant="m")
        await rollout.ask(QUESTION, tenant="m")
    assert read(metrics)("rollout_fallbacks_total", outcome="failed") == 1
    assert read(metrics)("rollout_calls_total", side="candidate", outcome="failed") == 1


async def test_limits_of_tenants() -> None:
    async with fake_rag(settings=Settings(watchdog=False, requests_per_minute=1)) as rag, Metrics(rag) as metrics:
        await rag.retrieve(QUESTION, tenant="m")
        with pytest.raises(LimitExceeded):
            await rag.retrieve(QUESTION, tenant="m")
        assert read(metrics)("limits_exceeded_total", limit="requests") == 1


async def test_the_pool_of_a_store_and_waits_for_it() -> None:
    class Pooled(FakeStore):
        def snapshot(self) -> Mapping[str, Any]:
            return {"size": 10, "in_use": 3, "idle": 2, "waiting": 4}

    async with fake_rag(store=Pooled()) as rag, Metrics(rag) as metrics:
        events.emit("bulkhead.admitted", "the pool of connections", waited=0.5, left=None, service_time=0.1)
        seen = await sampled(metrics)
    assert [seen("pool_connections", state=state) for state in ("in_use", "idle")] == [3, 2]
    assert (seen("pool_size"), seen("pool_waiting")) == (10, 4)
    assert seen("queue_wait_seconds_sum", dependency="connections") == 0.5


async def test_hangs_blocks_and_the_process() -> None:
    async with fake_rag() as rag, Metrics(rag) as metrics:
        events.emit("call.hung", "ask", id="1", stage="search", elapsed=3.0, stack="")
        events.emit("loop.blocked", "watchdog", seconds=0.2, stack="")
        assert read(metrics)("event_loop_blocked_now") == 1
        events.emit("loop.unblocked", "watchdog", seconds=1.5)
        events.emit("loop.starved", "watchdog", seconds=2.5)
        events.emit("executor.saturated", "watchdog", threads=1, queued=1, stack="")
        with anyio.fail_after(10):
            while not read(metrics)("event_loop_lag_seconds_count"):
                await anyio.sleep(0.05)
        seen = read(metrics)
    assert seen("hangs_total", stage="search") == 1
    assert (seen("event_loop_blocked_total"), seen("event_loop_blocked_now")) == (1, 0)
    assert (seen("event_loop_blocked_seconds_total"), seen("event_loop_starved_seconds_total")) == (1.5, 2.5)
    assert seen("executor_saturated_total") == 1
    assert seen("resident_memory_bytes") > 10_000_000
    assert seen("cpu_seconds_total") > 0
    assert seen("start_time_seconds") > 1.7e9


async def test_labels_are_bounded_whatever_tenants_questions_and_errors_are() -> None:
    class Odd(FakeStore):
        number = 0

        async def search(self, query: Any, /) -> Sequence[Any]:
            self.number += 1
            raise type(f"Error{self.number}", (Exception,), {})(query.tenant)

    async with fake_rag(store=Odd()) as rag, Metrics(rag) as metrics:
        for number in range(20):
            with suppress(Exception):
                await rag.ask(f"question {number}?", tenant=f"tenant-{number}")
            events.emit("bulkhead.admitted", f"somebody else's {number}", waited=0.1, left=None, service_time=0.1)
            events.emit("limit.exceeded", f"limit {number}")
            if number == 1:
                before = read(metrics).labels
        after = read(metrics).labels
    assert after == before
    assert not [value for _, value in after if re.search(r"tenant|question|Error\d|somebody", value)]


async def test_metrics_survive_a_listener_that_sees_unknown_events_and_end_with_the_block() -> None:
    async with fake_rag() as rag:
        async with Metrics(rag) as metrics:
            events.emit("something.new", "x", anything=1)
        await rag.retrieve(QUESTION, tenant="m")
        assert read(metrics)("calls_total") == 0
        assert not events.listening()


def test_counters_that_begin_again_count_on() -> None:
    series = Series(prometheus_client.CollectorRegistry())
    sampling = Sampling(series)
    for value in (5, 8, 2, 3):  # the third value is that of a new cache
        sampling._advance(series.cache, ("embedding", "hit"), value)
    assert series.cache.labels("embedding", "hit")._value.get() == 8 + 3


async def test_a_scrape_leaves_out_the_beginning_of_each_series() -> None:
    """They are half of all series. Those of the user's own metrics stay, and so does the choice of metrics."""
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Counter("own", "Of the service.", registry=registry).inc()
    async with fake_rag() as rag, Metrics(rag, registry=registry, port=0) as metrics:
        _, text = metrics.exposition()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{metrics.port}") as client:
            chosen = (await client.get("/metrics", params={"name[]": "own_total"})).content
    assert [line.split()[0] for line in text.splitlines() if b"_created" in line and b"#" not in line] == [
        b"own_created"
    ]
    assert b"ragcore_answers_total" in text
    assert b"own_total 1.0" in chosen
    assert b"ragcore" not in chosen


async def test_a_registry_of_the_user_gets_the_metrics() -> None:
    registry = prometheus_client.CollectorRegistry()
    async with fake_rag() as rag, Metrics(rag, registry=registry):
        await rag.retrieve(QUESTION, tenant="m")
        assert registry.get_sample_value("ragcore_calls_total", {"method": "retrieve", "outcome": "ok"}) == 1


@pytest.mark.blocking_allowed
async def test_a_port_of_its_own_answers_while_the_event_loop_is_blocked() -> None:
    async with fake_rag() as rag, Metrics(rag, port=0) as metrics:
        found: list[httpx.Response] = []
        url = f"http://127.0.0.1:{metrics.port}/metrics"
        thread = threading.Thread(target=lambda: found.append(httpx.get(url, timeout=60)))
        thread.start()
        thread.join(60)  # blocks the loop
        assert found[0].headers["content-type"].startswith("text/plain")
        with pytest.raises(ConfigurationError, match="cannot bind 127"):
            async with Metrics(rag, port=metrics.port):
                pass
    with pytest.raises(httpx.ConnectError):
        await anyio.to_thread.run_sync(lambda: httpx.get(url))


async def test_promtool_finds_the_metrics_well_named() -> None:
    promtool = program("promtool")
    async with fake_rag() as rag, Metrics(rag) as metrics:
        await rag.add([PLAN], tenant="m")
        await rag.ask(QUESTION, tenant="m")
        text = (await sampled(metrics)).text
    done = await anyio.run_process([promtool, "check", "metrics"], input=text.encode(), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def authenticate(scope: Mapping[str, Any]) -> asgi.Identity | None:
    token = dict(scope["headers"]).get(b"authorization", b"").decode()
    return asgi.Identity("m", admin=token == "Bearer ops") if token else None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_route_is_for_administrators_and_the_lifespan_starts_the_metrics() -> None:
    rag = fake_rag()
    metrics = Metrics(rag)
    app = asgi.app(rag, authenticate=authenticate, metrics=metrics)
    sent: list[Any] = []
    ended = anyio.Event()
    messages: list[dict[str, Any]] = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]

    async def receive() -> Any:
        if len(messages) == 1:
            await ended.wait()
        return messages.pop()

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def live() -> None:
        await app({"type": "lifespan"}, receive, send)

    async with anyio.create_task_group() as group:
        group.start_soon(live)
        while not sent:
            await anyio.sleep(0.01)
        assert metrics.is_open
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/metrics")).status_code == 401
            assert (await client.get("/metrics", headers={"authorization": "Bearer member"})).status_code == 403
            await client.post("/chat", json={"message": QUESTION}, headers={"authorization": "Bearer member"})
            ops = {"authorization": "Bearer ops"}
            shown = await client.get("/metrics", headers=ops)
            assert shown.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert Read(shown.text)("calls_total", method="ask", outcome="ok") == 1
            opened = await client.get(
                "/metrics", headers={**ops, "accept": "application/openmetrics-text; version=1.0.0"}
            )
            assert opened.headers["content-type"].startswith("application/openmetrics-text")
            assert opened.text.endswith("# EOF\n")
            assert (await client.post("/metrics", headers=ops)).status_code == 405
        ended.set()
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert not metrics.is_open
    assert not rag.is_open


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_without_metrics_there_is_no_route(rag: RAG) -> None:
    transport = httpx.ASGITransport(asgi.app(rag, authenticate=authenticate))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/metrics", headers={"authorization": "Bearer ops"})).status_code == 404


SERVICE = """
import os

from ragcore import Document
from ragcore.contrib import asgi
from ragcore.contrib.prometheus import Metrics
from ragcore.testing import fake_rag


async def authenticate(scope):
    return asgi.Identity("m", admin=True)


rag = fake_rag()
app = asgi.app(rag, authenticate=authenticate, metrics=Metrics(rag))
"""


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_workers_of_gunicorn_show_the_sums_of_all_workers(tmp_path: Path) -> None:
    """Whichever worker answers the scrape. The gauges of a worker that was killed disappear, and its counters stay."""
    pytest.importorskip("gunicorn")
    (tmp_path / "service.py").write_text(SERVICE)
    folder = tmp_path / "metrics"
    folder.mkdir()
    socket = tmp_path / "socket"
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "service:app",
        "--workers=2",
        "--worker-class=uvicorn.workers.UvicornWorker",
    ]
    environment = {
        **os.environ,
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
        "PYTHONPATH": str(Path(ragcore.__file__).parents[1]),
        "PYTHONWARNINGS": "ignore",
    }
    process = subprocess.Popen([*command, f"--bind=unix:{socket}"], cwd=tmp_path, env=environment)
    try:
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        with anyio.fail_after(90):
            async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as client:
                await _until(client, lambda seen: seen("breaker_state", dependency="store", state="closed") == 2)
                for _ in range(20):
                    await client.post("/chat", json={"message": QUESTION}, headers={"connection": "close"})
                seen = await _until(client, lambda seen: seen("calls_total", method="ask", outcome="ok") == 20)
                assert "pid" not in {name for name, _ in seen.labels}
                assert seen("resident_memory_bytes") > 40e6
                workers = [
                    int(line) for line in subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()
                ]
                assert len(workers) == 2
                os.kill(workers[0], 9)
                seen = await _until(client, lambda seen: seen("breaker_state", dependency="store", state="closed") == 2)
                assert seen("calls_total", method="ask", outcome="ok") == 20
    finally:
        process.terminate()
        process.wait(20)


async def _until(client: httpx.AsyncClient, condition: Any) -> Read:
    while True:
        with suppress(httpx.HTTPError):
            seen = Read((await client.get("/metrics", headers={"connection": "close"})).text)
            if condition(seen):
                return seen
        await anyio.sleep(0.2)
