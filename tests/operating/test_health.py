"""Health and describe: their results, their time limits, and that they show no secrets."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import pickle
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

import ragcore
from ragcore import RAG, Document, Passage, Query, Retriever, Settings, StoreError
from ragcore.operating.health import HealthCheck
from ragcore.operating.memory import Memory, read_memory
from ragcore.testing import Fail, FakeEmbedder, FakeGenerator, FakeStore, Hang, VirtualLoop, fake_rag

pytestmark = pytest.mark.anyio
CANARY = "sup3r-s3cret-canary"


async def fresh(rag: RAG) -> ragcore.types.Health:
    rag._health._last = None
    return await rag.health()


async def test_health_shows_the_state_of_each_dependency(rag: RAG) -> None:
    await rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
    await rag.ask("deductible?", tenant="m")
    details = (await rag.health()).to_dict()["details"]
    database = details["database"]
    assert (database["breaker"], database["running"], database["waiting"]) == ("closed", 0, 0)
    assert database["seconds"] >= 0
    dependencies = details["rag_service"]["dependencies"]
    assert set(dependencies) == {"embedding", "generation fake"}
    assert dependencies["embedding"]["breaker"] == "closed"
    assert details["rag_service"]["last_failure"] is None
    json.dumps(details)


async def test_describe_shows_versions_settings_and_components(rag: RAG) -> None:
    described = await rag.describe()
    assert described["versions"]["ragcore"] == importlib.metadata.version("ragcore-client")
    assert described["extras"]["testing"] is True
    assert described["settings"]["timeout"] == 30.0
    assert described["embedder"] == {"model": "fake", "dimension": 64}
    assert described["store"]["type"] == "FakeStore"


def test_describe_knows_every_extra() -> None:
    import tomllib

    from ragcore.compat.extras import EXTRAS

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"]) - {"all"}


async def test_the_last_failure_is_named_without_its_text(rag: RAG, fake_store: FakeStore) -> None:
    fake_store.faults.next(Fail(ragcore.StoreError(f"postgresql://u:{CANARY}@host")))
    with pytest.raises(ragcore.StoreError):
        await rag.retrieve("deductible?", tenant="m")
    failure = (await fresh(rag)).details["rag_service"]["last_failure"]
    assert (failure["outcome"], failure["stage"], failure["method"]) == ("StoreError", "search", "retrieve")
    assert CANARY not in json.dumps((await fresh(rag)).to_dict())


async def test_the_last_degraded_call_is_named_with_its_stages(rag: RAG, fake_generator: FakeGenerator) -> None:
    assert (await fresh(rag)).details["rag_service"]["last_degraded"] is None
    await rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
    fake_generator.faults.next(Fail(503))
    answer = await rag.ask("deductible?", tenant="m")
    await rag.ask("deductible?", tenant="m")
    last = (await fresh(rag)).details["rag_service"]["last_degraded"]
    assert last == {"id": answer.call_id, "method": "ask", "outcome": "degraded", "stages": ["generate"]}
    assert [call.degraded for call in rag.recent()[-2:]] == [("generate",), ()]


async def test_an_open_breaker_degrades_health_and_its_dependency_is_named(rag: RAG) -> None:
    breaker = rag.retriever.embedder.policy.breaker()  # type: ignore[union-attr]
    breaker.isolate()
    health = await fresh(rag)
    assert health.services["rag_service"] == "degraded"
    assert "embedding" in health.details["rag_service"]["reason"]
    assert health.ready


async def test_an_overloaded_database_is_degraded_and_not_unhealthy(rag: RAG, fake_store: FakeStore) -> None:
    fake_store.faults.always(Fail(ragcore.Overloaded("no room", dependency="database")))
    health = await fresh(rag)
    assert (health.services["database"], health.ready) == ("degraded", True)


async def test_health_is_in_time_and_cached_when_nothing_responds() -> None:
    embedder, store, generator = FakeEmbedder(), FakeStore(), FakeGenerator()
    rag = RAG(
        retriever=ragcore.Retriever(embedder=embedder, store=store),
        generator=generator,
        settings=Settings(health_timeout=0.1, watchdog=False),
    )
    async with rag:
        for part in (embedder, store, generator):
            part.faults.always(Hang())
        with anyio.fail_after(1.0):
            health = await rag.health()
            assert (health.status, health.ready) == ("unhealthy", False)
            # The timeouts of the check and of the store end within microseconds of each other, so either may come first.
            assert re.search("no answer within 0.1 s|the deadline passed", health.details["database"]["reason"])
            assert await rag.health() is health
            assert await rag.describe()


def test_several_checks_at_once_take_the_time_of_one_although_nothing_responds() -> None:
    async def check() -> list[float]:
        store, took = FakeStore(), []
        rag = RAG(
            retriever=Retriever(embedder=FakeEmbedder(), store=store),
            generator=FakeGenerator(),
            settings=Settings(health_timeout=2.0, watchdog=False),
        )

        async def one() -> None:
            began = anyio.current_time()
            await rag.health()
            took.append(anyio.current_time() - began)

        async with rag:
            store.faults.always(Hang())
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(one)
        return took

    assert max(anyio.run(check, backend_options={"loop_factory": VirtualLoop})) < 2.5


async def test_a_client_that_is_not_open_is_unhealthy() -> None:
    health = await fake_rag().health()
    assert (health.status, health.ready) == ("unhealthy", False)


@pytest.mark.parametrize(("used", "status"), [(0.5, "healthy"), (0.85, "degraded"), (0.99, "unhealthy")])
async def test_memory_is_judged_by_its_share_of_the_limit(
    used: float, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(resident=int(1e9 * used), used=int(1e9 * used), limit=int(1e9), source="cgroup")
    monkeypatch.setattr("ragcore.operating.health.read_memory", lambda limit: memory)
    found, details = await HealthCheck()._memory(None)
    assert found == status
    assert details["share"] == pytest.approx(used, abs=0.001)
    assert ("reason" in details) == (status != "healthy")


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        "ragcore.operating.memory.CGROUPS", ((tmp_path / "memory.max", tmp_path / "memory.current", "inactive_file"),)
    )
    return tmp_path


def test_a_container_uses_the_limit_and_use_of_its_cgroup(cgroup: Path) -> None:
    (cgroup / "memory.max").write_text(f"{2**30}\n")
    (cgroup / "memory.current").write_text(f"{2**29}\n")
    (cgroup / "memory.stat").write_text(f"anon 5\ninactive_file {2**28}\n")
    memory = read_memory()
    assert (memory.limit, memory.source) == (2**30, "cgroup")
    assert memory.used == max(2**29 - 2**28, memory.resident)


@pytest.mark.parametrize("text", ["max\n", f"{2**63 - 4096}\n", None])
def test_without_a_limit_there_is_no_share(cgroup: Path, text: str | None) -> None:
    if text is not None:
        (cgroup / "memory.max").write_text(text)
    memory = read_memory()
    assert (memory.limit, memory.share, memory.source) == (None, None, "none")
    assert memory.used == memory.resident > 0


def test_a_configured_limit_replaces_that_of_the_cgroup(cgroup: Path) -> None:
    (cgroup / "memory.max").write_text(f"{2**30}\n")
    memory = read_memory(100.0)
    assert (memory.limit, memory.source) == (100 * 2**20, "settings")
    config = ragcore.Config.from_env(
        {"DATABASE_URL": "postgresql://a@b/c", "OPENAI_API_KEY": "k", "RAGCORE_MEMORY_MB": "512"}
    )
    assert config.settings.memory_mb == 512.0
    with pytest.raises(ragcore.ConfigurationError, match="memory_mb"):
        Settings(memory_mb=-1)


async def test_a_secret_appears_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """No key, password or DSN appears in repr, logs, tracebacks, health, describe, pickles or reports."""
    caplog.set_level(logging.DEBUG)
    dsn = f"postgresql://user:{CANARY}@127.0.0.1:9/db"
    config = ragcore.Config.from_env(
        {
            "DATABASE_URL": dsn,
            "OPENAI_API_KEY": CANARY,
            "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
            "RAGCORE_EMBEDDING_MODEL": "fake",
            "RAGCORE_EMBEDDING_DIMENSION": "8",
            "RAGCORE_HEALTH_TIMEOUT": "0.5",
        }
    )
    shown: list[Any] = [repr(config), str(config), f"{config}"]
    rag = RAG.from_config(config)
    async with rag:
        shown += [repr(rag), repr(rag.retriever), repr(rag.retriever.store), repr(rag.retriever.embedder)]
        for call in (rag.ask, rag.retrieve, rag.similarity):
            try:
                await call("What is my deductible?", tenant="m", timeout=0.5)
            except ragcore.RagcoreError as error:
                shown += [str(error), repr(error), "".join(traceback.format_exception(error))]
                shown.append(pickle.dumps(error).decode("latin-1"))
        shown += [json.dumps((await rag.health()).to_dict()), json.dumps(await rag.describe(), default=str)]
        shown += [json.dumps(rag.stats().to_dict()), repr(rag.recent()), repr(rag.inflight())]
    shown.append(caplog.text)
    assert len(shown) > 12
    for text in shown:
        assert CANARY not in text, text


test_a_secret_appears_nowhere = pytest.mark.blocking_allowed(
    pytest.mark.parametrize("anyio_backend", ["asyncio"])(test_a_secret_appears_nowhere)
)


async def test_a_store_without_ping_is_judged_by_its_last_searches() -> None:
    class Plain:
        broken = False

        async def search(self, query: Query, /) -> Sequence[Passage]:
            if self.broken:
                raise ConnectionError("gone")
            return []

    store = Plain()
    rag = RAG(
        retriever=Retriever(embedder=FakeEmbedder(), store=store),
        generator=FakeGenerator(),
        settings=Settings(watchdog=False),
    )

    async def database() -> str:
        rag._health._last = None
        return (await rag.health()).services["database"]

    async with rag:
        assert await database() == "healthy"
        store.broken = True
        for status in ("unhealthy", "unhealthy"):
            with pytest.raises(StoreError):
                await rag.retrieve("question", tenant="a")
            assert await database() == status
        assert not (await rag.health()).ready
        store.broken = False
        await rag.retrieve("question", tenant="a")
        assert await database() == "healthy"
        store.broken = True
        with pytest.raises(StoreError):
            await rag.retrieve("question", tenant="a")
        assert await database() == "degraded"
