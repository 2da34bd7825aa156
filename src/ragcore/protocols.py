"""The components as Protocols, and the values that they exchange. A class that has the members of a Protocol satisfies it, without being a subclass.

Within a major version, no Protocol gets a new member; a new ability is a new Protocol. All Protocols are in one file, because a component often needs
several of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ragcore.filters import Filter
from ragcore.types import (
    Chunk,
    Counts,
    Degradation,
    Document,
    EmbedText,
    Fusion,
    Generation,
    Kind,
    Mode,
    Origin,
    Passage,
    Prompt,
    RolloutState,
)
from ragcore.value import Value

__all__ = [
    "AdjacentChunks",
    "Allowance",
    "ChunkReader",
    "Diagnosis",
    "Diagnostician",
    "EmbeddedDocument",
    "Embedder",
    "Expiring",
    "Found",
    "Generator",
    "Ledger",
    "Limits",
    "OriginStore",
    "Query",
    "QuotaStore",
    "Reranker",
    "RolloutRecord",
    "RolloutStore",
    "Scores",
    "Searcher",
    "SharingStore",
    "Store",
    "Vector",
    "VectorCache",
    "Vectors",
]

Vector: TypeAlias = NDArray[np.float32]
Vectors: TypeAlias = NDArray[np.floating[Any]] | Sequence[Sequence[float]]


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors. Plain attributes and fields of frozen dataclasses satisfy the three read-only properties."""

    @property
    def model(self) -> str:
        """The embedding model's name. Vectors of different models can't be compared."""

    @property
    def dimension(self) -> int:
        """The length of a vector."""

    @property
    def max_tokens(self) -> int:
        """The length of the longest text that the model accepts, in the model's tokens."""

    def count_tokens(self, text: str, /) -> int:
        """Return the number of tokens in `text`. The chunker calls it often, so it must be quick.

        If there is no quick tokenizer, use `count_tokens = staticmethod(ragcore.estimate_tokens)`.
        """
        ...

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vectors:
        """Embed up to 256 texts.

        Args:
            texts: the texts to embed.
            kind: "document" for texts to store, "query" for questions.

        Returns:
            An array of shape (len(texts), dimension), in the order of `texts`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A search request.

    Attributes:
        question: the text to search for.
        tenant: the owner of the chunks; a searcher must not return another tenant's passages.
        mode: "vector" and "hybrid" need a vector, "text" does not.
        top_k: the largest number of passages to return.
        vector: the question's embedding, of shape (dimension,), float32, finite and not zero.
        filter: return only passages that match it; None: all.
        score_threshold: the lowest cosine similarity of a passage, inclusive; None: no threshold. It does not apply to a chunk without a vector.
        model: the embedding model that made the vector; None if unknown. A store refuses the vector if it holds another model's vectors.
        shared: shared tenants whose chunks are searched as well. A passage of such a tenant has its name in `Passage.shared`. A retriever asks only
            a `SharingStore` for them.
        fusion: how mode "hybrid" orders its passages: by "score" or by "rank", as in `Retriever`. A searcher may ignore it.
        with_vectors: whether `Found.vectors` is wanted. A searcher may ignore it.
        rerank: whether a reranker may change the order. False: the order of the search. Stores ignore this field and the next two.
        degrade: whether a reranker that fails is skipped. False: its error is raised.
        redact: removes personal data from the texts that a reranker gets; None: nothing is removed.
    """

    question: str
    tenant: str
    mode: Mode
    top_k: int
    vector: Vector | None = field(default=None, hash=False, compare=False)
    filter: Filter | None = None
    score_threshold: float | None = None
    model: str | None = None
    shared: tuple[str, ...] = ()
    fusion: Fusion = "score"
    with_vectors: bool = False
    rerank: bool = True
    degrade: bool = True
    redact: Callable[[str], str] | None = field(default=None, hash=False, compare=False)


