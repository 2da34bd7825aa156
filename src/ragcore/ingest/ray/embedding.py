"""Embeds the texts of a dataset, without a store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from ragcore.compat.extras import require
from ragcore.errors import InvalidInput, RagcoreError
from ragcore.ingest.embedding import embed_texts, turns_of
from ragcore.ingest.failures import blames_a_document
from ragcore.ingest.ingestor import DOCUMENT_TIMEOUT
from ragcore.ingest.ray.cluster import load
from ragcore.ingest.ray.coordinator import SharedRateLimiter, start_coordinator
from ragcore.ingest.ray.engine import CPUS, pool, workers_of
from ragcore.ingest.ray.workers import Limits, Opened
from ragcore.ingest.step_limit import StepLimit
from ragcore.lifecycle.part import Parts
from ragcore.protocols import Embedder
from ragcore.resilience import RateLimiter
from ragcore.resilience.policy import policy_of
from ragcore.types.validation import check_timeout

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["embed_dataset"]

ROWS = 256


def embed_dataset(
    dataset: Dataset,
    /,
    *,
    embedder: Callable[[], Embedder],
    text: str = "text",
    vector: str = "embedding",
    error: str = "embedding_error",
    workers: int | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    timeout: float | None = None,
) -> Dataset:
    """Add a column of vectors to a dataset of Ray Data. Like other operations on a dataset, it runs when the dataset is read or written.

    Args:
        dataset: a dataset with a column of texts.
        embedder: function that makes the embedder. It is called in each worker, so it reads the worker's environment.
        text: name of the column of texts. A row without a text gets no vector.
        vector: name of the new column of vectors: a list of `dimension` float32 numbers; null for a text that the embedder refuses.
        error: name of the new column with the reason for a missing vector; "" for a row with a vector.
        workers: number of processes that embed. None: the number of the cluster's CPUs.
        requests_per_minute: limit of the embedding provider for all workers together.
        tokens_per_minute: the same for tokens.
        timeout: seconds for each 256 texts, not counting the wait for the limits. None: 120.

    Raises:
        InvalidInput: `timeout` is not positive.
        ConfigurationError: the extra `ray` is not installed, another option is invalid, or the cluster has too few CPUs.

    If the embedder fails for a reason other than a text, or the dataset has no column `text`, reading the dataset raises an error of Ray. Its `cause` is
    ragcore's error.

    Examples:
        ```python
        texts = ray.data.read_parquet("texts")
        embed_dataset(texts, embedder=lambda: ragcore.OpenAIEmbedder("text-embedding-3-small")).write_parquet("vectors")
        ```
    """
    ray = load("embedding on Ray")
    seconds = check_timeout(timeout) or DOCUMENT_TIMEOUT
    RateLimiter(requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute)
    count = workers_of(ray, workers)
    coordinator = start_coordinator(ray, requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute)
    limits = Limits(requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute)
    return dataset.map_batches(
        Embedding,
        fn_constructor_args=(partial(_opened, embedder), (text, vector, error), seconds, limits, coordinator),
        batch_size=ROWS,
        batch_format="pyarrow",
        num_cpus=CPUS,
        compute=pool(ray, count, at_once=2),
    )


@asynccontextmanager
async def _opened(embedder: Callable[[], Embedder]) -> AsyncIterator[Embedder]:
    made, parts = embedder(), Parts()
    try:
        await parts.start(made)
        yield made
    finally:
        await parts.aclose()


class Embedding(Opened[Embedder]):
    """Embeds the texts of a block."""

    argument = "embedder"

    def __init__(
        self, opens: Any, columns: tuple[str, str, str], seconds: float, limits: Limits, coordinator: Any
    ) -> None:
        super().__init__(opens)
        self._columns = columns
        self._seconds = seconds
        self._limiter = SharedRateLimiter(
            coordinator,
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
        )

    def __call__(self, block: Any) -> Any:
        """Return the block with the columns of vectors and errors."""
        pyarrow = require("pyarrow", extra="ray", purpose="embedding on Ray")
        text, vector, error = self._columns
        if text not in block.column_names:
            raise InvalidInput(f"the dataset has no column {text!r}: it has {', '.join(block.column_names)}")
        texts = block[text].to_pylist()
        outcome = self.outcome(lambda embedder: self._vectors(embedder, texts))
        if outcome.error is not None:
            raise outcome.error
        vectors = pyarrow.array([one for one, _ in outcome.result], pyarrow.list_(pyarrow.float32()))
        reasons = pyarrow.array([reason for _, reason in outcome.result], pyarrow.string())
        return block.append_column(vector, vectors).append_column(error, reasons)

    async def _vectors(self, embedder: Embedder, texts: Sequence[object]) -> list[tuple[Any, str]]:
        kept = [number for number, text in enumerate(texts) if isinstance(text, str) and text.strip()]
        found: list[tuple[Any, str]] = [(None, "it has no text")] * len(texts)
        with self._limiter.following(policy_of(embedder)):
            try:
                vectors = await self._embed(embedder, [str(texts[number]) for number in kept])
                for number, vector in zip(kept, vectors, strict=True):
                    found[number] = (vector, "")
            except RagcoreError as error:
                if not blames_a_document(error):
                    raise
                for number in kept:
                    found[number] = await self._alone(embedder, str(texts[number]))
        return found

    async def _alone(self, embedder: Embedder, text: str) -> tuple[Any, str]:
        try:
            return (await self._embed(embedder, [text]))[0], ""
        except RagcoreError as error:
            if not blames_a_document(error):
                raise
            return None, str(error)

    async def _embed(self, embedder: Embedder, texts: Sequence[str]) -> Any:
        limit = StepLimit(self._seconds)
        return await embed_texts(embedder, texts, limit, turns=turns_of(embedder), rate_limiter=self._limiter)
