"""Reranking by a server with a `/rerank` endpoint: Cohere, Jina, Voyage, vLLM, or Text Embeddings Inference (TEI) of Hugging Face."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ragcore.errors import ConfigurationError, InvalidInput, RerankingError
from ragcore.lifecycle.part import Part
from ragcore.resilience import Policy, RetryPolicy
from ragcore.retrieval.reranking.apis import RERANK_APIS, SHAPES, RerankAPI, Shape
from ragcore.types.secret import Secret
from ragcore.wire.client import OpenAIClient
from ragcore.wire.dialect import MOST_CHANGES, Dialect, check_parameters
from ragcore.wire.failure import judge, translate
from ragcore.wire.refusal import ServerError, Undecodable, read_refusal

__all__ = ["HTTPReranker"]

KEY_NAME = "RAGCORE_RERANK_API_KEY"
# A key of this value means that the server needs none.
NO_KEY = "none"
# These limit the size of a response, besides the texts. Some servers repeat the texts, in which JSON may write a character as 6 or 12 bytes.
BODY_BESIDES = 64 * 1024
BYTES_PER_RESULT = 512
BYTES_PER_CHARACTER = 12
# The fields of a request that ragcore sets itself.
OWN = frozenset({"model", "query", "documents", "texts", "top_n", "top_k"})


class HTTPReranker(Part):
    """Reranks through the `/rerank` endpoint of a server.

    Args:
        model: the model's name on the server. A TEI server has one model, so there it is only a name for messages.
        api: whose API the server has: "cohere", "jina", "voyage", "vllm" or "tei". Many other servers have that of Jina.
        base_url: URL of the server, to which "/rerank" is added. None: the public address of Cohere, Jina or Voyage.
        api_key: key for the server, sent as a bearer token. None: the server needs no key; the public addresses need one.
        policy: rules for each request. None: 2 attempts of 5 s, 64 requests at once, a circuit breaker.
        max_characters: a question or a text is cut at this length before it is sent. Default 4,000, about 1,000 tokens of English, which is more than
            a chunk has by default. It limits the costs, and the size of a request.
        batch: largest number of texts in a request; more are sent in several requests, one after the other. None: 32 for TEI, 1,000 for the others.
        parameters: parameters for each request, such as {"max_tokens_per_doc": 512} for Cohere or {"truncate_prompt_tokens": 512} for vLLM. If the
            server refuses a parameter by name, later requests omit it.
        extra_headers: headers for each request.

    Raises:
        ConfigurationError: `api` is unknown, or the base URL or the key is missing, or a number is not positive.
        RerankingError: the server failed, or its response does not have one score for each text.
    """

    model: str
    policy: Policy

    def __init__(
        self,
        model: str,
        *,
        api: RerankAPI,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        policy: Policy | None = None,
        max_characters: int = 4_000,
        batch: int | None = None,
        parameters: Mapping[str, Any] | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> None:
        if api not in RERANK_APIS:
            raise ConfigurationError(f"api is {api!r}: it must be one of {', '.join(RERANK_APIS)}")
        shape = SHAPES[api]
        if base_url is None and shape.base_url is None:
            raise ConfigurationError(f"the address of the {api} server is missing: pass base_url=")
        if base_url is None and api_key is None:
            raise ConfigurationError(f"no API key for {shape.base_url}: pass api_key=, or set {KEY_NAME}")
        for name, number in (
            ("max_characters", max_characters),
            ("batch", shape.most_texts if batch is None else batch),
        ):
            if not (isinstance(number, int) and number >= 1):
                raise ConfigurationError(f"{name} is {number!r}: it must be a whole number, at least 1")
        self.model = model
        self.policy = policy or Policy("reranking", attempt_timeout=5.0, retry=RetryPolicy(attempts=2))
        self._shape = shape
        self._max_characters = max_characters
        self._batch = batch or shape.most_texts
        self._parameters = {**shape.parameters, **check_parameters(parameters, "parameters", own=OWN)}
        self._dialect = Dialect(model)
        self._key = model if self.policy.has_default_breaker else None
        # Without this value, the SDK would send the key in OPENAI_API_KEY to this server.
        self._client = OpenAIClient(
            api_key=NO_KEY if api_key is None else api_key,
            base_url=base_url or shape.base_url,
            client=None,
            headers=extra_headers,
            key_name=KEY_NAME,
        )
        self._requests = self._texts = self._tokens = self._search_units = 0

    @property
    def server(self) -> tuple[str, int] | None:
        """The host and the port of the server; None if they aren't known yet."""
        return self._client.server

    async def rerank(self, question: str, texts: Sequence[str], /) -> list[float]:
        """Return the relevance of each text, in the order of `texts`. See `Reranker.rerank`."""
        self._check_open()
        if isinstance(texts, str):
            raise InvalidInput("texts is a single str: pass a list")
        asked = question[: self._max_characters]
        cut = [text[: self._max_characters] for text in texts]
        scores: list[float] = []
        for start in range(0, len(cut), self._batch):
            scores += await self._request(asked, cut[start : start + self._batch])
        return scores

    def snapshot(self) -> Mapping[str, Any]:
        """Return the number of requests and of reranked texts, and the usage that the server reported: tokens, and Cohere's search units."""
        return {
            "requests": self._requests,
            "texts": self._texts,
            "tokens": self._tokens,
            "search_units": self._search_units,
        }

    async def _open(self) -> None:
        await self._client.open()

    async def _close(self) -> None:
        await self._client.close()

    async def _request(self, question: str, texts: Sequence[str]) -> list[float]:
        attempts = 0

        async def attempt() -> list[float]:
            nonlocal attempts
            attempts += 1
            return await self._ask(question, texts)

        try:
            return await self.policy.call(attempt, key=self._key, on=judge)
        except Exception as error:
            ours = translate(
                error,
                RerankingError,
                dependency=f"the reranker {self.model}",
                stage="rerank",
                attempts=attempts,
                key_name=KEY_NAME,
                limits="max_characters or batch",
            )
            if ours is error:
                raise
            raise ours from error

    async def _ask(self, question: str, texts: Sequence[str]) -> list[float]:
        """Send a request. If the server refuses a parameter, send it again without that parameter."""
        most = BODY_BESIDES + sum(BYTES_PER_RESULT + BYTES_PER_CHARACTER * len(text) for text in texts)
        model = {"model": self.model} if self._shape.names_model else {}
        for _ in range(MOST_CHANGES):
            spoken = self._dialect.adapt(self._parameters)
            asked = {**model, "query": question, self._shape.texts: list(texts), **spoken}
            body = json.dumps(asked, ensure_ascii=False).encode(errors="replace")
            try:
                answer, headers = await self._client.ask("/rerank", body, model=self.model, most=most)
                results = _results(answer, self._shape)
                if results is None:
                    refusal = read_refusal(
                        answer, status=None, headers=headers, unsaid=self._client.unsaid(body), in_answer=True
                    )
                    if refusal is not None and refusal.said:
                        raise refusal
                    raise Undecodable("its answer has no list of results: is `api` the server's API?")
            except ServerError as error:
                if not self._dialect.learn(error, spoken):
                    raise
                continue
            scores = _scores(results, self._shape.score, len(texts))
            self._count(answer, len(texts))
            return scores
        raise Undecodable("it refused another parameter after each change: check the option 'parameters'")

    def _count(self, answer: object, texts: int) -> None:
        self._requests += 1
        self._texts += texts
        self._tokens += _number(answer, "usage", "total_tokens") or _number(
            answer, "meta", "billed_units", "total_tokens"
        )
        self._search_units += _number(answer, "meta", "billed_units", "search_units")


