"""Embeddings from OpenAI, or from any server with the same protocol."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
from openai import AsyncOpenAI

from ragcore.embedding.coalescer import Coalescer
from ragcore.embedding.vectors import check_vectors
from ragcore.errors import ConfigurationError, EmbeddingError, InvalidInput
from ragcore.lifecycle.part import Part
from ragcore.protocols import Vector
from ragcore.resilience import Failure, Policy, RetryPolicy
from ragcore.text.tokens import TokenCounter, estimate_tokens
from ragcore.types import Kind
from ragcore.types.secret import Secret
from ragcore.wire.client import OpenAIClient
from ragcore.wire.dialect import MOST_CHANGES, Dialect, check_parameters
from ragcore.wire.failure import judge, translate
from ragcore.wire.refusal import ServerError, Undecodable, read_refusal

__all__ = ["OpenAIEmbedder"]

# (dimension, longest text in tokens); https://platform.openai.com/docs/guides/embeddings
KNOWN_MODELS = {
    "text-embedding-3-small": (1536, 8192),
    "text-embedding-3-large": (3072, 8192),
    "text-embedding-ada-002": (1536, 8192),
}
SHORTENABLE = ("text-embedding-3-small", "text-embedding-3-large")
MAX_TOKENS = 8192
# OpenAI accepts 2,048 texts and 300,000 tokens per request. Token counts may be estimates, so use half of these tokens.
MOST_TEXTS = 256
MOST_TOKENS = 150_000
BLAMES_A_TEXT = (400, 413, 422)
# A text that no server should refuse. If the server refuses it as well, it refuses every text.
HARMLESS = "text"
OWN = frozenset({"model", "input"})
# Limits for the size of a response: bytes in addition to the vectors, and bytes for each number in indented JSON.
BODY_BESIDES = 1024 * 1024
BYTES_PER_NUMBER = 64


class OpenAIEmbedder(Part):
    """Embeds through the `/embeddings` endpoint of OpenAI or a compatible server.

    Questions at the same time share a request. Documents are sent in batches that are limited by texts and tokens. If the server refuses a batch, the batch is
    halved until the refused text is alone.

    Args:
        model: the model's name on the server.
        dimension: number of dimensions of the vectors. None: as OpenAI documents it. For text-embedding-3, a smaller number shortens the vectors.
        max_tokens: length of the longest text in tokens. None: as OpenAI documents it; 8,192 for other models.
        base_url: URL of the server. None: the SDK's default (OPENAI_BASE_URL).
        api_key: key for the server. None: the SDK's default (OPENAI_API_KEY).
        client: your own `AsyncOpenAI`, with its headers, proxy and certificates. It is never closed.
        policy: rules for each request. None: 4 attempts of 5 s, 64 requests at once, a circuit breaker.
        query_prefix: text before each question, if the model needs one: "query: " for E5, "search_query: " for Nomic, an instruction for Qwen3.
        document_prefix: text before each chunk: "passage: " for E5, "search_document: " for Nomic. After a change, all documents are embedded again.
        encoding_format: "base64" or "float"; None: not sent. If the server refuses base64, later requests ask for floats.
        dimensions: whether to send `dimension` in the request. None: only to shorten vectors of text-embedding-3.
        parameters: parameters for each request, such as {"user": "ragcore"}. If the server refuses a parameter by name, later requests omit it.
        extra_body: parameters that are always sent, even if the server refuses them, such as {"truncate": "NONE"}.
        extra_headers: headers for each request.

    Raises:
        ConfigurationError: the model is unknown and has no `dimension`, there is no key, or a parameter has its own argument here.
        EmbeddingError: the server failed, or its response does not contain the requested embeddings.
    """

    # The coalescer sends equal questions once, so a cache need not join them.
    shares_equal_texts = True

    dimension: int
    query_prefix: str
    document_prefix: str
    max_tokens: int
    policy: Policy

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
        query_prefix: str = "",
        document_prefix: str = "",
        encoding_format: Literal["base64", "float"] | None = "base64",
        dimensions: bool | None = None,
        parameters: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> None:
        known_dimension, known_tokens = KNOWN_MODELS.get(model, (None, MAX_TOKENS))
        if dimension is None and known_dimension is None:
            raise ConfigurationError(
                f"the dimension of {model!r} isn't known: pass OpenAIEmbedder({model!r}, dimension=…)"
            )
        self.model = model
        self.dimension = dimension or known_dimension or 0
        self.query_prefix, self.document_prefix = query_prefix, document_prefix
        longest = max(query_prefix, document_prefix, key=len)
        self.max_tokens = (max_tokens or known_tokens) - (estimate_tokens(longest) if longest else 0)
        self.policy = policy or Policy("embedding", attempt_timeout=5.0, retry=RetryPolicy(attempts=4))
        shortens = model in SHORTENABLE and self.dimension != known_dimension
        self._parameters = {
            **({} if encoding_format is None else {"encoding_format": encoding_format}),
            **({"dimensions": self.dimension} if (shortens if dimensions is None else dimensions) else {}),
            **check_parameters(parameters, "parameters", own=OWN | {"encoding_format"}),
        }
        self._extra_body = check_parameters(extra_body, "extra_body", own=OWN)
        self._dialect = Dialect(model)
        if encoding_format == "base64":
            self._dialect.try_values("encoding_format", ("base64", "float"))
        self._has_served = False
        self._key = model if self.policy.has_default_breaker else None
        self._tokens = TokenCounter(model)
        self._client = OpenAIClient(api_key=api_key, base_url=base_url, client=client, headers=extra_headers)
        self._coalescer = Coalescer(self._embed_questions, self._served)

    def count_tokens(self, text: str, /) -> int:
        """Return the number of tokens of `text`. It is an estimate until tiktoken's ranks are loaded, and exact from then on."""
        return self._tokens.count(text)

    @property
    def server(self) -> tuple[str, int] | None:
        """The host and the port of the server; None if they aren't known yet."""
        return self._client.server

    def wait_for_tokenizer(self, seconds: float) -> bool:
        """Block for at most `seconds`, until tiktoken's ranks are loaded or could not be loaded.

        Return whether counts are exact. Don't call this method on the event loop.
        """
        return self._tokens.wait(seconds)

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
        """Return a (len(texts), dimension) float32 array in the order of `texts`. See `Embedder.embed`."""
        owner = self._check_open()
        if isinstance(texts, str):
            raise InvalidInput("texts is a single str: pass a list")
        breaker = self.policy.breaker(self._key)
        if breaker is not None:
            breaker.check()  # check before the wait for a shared request; the breaker is checked again when the request is sent
        prefix = self.query_prefix if kind == "query" else self.document_prefix
        if prefix:
            texts = [prefix + text for text in texts]
        if kind == "query" and len(texts) == 1:
            return (await self._coalescer.embed(owner, texts[0]))[np.newaxis]
        parts = [await self._embed_or_halve(batch) for batch in self._batches(texts)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dimension), np.float32)

    def snapshot(self) -> Mapping[str, Any]:
        """Return the number of questions and the number of requests for them."""
        return {"questions": self._coalescer.asked, "requests": self._coalescer.sent}

    async def _open(self) -> None:
        await self._client.open()
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
        """Return the vectors. If the server refuses a batch, halve it until the refused text is alone."""
        try:
            return await self._request(texts, of_several=of_several)
        except EmbeddingError as error:
            cause = error.__cause__
            if not isinstance(cause, ServerError) or cause.is_of_configuration:
                raise
            if error.status not in BLAMES_A_TEXT and not cause.is_too_long:
                raise
            if len(texts) == 1 or error.of_configuration:
                raise
            if not await self._takes_any(error):
                error.of_configuration = True
                raise
        half = len(texts) // 2
        return np.concatenate([await self._embed_or_halve(texts[:half]), await self._embed_or_halve(texts[half:])])

    async def _takes_any(self, error: EmbeddingError) -> bool:
        """Return whether the server accepts every text. If not, the configuration is at fault, and halving would only repeat the refusal."""
        if self._has_served or cast("ServerError", error.__cause__).is_too_long:
            return True
        try:
            await self._request([HARMLESS], of_several=True)
        except EmbeddingError as other:
            return other.status != error.status
        return True

    async def _request(self, texts: Sequence[str], *, of_several: bool) -> Vector:
        attempts = 0

        async def attempt() -> Vector:
            nonlocal attempts
            attempts += 1
            return await self._ask(texts)

        try:
            return await self.policy.call(attempt, key=self._key, on=_judge_of_several if of_several else judge)
        except Exception as error:
            ours = translate(
                error, EmbeddingError, dependency=f"the embedder {self.model}", stage="embed", attempts=attempts
            )
            if ours is error:
                raise
            raise ours from error

    async def _ask(self, texts: Sequence[str]) -> Vector:
        """Send a request. If the server refuses a parameter, send it again without that parameter."""
        for _ in range(MOST_CHANGES):
            spoken = self._dialect.adapt(self._parameters)
            body = {"model": self.model, "input": list(texts), **spoken, **self._extra_body}
            try:
                most = BODY_BESIDES + len(texts) * self.dimension * BYTES_PER_NUMBER
                answer = await self._post(json.dumps(body, ensure_ascii=False).encode(errors="replace"), most)
            except ServerError as error:
                if not self._dialect.learn(error, spoken):
                    raise
                continue
            try:
                vectors = check_vectors(
                    _vectors(answer, len(texts)), count=len(texts), dimension=self.dimension, model=self.model
                )
            except EmbeddingError as error:
                raise Undecodable(str(error)) from error
            self._has_served = True
            return vectors
        raise Undecodable("it refused another parameter after each change: check the option 'parameters'")

    async def _post(self, body: bytes, most: int) -> Mapping[str, Any]:
        answer, headers = await self._client.ask("/embeddings", body, model=self.model, most=most)
        if not (isinstance(answer, dict) and isinstance(answer.get("data"), list)):
            refusal = read_refusal(
                answer, status=None, headers=headers, unsaid=self._client.unsaid(body), in_answer=True
            )
            if refusal is not None and refusal.said:
                raise refusal
        if not isinstance(answer, dict):
            raise Undecodable(f"its answer is {type(answer).__name__}, not an object")
        return answer


