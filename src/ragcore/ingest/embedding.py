"""The embedding step: splits texts into requests, waits for the rate limiter and for a thread, and checks the vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ragcore.embedding.vectors import check_vectors
from ragcore.errors import EmbeddingError, RagcoreError
from ragcore.ingest.step_limit import StepLimit
from ragcore.lifecycle.operations import begin
from ragcore.protocols import Embedder, Vector
from ragcore.resilience import Bulkhead, RateLimiter

__all__ = ["embed_texts", "requests", "turns_of"]

MOST_BATCHES = 1_024
EMBED_AT_ONCE = 256
# An embedder may split a larger batch into several requests, which the limiter would not see.
MOST_TOKENS = 100_000


def turns_of(embedder: Embedder) -> Bulkhead:
    """Return the places of an embedder. It embeds as many batches at once as it has threads; the time limit of a batch that waits does not run."""
    # Optional attributes of an embedder are read with getattr. A Protocol would not work: a `CachedEmbedder` passes on the attributes of its inner
    # embedder by __getattr__, and since Python 3.12 isinstance does not see such attributes.
    return getattr(embedder, "document_turns", None) or Bulkhead(MOST_BATCHES, name="embedding")


async def embed_texts(
    embedder: Embedder,
    texts: Sequence[str],
    limit: StepLimit,
    *,
    turns: Bulkhead,
    rate_limiter: RateLimiter | None = None,
) -> Vector:
    """Return the vectors of texts to store, of shape (len(texts), dimension).

    Args:
        embedder: must be open.
        texts: the texts.
        limit: limits the seconds for each 256 texts, without the waits.
        turns: the places of the embedder.
        rate_limiter: None: no limit.
    """
    parts = []
    for part, tokens in requests(texts, rate_limiter, embedder.count_tokens, most=EMBED_AT_ONCE):
        if rate_limiter is not None:
            await rate_limiter.acquire(tokens)
        try:
            async with turns:
                with begin("embed", component=embedder):
                    vectors = await limit.embedding(embedder.embed(part, kind="document"))
        except RagcoreError:
            raise
        except Exception as error:
            model = embedder.model
            raise EmbeddingError(
                f"the embedder {model} raised {type(error).__name__}", dependency=model, stage="embed"
            ) from error
        parts.append(check_vectors(vectors, count=len(part), dimension=embedder.dimension, model=embedder.model))
    return np.concatenate(parts) if parts else np.zeros((0, embedder.dimension), np.float32)


def requests(
    texts: Sequence[str], rate_limiter: RateLimiter | None, count_tokens: Callable[[str], int], *, most: int
) -> Iterator[tuple[Sequence[str], int]]:
    """Yield the texts of each request and the number of their tokens, which is 0 without a limiter.

    Args:
        texts: the texts to embed.
        rate_limiter: a request has at most as many tokens as may pass at once, unless a single text has more. None: only `most` limits a request.
        count_tokens: counts the tokens of a text.
        most: the largest number of texts.
    """
    if rate_limiter is None:
        for start in range(0, len(texts), most):
            yield texts[start : start + most], 0
        return
    room = min(MOST_TOKENS, rate_limiter.most_tokens)
    start = tokens = 0
    for number, text in enumerate(texts):
        length = count_tokens(text)
        if number > start and (number - start == most or tokens + length > room):
            yield texts[start:number], tokens
            start, tokens = number, 0
        tokens += length
    if start < len(texts):
        yield texts[start:], tokens
