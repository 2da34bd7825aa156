"""The retriever for LlamaIndex, over both clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import ragcore
from ragcore import Document, Retriever, blocking
from ragcore.testing import FakeEmbedder, FakeGenerator, FakeStore, fake_rag

pytest.importorskip("llama_index.core", reason="llama-index-core is not installed: pip install --group frameworks")

from llama_index.core.schema import MetadataMode

from ragcore.contrib.llama_index import RagcoreRetriever

PLAN = Document("plan", "Your deductible is $1,500.\r\n", title="Plan", source="plan.md", metadata={"year": 2024})
QUESTION = "What is my deductible?"


@pytest.fixture
def client() -> Iterator[blocking.RAG]:
    retriever = Retriever(embedder=FakeEmbedder(), store=FakeStore())
    with blocking.RAG(retriever=retriever, generator=FakeGenerator()) as rag:
        rag.add([PLAN], tenant="m")
        yield rag


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_passages_are_nodes_of_their_documents() -> None:
    async with fake_rag() as rag:
        await rag.add([PLAN, Document("letter", "Dear member")], tenant="m")
        await rag.add([Document("secret", "Your deductible is secret.")], tenant="n")
        retriever = RagcoreRetriever(rag.for_tenant("m"), top_k=1)
        (found,) = await retriever.aretrieve(QUESTION)
        (passage,) = (await rag.retrieve(QUESTION, tenant="m", top_k=1)).passages
        assert (found.node.node_id, found.score) == ("plan#0", passage.score)
        assert found.node.get_content(MetadataMode.NONE) == "Your deductible is $1,500."
        assert found.node.metadata == {"title": "Plan", "source": "plan.md", "year": 2024}
        assert found.node.source_node is not None
        assert found.node.source_node.node_id == "plan"
        with pytest.raises(ragcore.Unsupported, match="aretrieve"):
            retriever.retrieve(QUESTION)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_with_the_blocking_client_the_async_methods_run_in_a_thread(client: blocking.RAG) -> None:
    assert [node.node_id for node in await RagcoreRetriever(client.for_tenant("m")).aretrieve(QUESTION)] == ["plan#0"]


def test_top_k_may_be_among_the_options(client: blocking.RAG) -> None:
    for number in range(3):
        client.add([ragcore.Document(f"d{number}", f"Your deductible is ${number}00.")], tenant="many")
    view = client.for_tenant("many")
    assert len(RagcoreRetriever(view, options={"top_k": 2}).retrieve(QUESTION)) == 2
    assert len(RagcoreRetriever(view, options={"top_k": 2}, top_k=1).retrieve(QUESTION)) == 1


def test_with_the_blocking_client_no_await_is_needed(client: blocking.RAG) -> None:
    for condition, expected in ((ragcore.meta("year").ge(2024), ["plan#0"]), (ragcore.meta("year").lt(2024), [])):
        retriever = RagcoreRetriever(client.for_tenant("m"), options={"filter": condition})
        assert [node.node_id for node in retriever.retrieve(QUESTION)] == expected
