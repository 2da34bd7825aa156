"""Compares the documents of a batch with the sources that the store has recorded for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ragcore.compat.ability import offers
from ragcore.protocols import OriginStore, Store
from ragcore.store.origins import foreign
from ragcore.types import Document, Origin, Unreadable

__all__ = ["Records"]


@dataclass(frozen=True, slots=True)
class Records:
    """The recorded sources of a batch.

    Invariant: a document of another source is never written, unless its new origin takes over. The store checks this again when it writes.

    Attributes:
        store: the store with the records; None if it has none.
        tenant: the owner of the documents.
        known: the recorded origins, by document id.
    """

    store: OriginStore | None
    tenant: str
    known: Mapping[str, Origin] = field(default_factory=dict)

    @classmethod
    async def of(cls, store: Store, batch: Sequence[Document], *, tenant: str) -> Records:
        """Read the records of a batch. Without a source in the batch, nothing is read."""
        ids = [document.id for document in batch if document.origin is not None]
        if not ids or not offers(store, OriginStore):
            return cls(None, tenant)
        return cls(store, tenant, await store.origins(ids, tenant=tenant))

    def own(self, batch: Sequence[Document]) -> list[Document]:
        """Return the documents that may be written."""
        return [document for document in batch if self._former(document) is None or _takes_over(document)]

    def refused(self, batch: Sequence[Document]) -> Iterator[Unreadable]:
        """Yield the documents that belong to another source."""
        for document in batch:
            former = self._former(document)
            if former is not None and not _takes_over(document):
                yield Unreadable(document.id, foreign(document.id, former.source), source=document.source)

    def taken(self, documents: Sequence[Document]) -> Iterator[tuple[Origin, Origin]]:
        """Yield the former and the new origin of each document that is taken over."""
        for document in documents:
            former = self._former(document)
            if former is not None and document.origin is not None:
                yield former, document.origin

    async def update(self, unchanged: Sequence[Document]) -> None:
        """Record the origins of documents that are stored already, if they differ from the records."""
        origins = {document.id: document.origin for document in unchanged if document.origin is not None}
        outdated = {
            one: origin for one, origin in origins.items() if self.known.get(one) != replace(origin, takes_over=False)
        }
        if self.store is not None and outdated:
            await self.store.record_origins(outdated, tenant=self.tenant)

    def _former(self, document: Document) -> Origin | None:
        """Return the recorded origin if it is another source than the document's."""
        known = self.known.get(document.id)
        return None if known is None or document.origin is None or known.source == document.origin.source else known


def _takes_over(document: Document) -> bool:
    return document.origin is not None and document.origin.takes_over
