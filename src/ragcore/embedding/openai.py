"""Embeddings of OpenAI, or of any server that speaks its protocol."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from openai import AsyncOpenAI

from ragcore.embedding.coalescer import Coalescer
from ragcore.errors import ConfigurationError, EmbeddingError
from ragcore.openai_api import OpenAIClient, Undecodable, judge, read_json, translate
from ragcore.protocols import Vector
from ragcore.resilience import Failure, Policy, RetryPolicy
from ragcore.resilience.part import Part
from ragcore.secret import Secret
from ragcore.tokens import TokenCounter
from ragcore.types import Kind
from ragcore.vectors import check_vectors

__all__ = ["OpenAIEmbedder"]

# (dimension, longest text in tokens); https://platform.openai.com/docs/guides/embeddings
KNOWN_MODELS = {
    "text-embedding-3-small": (1536, 8192),
    "text-embedding-3-large": (3072, 8192),
    "text-embedding-ada-002": (1536, 8192),
}
SHORTENABLE = ("text-embedding-3-small", "text-embedding-3-large")
MAX_TOKENS = 8192
# OpenAI takes 2,048 texts and 300,000 tokens a request; estimates may be off, so half of that.
MOST_TEXTS = 256
MOST_TOKENS = 150_000
BLAMES_A_TEXT = (400, 413, 422)


class OpenAIEmbedder(Part):
    """Embeds through an OpenAI-compatible `/embeddings`.

    Single questions that come at once share a request; documents go in batches bounded by texts and tokens; a batch that is refused is
    halved until the text at fault stands alone.

    Args:
        model: its name on the server.
        dimension: of its vectors; None: as OpenAI documents it. Fewer than the model's own shortens text-embedding-3 vectors.
        max_tokens: longest text; None: as documented, else 8,192.
        base_url: None: as the SDK finds it (OPENAI_BASE_URL).
        api_key: None: as the SDK finds it (OPENAI_API_KEY).
        client: the user's own `AsyncOpenAI`, with its headers, proxy and certificates; never closed.
        policy: None: 4 attempts of 5 s, 64 requests at once, a breaker.

    Raises:
        ConfigurationError: an unknown model without a dimension, or no key.
        EmbeddingError: the server failed, or answered with something that is not these embeddings.
    """

    def __init__(
        self,
        model: str,
        *,
        dimension: int | None = None,
        max_tokens: int | None = None,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        client: AsyncOpenAI | None = None,
        policy: Policy | None = None,
    ) -> None:
        known_dimension, known_tokens = KNOWN_MODELS.get(model, (None, MAX_TOKENS))
        if dimension is None and known_dimension is None:
            raise ConfigurationError(
                f"the dimension of {model!r} isn't known: pass OpenAIEmbedder({model!r}, dimension=…)"
            )
        self.model = model
        self.dimension = dimension or known_dimension or 0
        self.max_tokens = max_tokens or known_tokens
        self.policy = policy or Policy("embedding", attempt_timeout=5.0, retry=RetryPolicy(attempts=4))
        self._shorten = model in SHORTENABLE and self.dimension != known_dimension
        self._key = model if self.policy.has_default_breaker else None
        self._tokens = TokenCounter(model)
        self._client = OpenAIClient(api_key=api_key, base_url=base_url, client=client)
        self._coalescer = Coalescer(self._embed_questions, self._served)

    def count_tokens(self, text: str, /) -> int:
        """Tokens of `text`, exact once tiktoken's ranks are loaded, estimated until then."""
        return self._tokens.count(text)

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
        """(len(texts), dimension) float32 in the order of `texts`. See `Embedder.embed`."""
        owner = self._check_open()
        breaker = self.policy.breaker(self._key)
        if breaker is not None:
            breaker.check()  # before waiting for a shared request, not only when it goes out
        if kind == "query" and len(texts) == 1:
            return (await self._coalescer.embed(owner, texts[0]))[np.newaxis]
        parts = [await self._embed_or_halve(batch) for batch in self._batches(texts)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dimension), np.float32)

    def snapshot(self) -> Mapping[str, Any]:
        """How many questions were asked and how many requests they took."""
        return {"questions": self._coalescer.asked, "requests": self._coalescer.sent}

    async def _open(self) -> None:
        self._client.open()
        self._coalescer.open()

    async def _close(self) -> None:
        self._coalescer.close()
        await self._client.close()

    def _batches(self, texts: Sequence[str]) -> Iterator[Sequence[str]]:
        start = tokens = 0
        for number, text in enumerate(texts):
            length = self.count_tokens(text)
            if number > start and (number - start == MOST_TEXTS or tokens + length > MOST_TOKENS):
                yield texts[start:number]
                start, tokens = number, 0
            tokens += length
        if start < len(texts):
            yield texts[start:]

    def _served(self, flows: Sequence[str], began: float) -> None:
        breaker = self.policy.breaker(self._key)
        if breaker is not None:
            breaker.served(flows, began)

    async def _embed_questions(self, texts: Sequence[str], of_several: bool) -> Vector:
        return await self._embed_or_halve(texts, of_several=of_several)

    async def _embed_or_halve(self, texts: Sequence[str], *, of_several: bool = False) -> Vector:
        try:
            return await self._request(texts, of_several=of_several)
        except EmbeddingError as error:
            if len(texts) == 1 or error.status not in BLAMES_A_TEXT:
                raise
        half = len(texts) // 2
        return np.concatenate([await self._embed_or_halve(texts[:half]), await self._embed_or_halve(texts[half:])])

    async def _request(self, texts: Sequence[str], *, of_several: bool) -> Vector:
        attempts = 0

        async def attempt() -> Vector:
            nonlocal attempts
            attempts += 1
            options: dict[str, Any] = {"dimensions": self.dimension} if self._shorten else {}
            create: Any = (
                self._client.sdk.embeddings.with_streaming_response.create
            )  # read as bytes, not as its own types
            answer, _ = await read_json(
                create(model=self.model, input=list(texts), encoding_format="base64", **options)
            )
            try:
                return check_vectors(
                    _vectors(answer, len(texts)), count=len(texts), dimension=self.dimension, model=self.model
                )
            except EmbeddingError as error:
                raise Undecodable(str(error)) from error

        try:
            return await self.policy.call(attempt, key=self._key, on=_judge_of_several if of_several else judge)
        except Exception as error:
            ours = translate(
                error, EmbeddingError, dependency=f"the embedder {self.model}", stage="embed", attempts=attempts
            )
            if ours is error:
                raise
            raise ours from error