@runtime_checkable
class Searcher(Protocol):
    """Finds passages. This is all that a `Retriever` needs; a `RerankedSearcher` wraps another searcher."""

    async def search(self, query: Query, /) -> Sequence[Passage]:
        """Return passages, best first.

        Raises:
            Unsupported: the searcher does not support the mode or the filter; it must never ignore them.
        """
        ...


@runtime_checkable
class SharingStore(Protocol):
    """A searcher with documents that all tenants may search, such as the terms of all plans. It supports `Query.shared`."""

    async def shared_tenants(self) -> Sequence[str]:
        """Return the tenants that are marked as shared."""
        ...


@runtime_checkable
class AdjacentChunks(Protocol):
    """A store that returns the chunks before and after a passage."""

    async def adjacent(
        self, passages: Sequence[Passage], /, *, tenant: str, distance: int
    ) -> Sequence[Sequence[Passage]]:
        """Return, for each passage, the chunks of its document from `distance` before to `distance` after it, itself included, in the order of the text.

        The sequence of a passage is empty if its chunk does not exist any more.
        """
        ...


@runtime_checkable
class ChunkReader(Protocol):
    """A store that returns chunks without a search: those of a document, or those with given ids. The passages have no scores.

    Both methods return only chunks that belong to the tenant and have not expired.
    """

    async def document_chunks(self, document_id: str, /, *, tenant: str, with_vectors: bool = False) -> Found:
        """Return all chunks of a document, in the order of its text. There are none if the document does not exist.

        Args:
            document_id: the document's id.
            tenant: the owner of the document.
            with_vectors: whether `Found.vectors` is wanted. A store must not ignore it.
        """
        ...

    async def chunks_by_id(self, chunk_ids: Sequence[str], /, *, tenant: str, with_vectors: bool = False) -> Found:
        """Return the chunks with these ids, in the order of the ids. Unknown ids are left out; of a repeated id, only the first counts."""
        ...


class Found(list[Passage]):
    """Passages with facts about the search. A search returns them best first. A searcher may also return a plain sequence.

    Args:
        passages: best first.
        best_score: the best cosine similarity that the search found, even if it is below the threshold; None if no vectors were compared.
        scan: how vectors were compared. "exact": with all of the tenant's vectors. "index": through the index. "completed": exactly, because the
            index returned too few passages. None: no vectors were compared, or it is unknown.
        vectors: the vector of each passage, of shape (dimension,); None for a passage without one. None: the query did not ask for vectors, or the
            searcher does not return them.
        degraded: steps of the search that failed and their fallbacks, such as a reranker that did not answer. The `Retrieval` repeats them.
    """

    def __init__(
        self,
        passages: Iterable[Passage] = (),
        *,
        best_score: float | None = None,
        scan: Literal["exact", "index", "completed"] | None = None,
        vectors: Sequence[Vector | None] | None = None,
        degraded: tuple[Degradation, ...] = (),
    ) -> None:
        super().__init__(passages)
        self.best_score = best_score
        self.scan = scan
        self.vectors = vectors
        self.degraded = degraded


@runtime_checkable
class Reranker(Protocol):
    """Computes how relevant texts are to a question, with a model that reads the question and a text together, such as a cross-encoder.

    It returns a score for each text, not a sorted list. So a result can't name a text twice, or a text that does not exist. Only `RerankedSearcher` sorts.
    """

    @property
    def model(self) -> str:
        """The reranker's name, for messages and events."""

    async def rerank(self, question: str, texts: Sequence[str], /) -> Sequence[float] | NDArray[np.floating[Any]]:
        """Return the relevance of each text.

        Args:
            question: the question.
            texts: the texts of passages, at most 1,000.

        Returns:
            One finite number for each text, in the order of `texts`. Higher is more relevant. Only the order matters, so the numbers may have any range.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Facts about a tenant's data that explain why a search found nothing.

    Attributes:
        chunks, not_embedded: how many chunks the tenant has, and how many of them have no vector.
        models: the embedding models of the tenant's documents; () if there are no documents.
        store_chunks: how many chunks all tenants have; None if unknown or not counted.
    """

    chunks: int
    not_embedded: int = 0
    models: Sequence[str] = ()
    store_chunks: int | None = None


