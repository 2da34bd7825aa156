"""The client with its tenant bound."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Unpack

from ragcore.client.options import AskOptions, RetrieveOptions, TimedSimilarityOptions
from ragcore.client.stream import AnswerStream
from ragcore.retrieval.options import spelled_out
from ragcore.types import Answer, Document, Erased, IngestReport, Retrieval, SimilarityReport, Unreadable

if TYPE_CHECKING:
    from ragcore.client.rag import RAG

__all__ = ["TenantView"]


class TenantView:
    """`RAG`'s methods with the tenant bound. Made by `RAG.for_tenant`."""

    __slots__ = ("_rag", "_tenant")

    def __init__(self, rag: RAG, tenant: str) -> None:
        self._rag = rag
        self._tenant = tenant

    def __repr__(self) -> str:
        return f"TenantView(tenant={self._tenant!r})"

    @property
    def tenant(self) -> str:
        """Whose documents."""
        return self._tenant

    @spelled_out(AskOptions)
    async def ask(
        self,
        question: str,
        /,
        **options: Unpack[AskOptions],
    ) -> Answer:
        """As `RAG.ask`."""
        return await self._rag.ask(
            question,
            tenant=self._tenant,
            **options,
        )

    @spelled_out(AskOptions)
    def stream(
        self,
        question: str,
        /,
        **options: Unpack[AskOptions],
    ) -> AbstractAsyncContextManager[AnswerStream]:
        """As `RAG.stream`."""
        return self._rag.stream(
            question,
            tenant=self._tenant,
            **options,
        )

    @spelled_out(RetrieveOptions)
    async def retrieve(
        self,
        question: str,
        /,
        **options: Unpack[RetrieveOptions],
    ) -> Retrieval:
        """As `RAG.retrieve`."""
        return await self._rag.retrieve(
            question,
            tenant=self._tenant,
            **options,
        )

    @spelled_out(TimedSimilarityOptions)
    async def similarity(
        self,
        question: str,
        /,
        **options: Unpack[TimedSimilarityOptions],
    ) -> SimilarityReport:
        """As `RAG.similarity`."""
        return await self._rag.similarity(question, tenant=self._tenant, **options)

    async def add(
        self,
        documents: Iterable[Document | Unreadable] | AsyncIterable[Document | Unreadable],
        /,
        *,
        progress: Callable[[IngestReport], None] | None = None,
        document_timeout: float | None = None,
    ) -> IngestReport:
        """As `RAG.add`."""
        return await self._rag.add(documents, tenant=self._tenant, progress=progress, document_timeout=document_timeout)

    async def delete(self, document_ids: Iterable[str], /, *, timeout: float | None = None) -> int:
        """As `RAG.delete`."""
        return await self._rag.delete(document_ids, tenant=self._tenant, timeout=timeout)

    async def delete_tenant(self, *, timeout: float | None = None) -> Erased:
        """As `RAG.delete_tenant`."""
        return await self._rag.delete_tenant(tenant=self._tenant, timeout=timeout)

    async def documents(self, *, timeout: float | None = None) -> Mapping[str, str]:
        """As `RAG.documents`."""
        return await self._rag.documents(tenant=self._tenant, timeout=timeout)
