"""The parts as Protocols, and the values between them. Met by having the members, not by subclassing.

A Protocol gains no member within a major version; a new ability is a new Protocol.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ragcore.filters import Filter
from ragcore.types import Chunk, Counts, Document, EmbedText, Generation, Kind, Mode, Passage, Prompt
from ragcore.value import Value

__all__ = [
    "Allowance",
    "Diagnosis",
    "Diagnostician",
    "EmbeddedDocument",
    "Embedder",
    "Expiring",
    "Found",
    "Generator",
    "Ledger",
    "Limits",
    "Query",
    "QuotaStore",
    "Scores",
    "Searcher",
    "Store",
    "Vector",
    "Vectors",
]

Vector: TypeAlias = NDArray[np.float32]
Vectors: TypeAlias = NDArray[np.floating[Any]] | Sequence[Sequence[float]]


@runtime_checkable
class Embedder(Protocol):
    """Texts in, vectors out. Attributes and frozen fields satisfy the three read-only properties."""

    @property
    def model(self) -> str:
        """The model's name; vectors of different models don't mix."""

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""

    @property
    def max_tokens(self) -> int:
        """The longest text, in the model's own tokens."""

    def count_tokens(self, text: str, /) -> int:
        """Tokens of `text`; the chunker measures with it, so it must be quick. Else: `staticmethod(ragcore.estimate_tokens)`."""
        ...

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vectors:
        """(len(texts), dimension) in the order of `texts`, of which there are at most 256; `kind` says what they are."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a searcher is asked.

    Attributes:
        question: the text to search for.
        tenant: whose chunks; a searcher hands out no others.
        mode: "vector" and "hybrid" come with a vector, "text" without.
        top_k: how many passages at most.
        vector: (dimension,) float32, finite and not zero.
        filter: only passages that it matches.
        score_threshold: inclusive lower bound of cosine similarity for what is found by vector; None: none.
        model: the model that made the vector; a store that holds another model's vectors refuses it. None: not known.
    """

    question: str
    tenant: str
    mode: Mode
    top_k: int
    vector: Vector | None = field(default=None, hash=False, compare=False)
    filter: Filter | None = None
    score_threshold: float | None = None
    model: str | None = None


@runtime_checkable
class Searcher(Protocol):
    """All that a `Retriever` needs; a reranker wraps one."""

    async def search(self, query: Query, /) -> Sequence[Passage]:
        """Passages, best first. A mode or a filter that it can't do: raise `Unsupported`, never ignore it."""
        ...


class Found(list[Passage]):
    """Passages, best first, with what the search itself learned on the way to them. A searcher may return a plain sequence as well.

    Args:
        passages: best first.
        best_score: the best cosine similarity that there was, whatever the threshold; None: no vector was compared.
        scan: how vectors were compared: "exact" with all of the tenant's, through the "index", or "completed": exactly, after the index had given
            too few. None: not at all, or not known.
    """

    def __init__(
        self,
        passages: Iterable[Passage] = (),
        *,
        best_score: float | None = None,
        scan: Literal["exact", "index", "completed"] | None = None,
    ) -> None:
        super().__init__(passages)
        self.best_score = best_score
        self.scan = scan


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a store knows of a tenant for whose question it found nothing.

    Attributes:
        chunks, not_embedded: how many the tenant has, and how many of them without a vector.
        models: the embedding models of the tenant's documents; () if there are none.
        store_chunks: how many all tenants have; None: not known, or not counted.
    """

    chunks: int
    not_embedded: int = 0
    models: Sequence[str] = ()
    store_chunks: int | None = None


@runtime_checkable
class Clearable(Protocol):
    """An embedder that keeps vectors, and can drop a tenant's."""

    def clear(self, *, tenant: str | None = None) -> int:
        """Drop them; how many there were."""
        ...


@runtime_checkable
class Pingable(Protocol):
    """A store that can say whether it works. Without it, health is judged by the last calls."""

    async def ping(self) -> None:
        """Ask the database something. Raises whatever is wrong."""
        ...


@runtime_checkable
class Watched(Protocol):
    """A part with numbers to watch: a pool's, a cache's."""

    def snapshot(self) -> Mapping[str, Any]:
        """As of now, JSON-ready."""
        ...


@runtime_checkable
class Described(Protocol):
    """A part that says what it is: settings and versions, never a secret."""

    def describe(self) -> Mapping[str, Any]:
        """JSON-ready."""
        ...


@runtime_checkable
class Inspected(Protocol):
    """A store that can say what its database is like."""

    async def inspect(self) -> Value:
        """Server, role, schema, index."""
        ...


class Misfit(Protocol):
    """Something that does not fit together."""

    @property
    def message(self) -> str:
        """What, and what to do."""


class FirstLook(Protocol):
    """What a store has seen of itself."""

    def misfits(self, embedder: Embedder | None, /) -> Sequence[Misfit]:
        """What does not fit this embedder: another model, another dimension."""
        ...


@runtime_checkable
class Looking(Protocol):
    """A store that can look early whether what is in it fits."""

    async def first_look(self) -> FirstLook | None:
        """What it saw; None if it could not be reached."""
        ...