def _judge_of_several(error: Exception) -> Failure | None:
    """Of texts of several flows: that it failed may be one's own affair, so they are asked for again apart; a pause is everybody's."""
    failure = judge(error)
    if failure is None or not failure.counts:
        return failure
    return Failure(retry=False, counts=False)


def _vectors(answer: Mapping[str, Any], count: int) -> list[Vector]:
    """The vectors in the order of their index. A server may send numbers where base64 was asked for."""
    data = answer.get("data")
    if not isinstance(data, list) or len(data) != count:
        raise Undecodable(f"it sent {len(data) if isinstance(data, list) else 'no'} embeddings for {count} texts")
    vectors: dict[int, Vector] = {}
    for item in data:
        if not isinstance(item, dict) or not isinstance(item.get("index"), int):
            raise Undecodable("an embedding has no index")
        vectors[item["index"]] = _vector(item.get("embedding"))
    if sorted(vectors) != list(range(count)):
        raise Undecodable("the embeddings' indices are not those of the texts")
    return [vectors[index] for index in range(count)]


def _vector(embedding: object) -> Vector:
    try:
        if isinstance(embedding, str):
            return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4").astype(np.float32)
        return np.asarray(embedding, dtype=np.float32)
    except (binascii.Error, TypeError, ValueError):
        raise Undecodable("an embedding is neither numbers nor base64 of them") from None