def _results(answer: object, shape: Shape) -> list[Any] | None:
    """Return the list of results; None if there is none."""
    found = answer if not shape.results else answer.get(shape.results) if isinstance(answer, dict) else None
    return found if isinstance(found, list) else None


def _scores(results: list[Any], name: str, count: int) -> list[float]:
    """Return the scores in the order of the texts. The results have the order of their scores.

    Raises:
        Undecodable: a text has no score or two, or a score is not a finite number.
    """
    if len(results) != count:
        raise Undecodable(f"it sent {len(results)} results for {count} texts")
    scores: dict[int, float] = {}
    for one in results:
        if not isinstance(one, dict):
            raise Undecodable("a result is not an object")
        index, score = one.get("index"), one.get(name)
        # True and False are instances of int.
        if type(index) is not int or not 0 <= index < count or index in scores:
            raise Undecodable("the indices of the results do not match the texts")
        if type(score) not in (int, float) or not math.isfinite(number := _float(score)):
            raise Undecodable(f"the field {name!r} of a result is not a finite number")
        scores[index] = number
    return [scores[number] for number in range(count)]


def _float(value: Any) -> float:
    """Return a number as a float; NaN for an int that is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _number(answer: object, *names: str) -> int:
    """Return the whole number at the end of a path of names; 0 if there is none."""
    for name in names:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer if type(answer) is int and answer >= 0 else 0
