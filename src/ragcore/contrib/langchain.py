"""Uses a client as LangChain's vector store and retriever. Needs the extra `langchain`.

Both classes take a view of one tenant. With a view of `ragcore.RAG`, use LangChain's async methods, on the event loop of the client. With a view of
`ragcore.blocking.RAG`, all methods work, and the async ones run in a thread.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field

import ragcore
from ragcore import blocking
from ragcore.filters import Filter, meta
from ragcore.types import Passage, Retrieval

__all__ = ["RagcoreRetriever", "RagcoreVectorStore"]


class RagcoreVectorStore(VectorStore):
    """A tenant's documents as a vector store of LangChain.

    Each document of LangChain is one chunk, so its text comes back as it was given. The client's embedder embeds; LangChain's embeddings are not used.
    Searches use the retriever's mode, "hybrid" by default; those by vector use mode "vector".

    Args:
        view: one tenant of a client.

    Examples:
        ```python
        store = RagcoreVectorStore(rag.for_tenant("acme"))
        await store.aadd_texts(["Your deductible is $1,500."], ids=["plan"])
        documents = await store.asimilarity_search("What is my deductible?", k=1)
        ```

    The keyword `filter` of each search takes a `ragcore.Filter`, or a mapping of metadata whose values must be equal. The other keywords are the options of
    `retrieve`. `score_threshold` is a cosine similarity.
    """

    def __init__(self, view: ragcore.TenantView | blocking.TenantView, /) -> None:
        self._view = view

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> RagcoreVectorStore:
        """Not supported: the client has its own embedder. Make the store with a view, then call `add_texts`."""
        raise ragcore.Unsupported(
            "from_texts takes LangChain's embeddings, and a ragcore client has its own: use RagcoreVectorStore(view).add_texts(…)"
        )

    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Add documents, or replace those with the same ids. Returns the ids.

        Args:
            documents: documents of LangChain. One without an id gets a random one.
            kwargs: `ids`, which replace the documents' own.

        Raises:
            InvalidInput: a document can't be stored, such as one without text. The others are stored.
        """
        given = _documents(documents, kwargs.pop("ids", None))
        _done(_blocking(self._view).add(given, split=False))
        return [document.id for document in given]

    async def aadd_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """See `add_documents`."""
        if isinstance(self._view, blocking.TenantView):
            return await run_in_executor(None, self.add_documents, documents, **kwargs)
        given = _documents(documents, kwargs.pop("ids", None))
        _done(await self._view.add(given, split=False))
        return [document.id for document in given]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents. Unknown ids are ignored. None: all documents of the tenant, as LangChain's interface says."""
        view = _blocking(self._view)
        view.delete(list(view.documents()) if ids is None else ids)
        return True

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """See `delete`."""
        view = self._view
        if isinstance(view, blocking.TenantView):
            return await run_in_executor(None, self.delete, ids, **kwargs)
        await view.delete(list(await view.documents()) if ids is None else ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids. Unknown ids are left out. A document that was cut into chunks comes back as several documents."""
        view = _blocking(self._view)
        return [_document(passage) for document_id in dict.fromkeys(ids) for passage in view.chunks(document_id)]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """See `get_by_ids`."""
        view = self._view
        if isinstance(view, blocking.TenantView):
            return await run_in_executor(None, self.get_by_ids, ids)
        return [_document(passage) for document_id in dict.fromkeys(ids) for passage in await view.chunks(document_id)]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the best documents for a question."""
        return _documents_of(_blocking(self._view).retrieve(query, **_options(k, kwargs)))

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """See `similarity_search`."""
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """Return the best documents with their cosine similarities. Documents that only text search found come last and have the similarity 0."""
        return _scored(_blocking(self._view).retrieve(query, **_options(k, kwargs)))

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """See `similarity_search_with_score`."""
        if isinstance(self._view, blocking.TenantView):
            return await run_in_executor(None, self.similarity_search_with_score, query, k, **kwargs)
        return _scored(await self._view.retrieve(query, **_options(k, kwargs)))

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the documents nearest to a vector of the client's embedding model."""
        return _documents_of(_blocking(self._view).retrieve_by_vector(embedding, **_options(k, kwargs)))

    async def asimilarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """See `similarity_search_by_vector`."""
        if isinstance(self._view, blocking.TenantView):
            return await run_in_executor(None, self.similarity_search_by_vector, embedding, k, **kwargs)
        return _documents_of(await self._view.retrieve_by_vector(embedding, **_options(k, kwargs)))

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return documents that are good and differ from each other.

        Args:
            query: the question.
            k: largest number of documents.
            fetch_k: ignored: the retriever chooses from 4 × `k` candidates, and from at least 20.
            lambda_mult: 1 - `diversity`: from 0, as different as possible, to 1, the best.
            kwargs: as in the other searches.
        """
        return self.similarity_search(query, k, **{**kwargs, "diversity": 1.0 - lambda_mult})

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """See `max_marginal_relevance_search`."""
        return await self.asimilarity_search(query, k, **{**kwargs, "diversity": 1.0 - lambda_mult})

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Like `max_marginal_relevance_search`, for a vector of the client's embedding model."""
        return self.similarity_search_by_vector(embedding, k, **{**kwargs, "diversity": 1.0 - lambda_mult})

    async def amax_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """See `max_marginal_relevance_search_by_vector`."""
        return await self.asimilarity_search_by_vector(embedding, k, **{**kwargs, "diversity": 1.0 - lambda_mult})

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """Return the function from a similarity to LangChain's relevance in [0, 1]. Texts with opposite vectors count as unrelated."""
        return lambda similarity: min(1.0, max(0.0, similarity))


class RagcoreRetriever(BaseRetriever):
    """A tenant's documents as a retriever of LangChain.

    The metadata of each document has the passage's metadata, and `score`, `document_id`, `title` and `source` of the passage.

    Attributes:
        view: one tenant of a client.
        k: largest number of documents; None: the retriever's `top_k`. `invoke(question, k=3)` replaces it for one call.
        options: further options of `retrieve`, such as `filter`, `score_threshold`, `diversity` and `timeout`.

    Examples:
        ```python
        retriever = RagcoreRetriever(view=rag.for_tenant("acme"), k=5)
        documents = await retriever.ainvoke("What is my deductible?")
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    view: ragcore.TenantView | blocking.TenantView
    k: int | None = None
    options: Mapping[str, Any] = Field(default_factory=dict)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        options = {**self.options, **kwargs}
        return _with_facts(_blocking(self.view).retrieve(query, **_options(options.pop("k", self.k), options)))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        options = {**self.options, **kwargs}
        options = _options(options.pop("k", self.k), options)
        view = self.view
        if isinstance(view, blocking.TenantView):
            return _with_facts(await run_in_executor(None, lambda: view.retrieve(query, **options)))
        return _with_facts(await view.retrieve(query, **options))


def _blocking(view: ragcore.TenantView | blocking.TenantView) -> blocking.TenantView:
    """Return the view for a call without `await`.

    Raises:
        Unsupported: it is a view of the async client.
    """
    if isinstance(view, blocking.TenantView):
        return view
    raise ragcore.Unsupported(
        "this view is of ragcore.RAG, which has no methods without await: use LangChain's async methods (ainvoke, asimilarity_search), "
        "or a view of ragcore.blocking.RAG"
    )


def _options(k: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `retrieve` for those of LangChain."""
    condition = options.get("filter")
    if isinstance(condition, Mapping):
        condition = _equal(condition)
    return {**options, "filter": condition, "top_k": options.get("top_k") if k is None else k}


def _equal(condition: Mapping[str, Any]) -> Filter | None:
    """Return the filter for a mapping of metadata; None for an empty one."""
    found: Filter | None = None
    for key, value in condition.items():
        if key.startswith("$") or not isinstance(value, str | int | float | bool):
            raise ragcore.InvalidInput(
                f"the filter has {key!r}: {type(value).__name__}; a mapping may only have metadata with equal values: build others with ragcore.meta(…)"
            )
        one = meta(key).eq(value)
        found = one if found is None else found & one
    return found


def _documents(documents: Iterable[Document], ids: Sequence[str | None] | None) -> list[ragcore.Document]:
    given = list(documents)
    names = [document.id for document in given] if ids is None else list(ids)
    if len(names) != len(given):
        raise ragcore.InvalidInput(
            f"there are {len(names)} ids for {len(given)} documents: pass one id for each document"
        )
    return [
        ragcore.Document(name or str(uuid.uuid4()), document.page_content, metadata=document.metadata)
        for name, document in zip(names, given, strict=True)
    ]


def _done(report: ragcore.IngestReport) -> None:
    if report.failed:
        first, count = report.failed[0], len(report.failed)
        raise ragcore.InvalidInput(
            f"{count} of the documents could not be stored; the first is {first.id!r}: {first.reason}"
        )


def _document(passage: Passage) -> Document:
    return Document(page_content=passage.text, metadata=dict(passage.metadata), id=passage.document_id)


def _documents_of(found: Retrieval) -> list[Document]:
    return [_document(passage) for passage in found.passages]


def _scored(found: Retrieval) -> list[tuple[Document, float]]:
    return [(_document(passage), passage.score or 0.0) for passage in found.passages]


def _with_facts(found: Retrieval) -> list[Document]:
    return [
        Document(
            page_content=passage.text,
            id=passage.chunk_id,
            metadata={
                **passage.metadata,
                "score": passage.score,
                "document_id": passage.document_id,
                "title": passage.title,
                "source": passage.source,
            },
        )
        for passage in found.passages
    ]
