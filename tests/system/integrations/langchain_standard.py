"""LangChain's own tests for vector stores and retrievers. `test_integrations.py` runs this file in an environment with langchain-tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests

import ragcore
from ragcore import blocking
from ragcore.contrib.langchain import RagcoreRetriever, RagcoreVectorStore
from ragcore.testing import FakeEmbedder, FakeGenerator, FakeStore


def parts() -> dict[str, Any]:
    return {
        "retriever": ragcore.Retriever(embedder=FakeEmbedder(), store=FakeStore()),
        "generator": FakeGenerator(),
        "settings": ragcore.Settings(watchdog=False),
    }


class TestBlockingVectorStore(VectorStoreIntegrationTests):
    """All tests, over the blocking client. The async methods run in a thread."""

    @pytest.fixture
    def vectorstore(self) -> Iterator[VectorStore]:
        with blocking.RAG(**parts()) as rag:
            yield RagcoreVectorStore(rag.for_tenant("acme"))


class TestAsyncVectorStore(VectorStoreIntegrationTests):
    """The async tests, over the async client on the test's event loop."""

    @property
    def has_sync(self) -> bool:
        return False

    @pytest_asyncio.fixture
    async def vectorstore(self) -> AsyncIterator[VectorStore]:
        async with ragcore.RAG(**parts()) as rag:
            yield RagcoreVectorStore(rag.for_tenant("acme"))


@pytest.fixture(scope="module")
def view() -> Iterator[blocking.TenantView]:
    with blocking.RAG(**parts()) as rag:
        rag.add([ragcore.Document(str(n), f"deductible {n}") for n in range(5)], tenant="acme")
        yield rag.for_tenant("acme")


class TestRetriever(RetrieversIntegrationTests):
    """All tests, over the blocking client. The async one runs in a thread."""

    @pytest.fixture(autouse=True)
    def _view(self, view: blocking.TenantView) -> None:
        self.view = view

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return RagcoreRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"view": self.view}

    @property
    def retriever_query_example(self) -> str:
        return "deductible"


async def test_the_async_client_passes_the_async_test_of_retrievers() -> None:
    async with ragcore.RAG(**parts()) as rag:
        await rag.add([ragcore.Document("d", "deductible")], tenant="acme")
        retriever = RagcoreRetriever(view=rag.for_tenant("acme"))
        await TestRetriever().test_ainvoke_returns_documents(retriever)
