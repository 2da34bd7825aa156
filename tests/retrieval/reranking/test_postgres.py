"""A client whose store is a reranked PostgreSQL: every ability of the store works as without a reranker."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ragcore import RAG, Config, Document, PgVectorStore, Policies, RerankedSearcher, Secret, Settings
from ragcore.cli import doctor
from ragcore.cli.doctor import CheckResults
from ragcore.cli.session import Options
from ragcore.contrib.asgi import public
from ragcore.resilience import Policy
from ragcore.store import migrate
from ragcore.testing import Fail, FakeEmbedder, FakeGenerator, OpenAIServer

pytestmark = pytest.mark.anyio

ASKED = "How long is the warranty of the battery?"
DOCUMENTS = [
    Document(f"d{n}", f"The battery number {n} needs {n} hours to charge.", metadata={"n": n}) for n in range(12)
] + [Document("best", "The warranty of the battery is long: two years.")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def rag(database: tuple[str, str], openai_server: OpenAIServer) -> AsyncIterator[RAG]:
    plain, owner = database
    await migrate(owner, model="fake", dimension=64, role="ragcore")
    config = Config(
        dsn=Secret(plain),
        mode="hybrid",
        reranker="jina",
        rerank_model="fake",
        rerank_base_url=openai_server.base_url,
        rerank_candidates=10,
        settings=Settings(watchdog=False, share_limits=True, requests_per_minute=1_000),
    )
    policies = Policies(reranking=Policy("reranking", retry=False))
    made = RAG.from_config(config, embedder=FakeEmbedder(), generator=FakeGenerator(), policies=policies)
    async with made:
        await made.add(DOCUMENTS, tenant="t")
        yield made


async def test_passages_are_reranked_and_values_are_complete(rag: RAG, openai_server: OpenAIServer) -> None:
    answer = await rag.ask(ASKED, tenant="t", top_k=3)
    first = answer.retrieval.passages[0]
    assert (first.document_id, answer.degraded, len(answer.retrieval.passages)) == ("best", (), 3)
    assert first.rerank_score is not None
    assert json.loads(json.dumps(answer.to_dict()))["retrieval"]["timings"]["rerank"] > 0
    ((path, asked),) = openai_server.requests
    assert (path, asked["query"], len(asked["documents"])) == ("/v1/rerank", ASKED, 10)
    plain = await rag.retrieve(ASKED, tenant="t", rerank=False)
    assert {passage.rerank_score for passage in plain.passages} == {None}
    assert rag.stats().caches["reranking"]["requests"] == 1


async def test_a_tenant_sees_a_general_reason(rag: RAG, openai_server: OpenAIServer) -> None:
    openai_server.faults.always(Fail(401))
    answer = await rag.ask(ASKED, tenant="t")
    assert "401" in answer.degraded[0].reason
    shown = public(answer)["degraded"][0]
    assert (shown["stage"], shown["fallback"]) == ("rerank", "order of the search")
    assert "401" not in shown["reason"]
    assert "order of the search" in shown["reason"]


async def test_the_store_keeps_all_its_abilities(rag: RAG) -> None:
    store = rag.retriever.store
    assert isinstance(store, RerankedSearcher)
    assert isinstance(store.searcher, PgVectorStore)
    assert len(await rag.documents(tenant="t")) == 13
    report = await rag.similarity(ASKED, tenant="t")
    assert (report.chunks, report.exact) == (13, True)
    health = await rag.health()
    assert (health.status, health.details["database"]["pool"]["idle"] > 0) == ("healthy", True)
    assert health.details["rag_service"]["dependencies"]["reranking"]["breaker"] == "closed"
    described = await rag.describe()
    assert described["database"]["schema"] == "ragcore"
    assert described["store"]["reranker"] == "fake"
    empty = await rag.retrieve(ASKED, tenant="other")
    assert empty.empty is not None
    assert (empty.empty.code, empty.empty.store_chunks) == ("no_chunks", 13)
    past = Document("old", "Expired battery.", expires_at=datetime.now(UTC) + timedelta(seconds=60))
    assert (await rag.add([past], tenant="t")).added == 1
    assert await store.expire() == {}
    assert await rag.delete(["old"], tenant="t") == 1
    assert (await rag.delete_tenant(tenant="t")).documents == 13


@pytest.mark.blocking_allowed
async def test_the_doctor_checks_the_reranker(
    rag: RAG, openai_server: OpenAIServer, database: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", database[0])
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    monkeypatch.setenv("OPENAI_BASE_URL", openai_server.base_url)
    monkeypatch.setenv("RAGCORE_EMBEDDING_MODEL", "fake")
    monkeypatch.setenv("RAGCORE_EMBEDDING_DIMENSION", "64")

    async def found(**environment: str) -> doctor.Check:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        checks = {check.name: check async for check in doctor.examine(Options(), CheckResults())}
        assert checks["database"].status == "ok"
        return checks["reranker"]

    assert (await found()).message.startswith("none")
    working = await found(
        RAGCORE_RERANKER="vllm", RAGCORE_RERANK_MODEL="m", RAGCORE_RERANK_BASE_URL=openai_server.base_url
    )
    assert (working.status, "m: " in working.message, "50 candidates" in working.message) == ("ok", True, True)
    wrong = await found(RAGCORE_RERANKER="voyage", RAGCORE_RERANK_API_KEY="canary")
    assert wrong.status == "error"
    assert "is `api` the server's API?" in wrong.message
    monkeypatch.setenv("RAGCORE_RERANKER", "local")
    monkeypatch.setenv("RAGCORE_RERANK_MODEL", str(tmp_path))
    *_, last = [check async for check in doctor.examine(Options(), CheckResults())]
    assert (last.name, last.status, "has no onnx/model.onnx" in last.message) == ("reranker", "error", True)