@runtime_checkable
class Clearable(Protocol):
    """An embedder that caches vectors and can delete those of a tenant."""

    def clear(self, *, tenant: str | None = None) -> int:
        """Delete the cached vectors of a tenant (None: of all) and return their number."""
        ...


@runtime_checkable
class Pingable(Protocol):
    """A store that can check that its database responds. Without `ping`, the health check uses the outcomes of the last calls."""

    async def ping(self) -> None:
        """Run a short statement in the database. Raises any error."""
        ...


@runtime_checkable
class Replicated(Protocol):
    """A store that can read from replicas of its database as well."""

    @property
    def replicas(self) -> Sequence[str]:
        """Addresses of the replicas, without secrets; empty if there are none."""
        ...

    async def ping_replicas(self) -> Mapping[str, str | None]:
        """Run a short statement on each replica; return the error by address, None for a replica that works."""
        ...


@runtime_checkable
class Watched(Protocol):
    """A component that reports numbers, for example those of a pool or a cache."""

    def snapshot(self) -> Mapping[str, Any]:
        """Return the current numbers, JSON-ready."""
        ...


@runtime_checkable
class Described(Protocol):
    """A component that describes itself: settings and versions, never a secret."""

    def describe(self) -> Mapping[str, Any]:
        """Return the description, JSON-ready."""
        ...


@runtime_checkable
class Inspected(Protocol):
    """A store that can describe its database."""

    async def inspect(self) -> Value:
        """Return facts about the server, the role, the schema and the index."""
        ...


class Misfit(Protocol):
    """A mismatch between a store and an embedder."""

    @property
    def message(self) -> str:
        """The mismatch, and how to resolve it."""


class FirstLook(Protocol):
    """Facts about a store's content, which the store has read."""

    def misfits(self, embedder: Embedder | None, /) -> Sequence[Misfit]:
        """Return the mismatches with this embedder, for example another model or another dimension."""
        ...


@runtime_checkable
class Looking(Protocol):
    """A store that can check at start whether its content matches the embedder."""

    async def first_look(self) -> FirstLook | None:
        """Read the facts; None if the database could not be reached."""
        ...


@runtime_checkable
class Named(Protocol):
    """A generator that uses one model."""

    @property
    def model(self) -> str:
        """The model's name, as in a price table."""


@runtime_checkable
class Counting(Protocol):
    """A generator that counts tokens as its model does."""

    def count_tokens(self, text: str, /) -> int:
        """Return the number of tokens in `text`."""
        ...


@runtime_checkable
class Diagnostician(Protocol):
    """A store that can explain why a search found nothing. The diagnosis has its own time limit and bypasses the store's policy."""

    async def diagnose(self, query: Query, /) -> Diagnosis:
        """Return facts about the data of the query's tenant. It may raise any exception: the result of the search stays valid."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedDocument:
    """A document with its chunks and their vectors, ready to be stored.

    Attributes:
        document: the document.
        content_hash: a hash of everything that determines the chunks and vectors. A document with an equal hash need not be stored again.
        model: the embedding model that made the vectors.
        chunks: in the order of the text.
        vectors: an array of shape (len(chunks), dimension), float32, finite and not zero.
    """

    document: Document
    content_hash: str
    model: str
    chunks: tuple[Chunk, ...]
    vectors: Vector = field(hash=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Cosine similarities, best first, with their chunks and documents: three columns of equal length. `scores` has shape (n,) and type float32."""

    document_ids: Sequence[str]
    chunk_ids: Sequence[str]
    scores: Vector


