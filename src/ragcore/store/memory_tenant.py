"""One tenant's documents in a `MemoryStore`, with the index of their vectors and of their words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from ragcore.errors import ConfigurationError
from ragcore.protocols import EmbeddedDocument, Query, Vector
from ragcore.store.bm25 import WordIndex
from ragcore.text.lexemes import Language, lexemes
from ragcore.types import Origin, Passage

__all__ = ["Hit", "MemoryTenant"]


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """A passage that a search finds, with its vector; None if it has none."""

    passage: Passage
    vector: Vector | None

    @property
    def key(self) -> tuple[str, str]:
        """The chunk id and the shared tenant. They identify the passage in a search of several tenants, so sorting by them always gives the same order."""
        return self.passage.chunk_id, self.passage.shared or ""


@dataclass(slots=True)
class _Index:
    passages: list[Passage]
    vectors: NDArray[np.float32]
    unit: NDArray[np.float32]
    # The time at which each passage expires; [] if no passage expires.
    expiries: list[datetime | None]


class MemoryTenant:
    """The documents of one tenant. The indexes are made at the first search after a change; the words of an unchanged document are kept."""

    def __init__(self) -> None:
        self.documents: dict[str, EmbeddedDocument] = {}
        self.origins: dict[str, Origin] = {}
        self._index: _Index | None = None
        self._word_index: WordIndex | None = None
        self._words_of: dict[str, list[Counter[str]]] = {}

    def put(self, document: EmbeddedDocument) -> None:
        """Add a document, or replace the one with its id."""
        self.drop(document.document.id)
        self.documents[document.document.id] = document

    def drop(self, document_id: str) -> bool:
        """Remove a document; return whether it existed."""
        self._index = self._word_index = None
        self._words_of.pop(document_id, None)
        self.origins.pop(document_id, None)
        return self.documents.pop(document_id, None) is not None

    @property
    def chunk_ids(self) -> Sequence[str]:
        """The ids of the chunks, by number."""
        return [passage.chunk_id for passage in self._indexed().passages]

    def around(self, passage: Passage, distance: int) -> Sequence[Passage]:
        """Return the chunks of a passage's document from `distance` before to `distance` after it; () if the chunk does not exist any more."""
        passages = self._indexed().passages
        own = [
            passages[number] for number in sorted(self.current()) if passages[number].document_id == passage.document_id
        ]
        place = next((number for number, one in enumerate(own) if one.chunk_id == passage.chunk_id), None)
        if place is None:
            return ()
        return [replace(one, shared=passage.shared) for one in own[max(0, place - distance) : place + distance + 1]]

    def chunks(self, document_id: str) -> list[Hit]:
        """Return the chunks of a document in the order of its text; [] if it does not exist or has expired."""
        index = self._indexed()
        return [
            Hit(index.passages[number], index.vectors[number])
            for number in sorted(self.current())
            if index.passages[number].document_id == document_id
        ]

    def with_ids(self, chunk_ids: Sequence[str]) -> list[Hit]:
        """Return the chunks with these ids, in the order of the ids. Unknown ids and repeated ones are left out."""
        index = self._indexed()
        numbers = {index.passages[number].chunk_id: number for number in self.current()}
        return [
            Hit(index.passages[numbers[chunk_id]], index.vectors[numbers[chunk_id]])
            for chunk_id in dict.fromkeys(chunk_ids)
            if chunk_id in numbers
        ]

    def current(self) -> AbstractSet[int]:
        """Return the numbers of the passages that have not expired."""
        index, now = self._indexed(), datetime.now(UTC)
        numbers = range(len(index.passages))
        if not index.expiries:
            return set(numbers)
        return {number for number in numbers if (at := index.expiries[number]) is None or at > now}

    def allowed(self, query: Query) -> AbstractSet[int]:
        """Return the numbers of the passages that a query may find."""
        if query.filter is None:
            return self.current()
        passages = self._indexed().passages
        return {number for number in self.current() if query.filter.matches(passages[number])}

    def hit(self, number: int, *, shared: str | None, text_score: float) -> Hit:
        """Return a passage that text search finds."""
        index = self._indexed()
        return Hit(replace(index.passages[number], text_score=text_score, shared=shared), index.vectors[number])

    def by_vector(self, vector: Vector, allowed: AbstractSet[int], *, shared: str | None = None) -> list[Hit]:
        """Return the passages with their similarity to `vector`, in no order."""
        index, numbers = self._indexed(), sorted(allowed)
        if not numbers:
            return []
        if index.unit.shape[1] != len(vector):
            raise ConfigurationError(
                f"the store holds vectors of {index.unit.shape[1]} dimensions, and the question's vector has {len(vector)}: "
                "use the embedder that the documents were embedded with"
            )
        with np.errstate(invalid="ignore", divide="ignore"):
            scores = np.clip(index.unit[numbers] @ (vector / np.linalg.norm(vector)), -1.0, 1.0)
        return [
            Hit(replace(index.passages[number], score=float(score), shared=shared), index.vectors[number])
            for number, score in zip(numbers, scores, strict=True)
            if math.isfinite(score)
        ]

    def words(self, language: Language) -> WordIndex:
        """Return the index of the words."""
        if self._word_index is None:
            self._word_index = WordIndex()
            for document_id, embedded in self.documents.items():
                if document_id not in self._words_of:
                    title = embedded.document.title
                    self._words_of[document_id] = [
                        lexemes(f"{title}\n{chunk.text}", language=language) for chunk in embedded.chunks
                    ]
                for chunk, words in zip(embedded.chunks, self._words_of[document_id], strict=True):
                    self._word_index.append(chunk.text, words)
        return self._word_index

    def _indexed(self) -> _Index:
        if self._index is None:
            passages: list[Passage] = []
            expiries: list[datetime | None] = []
            for embedded in self.documents.values():
                document = embedded.document
                expiries += [document.expires_at] * len(embedded.chunks)
                passages += [
                    Passage(
                        chunk.id,
                        document.id,
                        chunk.text,
                        title=document.title,
                        source=document.source,
                        start=chunk.start,
                        end=chunk.end,
                        metadata={**document.metadata, **chunk.metadata},
                    )
                    for chunk in embedded.chunks
                ]
            filled = [one.vectors for one in self.documents.values() if len(one.vectors)]
            vectors = np.concatenate(filled) if filled else np.zeros((0, 0), np.float32)
            with np.errstate(invalid="ignore", divide="ignore"):
                unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
            self._index = _Index(passages, vectors, unit, expiries if any(expiries) else [])
        return self._index
