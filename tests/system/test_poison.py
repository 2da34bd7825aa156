"""One tenant's text makes a server fail, over real sockets. Other tenants still get complete answers."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from ragcore import RAG, Document, OpenAIEmbedder, OpenAIGenerator, RagcoreError, Retriever
from ragcore.testing import FakeStore, OpenAIServer

pytestmark = [pytest.mark.anyio, pytest.mark.system]


class Poisoned(OpenAIServer):
    """A server that answers with status 500 to each request that contains the word POISON, from the moment at which this is enabled."""

    poisoned = False

    async def _answer(self, connection: Any, path: str, headers: dict[str, str], body: bytes) -> None:
        if self.poisoned and b"POISON" in body:
            await connection.send_json(500, {"error": {"message": "internal", "type": "server_error", "code": None}})
        else:
            await super()._answer(connection, path, headers, body)


@pytest.mark.parametrize("part", ["embedder", "model"])
@pytest.mark.parametrize("together", [False, True])
async def test_one_tenants_failures_degrade_no_other_tenant(part: str, together: bool) -> None:
    async with Poisoned() as embedding, Poisoned() as model:
        embedder = OpenAIEmbedder("fake", dimension=64, base_url=embedding.base_url, api_key="none")
        generator = OpenAIGenerator("fake", base_url=model.base_url, api_key="none")
        async with RAG(retriever=Retriever(store=FakeStore(), embedder=embedder), generator=generator) as rag:
            for tenant in ("alice", "carol", "bob"):
                text = "Your deductible is $1,500." + (" POISON or not." if tenant == "bob" else "")
                await rag.add([Document("plan", text)], tenant=tenant)
            server = embedding if part == "embedder" else model
            server.poisoned = True
            asked: list[tuple[str, bool]] = []
            reasons: list[str] = []

            async def ask(tenant: str) -> None:
                question = "What is my deductible? POISON?" if tenant == "bob" else "What is my deductible?"
                try:
                    answer = await rag.ask(question, tenant=tenant)
                except RagcoreError:
                    return
                reasons.extend(part.reason for part in answer.degraded if tenant != "bob")
                asked.append((tenant, bool(answer.degraded)))

            for _ in range(20):
                if together:
                    async with anyio.create_task_group() as group:
                        for tenant in ("bob", "alice", "carol", "bob"):
                            group.start_soon(ask, tenant)
                else:
                    for tenant in ("bob", "alice", "carol"):
                        await ask(tenant)
            others = [degraded for tenant, degraded in asked if tenant != "bob"]
            assert len(others) == 40
            assert not any(others), (reasons, sum(others))
            assert all(degraded for tenant, degraded in asked if tenant == "bob")