@runtime_checkable
class Store(Searcher, Protocol):
    """A searcher that also stores, deletes and counts documents.

    The client needs it for `add`, `delete`, `documents`, `similarity` and a complete `EmptyReason`.
    """

    async def upsert(self, documents: Sequence[EmbeddedDocument], /, *, tenant: str) -> None:
        """Store documents and replace those with the same ids. Each document is stored completely or not at all."""

    async def hashes(self, document_ids: Sequence[str] | None, /, *, tenant: str) -> Mapping[str, str]:
        """Return the content hash of each stored document by its id; None: of all documents of the tenant."""
        ...

    async def delete(self, document_ids: Sequence[str], /, *, tenant: str) -> int:
        """Delete documents with their chunks and return the number of deleted documents. Unknown ids are ignored."""
        ...

    async def count(self, *, tenant: str | None) -> Counts:
        """Count a tenant's documents and chunks.

        Args:
            tenant: None: count those of all tenants.

        Raises:
            Unsupported: the database role may not read the data of all tenants.
        """
        ...

    async def scores(self, vector: Vector, /, *, tenant: str, limit: int | None = None) -> Scores:
        """Return the exact similarity of the tenant's chunks to `vector`, best first.

        Args:
            vector: of shape (dimension,).
            limit: the largest number of chunks to return; None: all.
        """
        ...


@runtime_checkable
class EmbedTextRecorder(Protocol):
    """A store that records which text is embedded for its chunks, so that all programs that write to it embed the same text."""

    async def recorded_embed_text(self) -> EmbedText | None:
        """Return the recorded value; None if there is none yet."""
        ...

    async def record_embed_text(self, embed_text: EmbedText, /) -> EmbedText | None:
        """Record a new value and return the previous one; None if there was none."""
        ...


@runtime_checkable
class Expiring(Protocol):
    """A store whose documents can expire. It returns no chunks of an expired document."""

    async def expire(self, *, limit: int = 1_000) -> Mapping[str, int]:
        """Delete at most `limit` expired documents of all tenants and return their numbers by tenant."""
        ...


@runtime_checkable
class OriginStore(Protocol):
    """A store that records which source lists a document. `RAG.ingest` needs it for `sync`.

    `Store.upsert` records the `origin` of each document together with the document. A document without an origin loses its record. If the record names
    another source, and the new origin does not take over, `upsert` raises `InvalidInput` and writes nothing. A deleted document has no record.
    """

    async def origins(self, document_ids: Sequence[str], /, *, tenant: str) -> Mapping[str, Origin]:
        """Return the recorded origin of each of these documents that has one."""
        ...

    async def record_origins(self, origins: Mapping[str, Origin], /, *, tenant: str) -> None:
        """Record the origins of stored documents, by document id. Ids of other documents are ignored.

        Raises:
            InvalidInput: another source lists one of the documents, and the origin does not take over.
        """

    async def documents_of(
        self, source: str, /, *, tenant: str, after: str = "", limit: int = 1_000
    ) -> Mapping[str, Origin]:
        """Return the documents that are recorded for a source, sorted by id: at most `limit`, those after the id `after`."""
        ...

    async def documents_of_entries(
        self, source: str, entries: Sequence[str], /, *, tenant: str
    ) -> Mapping[str, Origin]:
        """Return the documents that are recorded for these entries of a source."""
        ...

    async def count_of(self, source: str, /, *, tenant: str) -> int:
        """Return the number of documents that are recorded for a source."""
        ...

    async def delete_of(self, source: str, document_ids: Sequence[str], /, *, tenant: str) -> int:
        """Delete those of the documents that are still recorded for the source, and return their number."""
        ...

    def lock_sources(
        self, sources: Sequence[str], /, *, tenant: str
    ) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        """Hold a lock for each source of the tenant during the block.

        Yields:
            A function that raises an error if the locks were lost.

        Raises:
            Overloaded: another process or task holds one of the locks.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of each tenant, as in `Settings`; None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    calls_at_once: int | None = None
    spending_per_day: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The usage of a tenant in one process. The sums only grow, so a store that receives the same ledger twice counts it once.

    Attributes:
        name: a random name of the process.
        tokens, cost: used since the ledger was begun.
        finished: ids of calls that have ended and may still hold a place.
    """

    name: str
    tokens: int = 0
    cost: float = 0.0
    finished: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """A tenant's usage, counted over all processes.

    Attributes:
        admitted: whether the call may continue. A call that may continue is already counted. True if there was no call to admit.
        requests, tokens: how many requests and tokens of the limits per minute are used up at the moment.
        calls: calls under way, without this one.
        spent: the costs of today.
    """

    admitted: bool
    requests: float
    tokens: float
    calls: int
    spent: float