@runtime_checkable
class Named(Protocol):
    """A generator of one model."""

    @property
    def model(self) -> str:
        """Its name, as a price table has it."""


@runtime_checkable
class Counting(Protocol):
    """A generator that counts its model's own tokens."""

    def count_tokens(self, text: str, /) -> int:
        """Tokens of a text."""
        ...


@runtime_checkable
class Diagnostician(Protocol):
    """A store that can say why it found nothing, within bounds and apart from its policy."""

    async def diagnose(self, query: Query, /) -> Diagnosis:
        """What the tenant of `query` has. May raise anything: the search itself has succeeded."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedDocument:
    """A document with its chunks and their vectors, on its way into a store.

    Attributes:
        document: the document.
        content_hash: of everything that the chunks and vectors were made from; equal hash, nothing to do.
        model: what made the vectors.
        chunks: in the order of the text.
        vectors: (len(chunks), dimension) float32, finite and not zero.
    """

    document: Document
    content_hash: str
    model: str
    chunks: tuple[Chunk, ...]
    vectors: Vector = field(hash=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Cosine similarities as columns of one length, best first: `scores` is (n,) float32."""

    document_ids: Sequence[str]
    chunk_ids: Sequence[str]
    scores: Vector


@runtime_checkable
class Store(Searcher, Protocol):
    """A searcher that can also be written to and counted: for add, delete, documents, similarity and a full `EmptyReason`."""

    async def upsert(self, documents: Sequence[EmbeddedDocument], /, *, tenant: str) -> None:
        """Put documents in place of those with the same ids; each document whole or not at all."""

    async def hashes(self, document_ids: Sequence[str] | None, /, *, tenant: str) -> Mapping[str, str]:
        """Content hash by document id, for those that are there; None asks for all."""
        ...

    async def delete(self, document_ids: Sequence[str], /, *, tenant: str) -> int:
        """Remove documents with their chunks; how many there were. Unknown ids are no error."""
        ...

    async def count(self, *, tenant: str | None) -> Counts:
        """What a tenant has; None: the whole store, where the role may know it, else `Unsupported`."""
        ...

    async def scores(self, vector: Vector, /, *, tenant: str, limit: int | None = None) -> Scores:
        """The similarity of the tenant's chunks to `vector`, exact, best first; at most `limit`, None: all."""
        ...


@runtime_checkable
class EmbedTextRecorder(Protocol):
    """A store that records what is embedded for its chunks, so that all who write to it do the same."""

    async def recorded_embed_text(self) -> EmbedText | None:
        """What was recorded; None: nothing yet."""
        ...

    async def record_embed_text(self, embed_text: EmbedText, /) -> EmbedText | None:
        """Record it from now on; return what was recorded before."""
        ...


@runtime_checkable
class Expiring(Protocol):
    """A store whose documents can expire: it hands out none of their chunks from that moment on."""

    async def expire(self, *, limit: int = 1_000) -> Mapping[str, int]:
        """Remove documents that have expired, of all tenants, at most `limit` at once; how many, by tenant."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What each tenant may ask for; None: no limit. As in `Settings`."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    calls_at_once: int | None = None
    spending_per_day: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What a process has used for a tenant, as sums that only grow: counted twice, it makes no difference.

    Attributes:
        name: of the process's own, random.
        tokens, cost: since the ledger was begun.
        finished: ids of calls that have ended and may have a place still.
    """

    name: str
    tokens: int = 0
    cost: float = 0.0
    finished: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a tenant has used of its limits, by the counts of all processes.

    Attributes:
        admitted: whether the call may go on; then it is counted already. True where there was none.
        requests, tokens: used of a minute's worth, and not come back yet.
        calls: under way, without this one.
        spent: today.
    """

    admitted: bool
    requests: float
    tokens: float
    calls: int
    spent: float


@runtime_checkable
class QuotaStore(Protocol):
    """A store that counts for all processes what each tenant has used."""

    async def count_calls(
        self, ledger: Ledger, limits: Limits, /, *, tenant: str, call: str | None = None, seconds: float = 0.0
    ) -> Allowance:
        """Count what a process has used, and give back the places of calls that have ended. Then let another call in, if the limits have room for it.

        Args:
            call: the id of the one that begins; None: none does.
            seconds: after which its place comes back by itself, should its process end without giving it back.
        """
        ...


@runtime_checkable
class Generator(Protocol):
    """A prompt in, an answer out."""

    async def generate(self, prompt: Prompt, /) -> Generation:
        """The whole answer."""
        ...

    def stream(self, prompt: Prompt, /) -> AbstractAsyncContextManager[AsyncIterator[str | Generation]]:
        """The answer in pieces, then the `Generation`; ending without one means that the stream broke.

        A generator that can't stream: `def stream(self, prompt): return generation.at_once(self.generate(prompt))`.

        The stream runs in a task of its own. A class that holds neither a cancel scope nor a task group open while a piece is handed out may say
        `in_any_task = True`: its streams are then read by whoever reads the answer, which costs less.
        """
        ...