def _judge_of_several(error: Exception) -> Failure | None:
    """Judge the failure of a request for several flows.

    One flow's text may be the cause, so the failure does not count and is not retried: the texts are sent again in halves. A failure that never counts, such
    as a 429, keeps its judgement, so a pause applies to all flows.
    """
    failure = judge(error)
    if failure is None or not failure.counts:
        return failure
    return Failure(retry=False, counts=False)


def _vectors(answer: Mapping[str, Any], count: int) -> list[Vector]:
    """Return the vectors by their index, or in the order of the list if the indices are missing or all 0. Each may be numbers or base64."""
    data = answer.get("data")
    if not isinstance(data, list) or len(data) != count:
        raise Undecodable(f"it sent {len(data) if isinstance(data, list) else 'no'} embeddings for {count} texts")
    if not all(isinstance(item, dict) for item in data):
        raise Undecodable("an embedding is not an object")
    vectors = [_vector(item.get("embedding")) for item in data]
    indices = [item.get("index") for item in data]
    if not all(isinstance(index, int) for index in indices) or (count > 1 and set(indices) == {0}):
        return vectors
    if sorted(indices) != list(range(count)):
        raise Undecodable("the indices of the embeddings do not match the texts")
    return [vector for _, vector in sorted(zip(indices, vectors, strict=True), key=lambda pair: pair[0])]


def _vector(embedding: object) -> Vector:
    try:
        if isinstance(embedding, str):
            return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4").astype(np.float32)
        return np.asarray(embedding, dtype=np.float32)
    except (binascii.Error, TypeError, ValueError, OverflowError):
        raise Undecodable("an embedding is neither numbers nor base64") from None