@runtime_checkable
class QuotaStore(Protocol):
    """A store that counts each tenant's usage for all processes."""

    async def count_calls(
        self, ledger: Ledger, limits: Limits, /, *, tenant: str, call: str | None = None, seconds: float = 0.0
    ) -> Allowance:
        """Count the usage of a process, and give back the places of calls that have ended. Then admit another call if the limits allow it.

        Args:
            ledger: the usage of the process.
            limits: the tenant's limits.
            tenant: the tenant.
            call: the id of the call to admit; None: only count.
            seconds: the time after which the call's place is free again, even if its process ends and does not give it back.
        """
        ...


@runtime_checkable
class VectorCache(Protocol):
    """A store that keeps the vectors of questions for all processes."""

    async def cached_vectors(self, keys: Sequence[bytes], /, *, tenant: str) -> Mapping[bytes, Vector]:
        """Return the vectors of a tenant that are stored and have not expired, by key: (dimension,) float32 arrays."""
        ...

    async def cache_vectors(self, vectors: Mapping[bytes, Vector], /, *, tenant: str, seconds: float) -> None:
        """Store vectors of a tenant for `seconds`, or replace those with the same keys."""
        ...

    async def trim_cached_vectors(self, *, most: int | None, at_once: int) -> int:
        """Remove expired vectors of all tenants, and those that expire next while there are more than `most` (None: no limit).

        Args:
            most: the largest number of vectors that stay.
            at_once: the largest number that one call removes.

        Returns:
            The number of vectors removed.
        """
        ...

    async def clear_cached_vectors(self, *, tenant: str) -> int:
        """Remove the vectors of a tenant and return their number."""
        ...


@dataclass(frozen=True, slots=True)
class RolloutRecord(Value):
    """A rollout as it is stored for several processes.

    Attributes:
        state: its state.
        evidence: the evidence of each process, as JSON-ready data. Only `ragcore.rollout` reads it.
    """

    state: RolloutState
    evidence: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)


@runtime_checkable
class RolloutStore(Protocol):
    """A store that keeps the state of rollouts for all processes."""

    async def rollouts(self) -> Sequence[RolloutRecord]:
        """Return all rollouts, in the order of their names."""
        ...

    async def report_rollout(
        self, begun: RolloutState, /, *, ledger: str, version: int, evidence: Mapping[str, Any]
    ) -> RolloutRecord:
        """Replace the evidence of a process, and return what is stored.

        Args:
            begun: the state that is stored if the rollout does not exist.
            ledger: the random name of the process.
            version: the version to which the evidence belongs. Evidence of another version is not stored.
            evidence: sums since the beginning of that version.
        """
        ...

    async def change_rollout(self, changed: RolloutState, /, *, evidence: Mapping[str, Mapping[str, Any]]) -> bool:
        """Replace the state of a rollout and its evidence, if the stored version is the one before `changed.version`. Return whether it was.

        Also return True if the stored state is `changed` already: the response to the same change may have been lost.
        """
        ...


@runtime_checkable
class Generator(Protocol):
    """Writes an answer to a prompt."""

    async def generate(self, prompt: Prompt, /) -> Generation:
        """Return the complete answer."""
        ...

    def stream(self, prompt: Prompt, /) -> AbstractAsyncContextManager[AsyncIterator[str | Generation]]:
        """Yield the answer in pieces, then the `Generation`. If the stream ends without a `Generation`, it counts as broken.

        A generator that can't stream can use `def stream(self, prompt): return generation.at_once(self.generate(prompt))`.

        The stream is read in its own task. A class may set `in_any_task = True` if it holds neither a cancel scope nor a task group open while it yields
        a piece. Its streams are then read in the task that reads the answer, which costs less.
        """
        ...
