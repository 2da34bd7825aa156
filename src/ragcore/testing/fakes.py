"""Fakes of each component. They are fast and deterministic, apply faults on demand, and have a policy around each call, as the real components do."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import lru_cache

import anyio
import anyio.lowlevel
import numpy as np

from ragcore.client.rag import RAG
from ragcore.config import Settings
from ragcore.errors import DependencyError, EmbeddingError, GenerationError, RagcoreError, RerankingError, StoreError
from ragcore.generation.streams import collect
from ragcore.lifecycle.part import Part
from ragcore.protocols import EmbeddedDocument, Embedder, Generator, Query, Reranker, Scores, Searcher, Vector
from ragcore.resilience import Policy
from ragcore.retrieval.reranking.searcher import RerankedSearcher
from ragcore.retrieval.retriever import Retriever
from ragcore.store.memory import MemoryStore
from ragcore.testing.faults import Broken, FakeFailure, Faults, judge
from ragcore.text.tokens import estimate_tokens
from ragcore.text.words import content_words
from ragcore.types import Counts, Generation, Kind, Passage, Prompt, Usage

__all__ = ["FakeEmbedder", "FakeGenerator", "FakeReranker", "FakeStore", "fake_rag", "word_overlap"]


def fake_rag(
    *,
    embedder: Embedder | None = None,
    store: Searcher | None = None,
    generator: Generator | None = None,
    reranker: Reranker | None = None,
    settings: Settings | None = None,
) -> RAG:
    """Create a client of fakes, not started: `async with fake_rag() as rag`. It has no watchdog, because the watchdog needs real time."""
    searcher = store or FakeStore()
    if reranker is not None:
        searcher = RerankedSearcher(searcher, reranker)
    retriever = Retriever(embedder=embedder or FakeEmbedder(), store=searcher)
    return RAG(
        retriever=retriever, generator=generator or FakeGenerator(), settings=settings or Settings(watchdog=False)
    )


class FakeEmbedder(Part):
    """Hashes each word to a direction and adds the directions, so that texts that share words are near each other.

    Args:
        dimension: dimension of the vectors.
        policy: policy of the calls; None: a policy without retries.
    """

    model = "fake"
    max_tokens = 512

    policy: Policy
    faults: Faults

    def __init__(self, *, dimension: int = 64, policy: Policy | None = None) -> None:
        self.dimension = dimension
        self.policy = policy or Policy("fake embedder", retry=False)
        self.faults = Faults()
        self.calls: list[tuple[str, ...]] = []

    def count_tokens(self, text: str, /) -> int:
        """Return the estimated number of tokens."""
        return estimate_tokens(text)

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
        """Return vectors of unit length, in an array of shape (len(texts), dimension)."""
        self._check_open()
        self.calls.append(tuple(texts))
        await _call(self.policy, self.faults, EmbeddingError, "embed")
        vectors = (
            np.stack([embed_words(text, self.dimension) for text in texts]) if texts else np.zeros((0, self.dimension))
        )
        return vectors.astype(np.float32)


class FakeReranker(Part):
    """Scores a text by the share of the question's words that occur in it.

    Args:
        policy: policy of the calls; None: a policy without retries.
    """

    model = "fake"

    policy: Policy
    faults: Faults

    def __init__(self, *, policy: Policy | None = None) -> None:
        self.policy = policy or Policy("fake reranker", retry=False)
        self.faults = Faults()
        self.calls: list[tuple[str, tuple[str, ...]]] = []

    async def rerank(self, question: str, texts: Sequence[str], /) -> list[float]:
        """Return a score from 0 to 1 for each text."""
        self._check_open()
        self.calls.append((question, tuple(texts)))
        await _call(self.policy, self.faults, RerankingError, "rerank")
        return [word_overlap(question, text) for text in texts]


class FakeGenerator(Part):
    """Generates a fixed text, word by word.

    Args:
        text: the answer to every question.
        token_latency: seconds for each word.
        policy: policy of the calls; None: a policy without retries.
    """

    model = "fake"

    policy: Policy
    faults: Faults

    def __init__(
        self,
        text: str = "This is what the documents say [1].",
        /,
        *,
        token_latency: float = 0.0,
        policy: Policy | None = None,
    ) -> None:
        self.text = text
        self.token_latency = token_latency
        self.policy = policy or Policy("fake generator", retry=False)
        self.faults = Faults()
        self.prompts: list[Prompt] = []

    async def generate(self, prompt: Prompt, /) -> Generation:
        """Return the text."""
        return await collect(self.stream(prompt))

    @asynccontextmanager
    async def stream(self, prompt: Prompt, /) -> AsyncIterator[AsyncIterator[str | Generation]]:
        """Stream the text, word by word."""
        self._check_open()
        self.prompts.append(prompt)
        async with self.policy.hold(on=judge) as held:
            with _translated(GenerationError, "generate", self.policy.name):
                fault = await held.call(self.faults.strike)
            broken = fault if isinstance(fault, Broken) else None
            async with aclosing(self._translated(held.items(self._pieces(prompt, broken)))) as pieces:
                yield pieces

    async def _translated(
        self, pieces: AsyncGenerator[str | Generation, None]
    ) -> AsyncGenerator[str | Generation, None]:
        with _translated(GenerationError, "generate", self.policy.name):
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece

    async def _pieces(self, prompt: Prompt, fault: Broken | None) -> AsyncGenerator[str | Generation, None]:
        words = self.text.split(" ")
        for number, word in enumerate(words):
            if fault is not None and number == fault.after:
                match fault.how:
                    case "reset":
                        raise FakeFailure(502)
                    case "clean":
                        return
                    case "idle":
                        await anyio.sleep_forever()
                    case "endless":
                        while True:
                            await anyio.sleep(0.1)
                            yield " and"
            await anyio.sleep(self.token_latency)
            yield word if number == 0 else f" {word}"
        usage = Usage(prompt_tokens=estimate_tokens(prompt.question), completion_tokens=len(words))
        yield Generation(self.text, model=self.model, usage=usage, request_id="fake-1")


class FakeStore(MemoryStore):
    """A `MemoryStore` whose calls apply `faults`.

    Args:
        policy: policy of the calls; None: a policy without retries.
    """

    policy: Policy
    faults: Faults

    def __init__(self, *, policy: Policy | None = None) -> None:
        super().__init__()
        self.policy = policy or Policy("fake store", retry=False)
        self.faults = Faults()

    async def ping(self) -> None:
        """Check the store, for health checks. The call applies the next fault."""
        await self._strike()

    async def search(self, query: Query, /) -> Sequence[Passage]:
        """See `MemoryStore.search`."""
        await self._strike()
        return await super().search(query)

    async def upsert(self, documents: Sequence[EmbeddedDocument], /, *, tenant: str) -> None:
        """See `MemoryStore.upsert`."""
        await self._strike()
        await super().upsert(documents, tenant=tenant)

    async def hashes(self, document_ids: Sequence[str] | None, /, *, tenant: str) -> Mapping[str, str]:
        """See `MemoryStore.hashes`."""
        await self._strike()
        return await super().hashes(document_ids, tenant=tenant)

    async def delete(self, document_ids: Sequence[str], /, *, tenant: str) -> int:
        """See `MemoryStore.delete`."""
        await self._strike()
        return await super().delete(document_ids, tenant=tenant)

    async def count(self, *, tenant: str | None) -> Counts:
        """See `MemoryStore.count`."""
        await self._strike()
        return await super().count(tenant=tenant)

    async def scores(self, vector: Vector, /, *, tenant: str, limit: int | None = None) -> Scores:
        """See `MemoryStore.scores`."""
        await self._strike()
        return await super().scores(vector, tenant=tenant, limit=limit)

    async def _strike(self) -> None:
        self._check_open()
        await _call(self.policy, self.faults, StoreError, "search")


async def _call(policy: Policy, faults: Faults, kind: type[DependencyError], stage: str) -> None:
    with _translated(kind, stage, policy.name):
        await policy.call(faults.strike, on=judge)


class _translated:  # noqa: N801  # reads as a participle: `with _translated(…)`
    """Translates foreign errors to ragcore's, as a real component does."""

    def __init__(self, kind: type[DependencyError], stage: str, dependency: str) -> None:
        self._kind, self._stage, self._dependency = kind, stage, dependency

    def __enter__(self) -> None:
        return None

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, Exception) and not isinstance(exc, RagcoreError):
            status = exc.status if isinstance(exc, FakeFailure) else None
            raise self._kind(
                f"{self._dependency} failed ({str(exc) or type(exc).__name__})",
                dependency=self._dependency,
                status=status,
                stage=self._stage,
            ) from exc


def word_overlap(question: str, text: str) -> float:
    """Return the share of the question's words that occur in the text, from 0 to 1."""
    asked = set(content_words(question))
    return len(asked & set(content_words(text))) / len(asked) if asked else 0.0


def embed_words(text: str, dimension: int) -> Vector:
    """Give each word of a text a direction, and return the normalised sum of these directions, of shape (dimension,)."""
    words = content_words(text) or [text]
    total = np.sum([_direction(word, dimension) for word in words], axis=0)
    vector: Vector = (total / np.linalg.norm(total)).astype(np.float32)
    return vector


@lru_cache(maxsize=10_000)
def _direction(word: str, dimension: int) -> Vector:
    seed = int.from_bytes(hashlib.sha256(word.encode(errors="replace")).digest()[:8], "big")
    direction: Vector = np.random.default_rng(seed).normal(size=dimension).astype(np.float32)
    return direction
