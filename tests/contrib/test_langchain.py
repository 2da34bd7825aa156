"""The vector store and the retriever for LangChain. `tests/system/test_integrations.py` runs LangChain's own tests as well."""

from __future__ import annotations

import pytest

import ragcore
from ragcore import InvalidInput, Retriever, blocking, meta
from ragcore.testing import FakeEmbedder, FakeGenerator, FakeStore, fake_rag
from ragcore.testing.fakes import embed_words

pytest.importorskip("langchain_core", reason="langchain-core is not installed: pip install --group frameworks")

from langchain_core.documents import Document

from ragcore.contrib.langchain import RagcoreRetriever, RagcoreVectorStore

ODD = " \n Your deductible\r\n is $1,500.\t\u00a0\n\n "
QUESTION = "What is my deductible?"
ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.mark.anyio
@ASYNCIO
async def test_texts_come_back_as_they_were_given_and_only_to_their_tenant() -> None:
    async with fake_rag() as rag:
        store, other = RagcoreVectorStore(rag.for_tenant("m")), RagcoreVectorStore(rag.for_tenant("n"))
        given = Document(ODD, id="odd", metadata={"year": 2024})
        assert await store.aadd_documents([given]) == ["odd"]
        await other.aadd_texts(["a secret about the deductible"], ids=["odd"])
        assert await store.aget_by_ids(["odd", "missing", "odd"]) == [given]
        assert await store.asimilarity_search(QUESTION) == [given]
        assert await store.asimilarity_search_by_vector(embed_words(QUESTION, 64).tolist()) == [given]
        assert await store.adelete()
        assert await store.asimilarity_search(QUESTION) == []
        assert len(await other.aget_by_ids(["odd"])) == 1


@pytest.mark.anyio
@ASYNCIO
async def test_of_equal_ids_the_last_wins_and_a_text_that_cannot_be_stored_is_an_error() -> None:
    async with fake_rag() as rag:
        store = RagcoreVectorStore(rag.for_tenant("m"))
        assert await store.aadd_texts(["first", "last"], ids=["a", "a"]) == ["a", "a"]
        assert [document.page_content for document in await store.aget_by_ids(["a"])] == ["last"]
        with pytest.raises(InvalidInput, match="'blank': it has no text"):
            await store.aadd_texts(["text", "  "], ids=["b", "blank"])
        with pytest.raises(InvalidInput, match="NUL"):
            await store.aadd_texts(["a\0b"])
        with pytest.raises(InvalidInput, match="1 ids for 2 documents"):
            await store.aadd_documents([Document("a"), Document("b")], ids=["a"])


@pytest.mark.anyio
@ASYNCIO
async def test_filters_scores_and_maximal_marginal_relevance() -> None:
    async with fake_rag() as rag:
        store = RagcoreVectorStore(rag.for_tenant("m"))
        texts = ["the deductible is high", "the deductible is high indeed", "welcome, dear member"]
        await store.aadd_texts(texts, [{"n": 1, "s": "x"}, {"n": 2, "s": "x"}, {"n": 3, "s": "y"}], ids=["1", "2", "3"])
        question, k = "the deductible is high", 2

        def ids(documents: list[Document]) -> list[str | None]:
            return [document.id for document in documents]

        assert ids(await store.asimilarity_search(question, k)) == ["1", "2"]
        assert ids(await store.amax_marginal_relevance_search(question, k, lambda_mult=0.1)) == ["1", "3"]
        assert ids(await store.amax_marginal_relevance_search(question, k, lambda_mult=1.0)) == ["1", "2"]
        vector = embed_words(question, 64).tolist()
        assert ids(await store.amax_marginal_relevance_search_by_vector(vector, k, lambda_mult=0.1)) == ["1", "3"]
        assert ids(await store.asimilarity_search(question, filter={"n": 2, "s": "x"})) == ["2"]
        assert ids(await store.asimilarity_search(question, filter=meta("n").ge(2) & meta("s").eq("x"))) == ["2"]
        with pytest.raises(InvalidInput, match=r"ragcore\.meta"):
            await store.asimilarity_search(question, filter={"n": {"$gt": 1}})
        ((first, score),) = await store.asimilarity_search_with_relevance_scores(question, 3, score_threshold=0.99)
        assert first.id == "1"
        assert score == pytest.approx(1.0)
        mmr = store.as_retriever(search_type="mmr", search_kwargs={"k": 2, "lambda_mult": 0.1})
        assert ids(await mmr.ainvoke(question)) == ["1", "3"]


@pytest.mark.anyio
@ASYNCIO
async def test_the_retriever_adds_the_facts_of_a_passage() -> None:
    async with fake_rag() as rag:
        plan = ragcore.Document(
            "plan", "Your deductible is $1,500.", title="Plan", source="plan.md", metadata={"year": 1}
        )
        await rag.add([plan], tenant="m")
        retriever = RagcoreRetriever(view=rag.for_tenant("m"), options={"filter": {"year": 1}})
        (found,) = await retriever.ainvoke(QUESTION)
        assert found.id == "plan#0"
        assert found.metadata.pop("score") > 0
        assert found.metadata == {"year": 1, "document_id": "plan", "title": "Plan", "source": "plan.md"}
        with pytest.raises(ragcore.Unsupported, match="ainvoke"):
            retriever.invoke(QUESTION)


@pytest.mark.anyio
@ASYNCIO
async def test_top_k_may_be_among_the_options() -> None:
    async with fake_rag() as rag:
        await rag.add([ragcore.Document(f"d{n}", f"Your deductible is ${n}00.") for n in range(3)], tenant="m")
        retriever = RagcoreRetriever(view=rag.for_tenant("m"), options={"top_k": 2})
        assert len(await retriever.ainvoke(QUESTION)) == 2
        assert len(await retriever.ainvoke(QUESTION, k=1)) == 1


def test_the_blocking_client_has_all_methods() -> None:
    retriever = Retriever(embedder=FakeEmbedder(), store=FakeStore())
    with blocking.RAG(retriever=retriever, generator=FakeGenerator()) as rag:
        store = RagcoreVectorStore(rag.for_tenant("m"))
        store.add_documents([Document(ODD, id="odd")])
        vector = embed_words(QUESTION, 64).tolist()
        for found in (
            store.get_by_ids(["odd"]),
            store.similarity_search(QUESTION),
            store.similarity_search_by_vector(vector),
            store.max_marginal_relevance_search(QUESTION),
            store.max_marginal_relevance_search_by_vector(vector),
            RagcoreRetriever(view=rag.for_tenant("m")).invoke(QUESTION, k=1),
        ):
            assert [document.page_content for document in found] == [ODD]
        assert store.delete(["odd", "missing"])
        assert store.get_by_ids(["odd"]) == []
    with pytest.raises(ragcore.Unsupported, match="its own"):
        RagcoreVectorStore.from_texts(["a"], None)  # type: ignore[arg-type]
