"""The HTTP reranker, over real sockets, with a test server that speaks each API and can fail in every way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from tests.wire.serving import Scripted
from tests.wire.shapes import Reply

from ragcore import (
    CircuitOpen,
    ConfigurationError,
    Found,
    HTTPReranker,
    NotOpen,
    Passage,
    Query,
    RerankedSearcher,
    RerankingError,
    Secret,
)
from ragcore.resilience import CircuitBreaker, Policy, RetryPolicy, deadline
from ragcore.retrieval.reranking.apis import RERANK_APIS, RerankAPI
from ragcore.testing import (
    Bomb,
    Corrupt,
    Crumbs,
    Drip,
    Endless,
    Fail,
    Fault,
    FaultProxy,
    Hang,
    Huge,
    OpenAIServer,
    Redirect,
    Refuse,
    Reset,
    Silent,
    Stall,
)
from ragcore.testing import Reply as Answer
from ragcore.testing.server import _bomb

pytestmark = pytest.mark.anyio


TEXTS = ["The cat sleeps.", "The warranty is two years.", "A warranty."]
QUESTION = "How long is the warranty?"
SCORES = [0.01, 0.97, 0.4]
QUICK = RetryPolicy(attempts=3, backoff=0.0, max_backoff=0.01)

# The answers of each API to three texts, best first, as its documentation shows them.
ANSWERS: dict[RerankAPI, object] = {
    "cohere": {
        "id": "07734bd2-2473-4f07-94e1-0d9f0e6843cf",
        "results": [
            {"index": 1, "relevance_score": 0.97},
            {"index": 2, "relevance_score": 0.4},
            {"index": 0, "relevance_score": 0.01},
        ],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    },
    "jina": {
        "model": "jina-reranker-v2-base-multilingual",
        "object": "list",
        "usage": {"total_tokens": 815},
        "results": [
            {"index": 1, "document": {"text": "The warranty is two years."}, "relevance_score": 0.97},
            {"index": 2, "relevance_score": 0.4},
            {"index": 0, "relevance_score": 0.01},
        ],
    },
    "voyage": {
        "object": "list",
        "data": [
            {"relevance_score": 0.97, "index": 1},
            {"relevance_score": 0.4, "index": 2},
            {"relevance_score": 0.01, "index": 0},
        ],
        "model": "rerank-2.5",
        "usage": {"total_tokens": 26},
    },
    "vllm": {
        "id": "rerank-fae51b2b664d4ed38f5969b612edff77",
        "model": "BAAI/bge-reranker-base",
        "usage": {"prompt_tokens": 56, "total_tokens": 56},
        "results": [
            {"index": 1, "document": {"text": "…", "multi_modal": None}, "relevance_score": 0.97},
            {"index": 2, "document": {"text": "…", "multi_modal": None}, "relevance_score": 0.4},
            {"index": 0, "document": {"text": "…", "multi_modal": None}, "relevance_score": 0.01},
        ],
    },
    "tei": [{"index": 1, "score": 0.97}, {"index": 2, "score": 0.4}, {"index": 0, "score": 0.01}],
}
SENT: dict[RerankAPI, dict[str, object]] = {
    "cohere": {"model": "m", "query": QUESTION, "documents": TEXTS},
    "jina": {"model": "m", "query": QUESTION, "documents": TEXTS, "return_documents": False},
    "voyage": {"model": "m", "query": QUESTION, "documents": TEXTS, "truncation": True},
    "vllm": {"model": "m", "query": QUESTION, "documents": TEXTS},
    "tei": {"query": QUESTION, "texts": TEXTS, "truncate": True},
}
USAGE: dict[RerankAPI, tuple[int, int]] = {
    "cohere": (0, 1), "jina": (815, 0), "voyage": (26, 0), "vllm": (56, 0), "tei": (0, 0),
}  # fmt: skip


def answering(*bodies: object, status: int = 200, **headers: str) -> Scripted:
    raw = [body if isinstance(body, bytes) else json.dumps(body).encode() for body in bodies]
    kind = {"content-type": "application/json", **headers}
    return Scripted([Reply(body=body, status=status, headers=kind) for body in raw])


def patient(**options: Any) -> Policy:
    """A policy that retries quickly and whose breaker never opens."""
    return Policy("reranking", retry=QUICK, breaker=CircuitBreaker(minimum_throughput=1_000), **options)


@pytest.mark.parametrize("api", RERANK_APIS)
async def test_each_api_is_spoken_as_it_is_documented(api: RerankAPI) -> None:
    async with answering(ANSWERS[api]) as server:
        async with HTTPReranker("m", api=api, base_url=server.base_url, api_key="key-123") as reranker:
            assert await reranker.rerank(QUESTION, TEXTS) == SCORES
            counted = reranker.snapshot()
    assert server.requests == [SENT[api]]
    assert server.heads[0].startswith("POST /v1/rerank HTTP/1.1")
    assert "authorization: bearer key-123" in server.heads[0].lower()
    assert (counted["tokens"], counted["search_units"]) == USAGE[api]
    assert (counted["requests"], counted["texts"]) == (1, 3)


async def test_without_a_key_no_key_of_openai_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    async with answering(ANSWERS["tei"]) as server:
        async with HTTPReranker("m", api="tei", base_url=server.base_url) as reranker:
            await reranker.rerank(QUESTION, TEXTS)
    assert "sk-of-openai" not in server.heads[0]


async def test_more_texts_than_a_server_takes_are_sent_in_several_requests() -> None:
    bodies = [[{"index": n, "score": n / 100} for n in range(count)] for count in (32, 8)]
    async with answering(*bodies) as server:
        async with HTTPReranker("m", api="tei", base_url=server.base_url) as reranker:
            scores = await reranker.rerank("q", [f"text {n}" for n in range(40)])
            assert await reranker.rerank("q", []) == []
    assert [len(request["texts"]) for request in server.requests] == [32, 8]
    assert scores == [n / 100 for n in (*range(32), *range(8))]


async def test_long_texts_are_cut_before_they_are_sent() -> None:
    async with answering([{"index": 0, "score": 1}]) as server:
        async with HTTPReranker("m", api="tei", base_url=server.base_url, max_characters=10) as reranker:
            await reranker.rerank("q" * 50, ["é" * 50])
    assert server.requests[0]["query"] == "q" * 10
    assert server.requests[0]["texts"] == ["é" * 10]


async def test_parameters_and_headers_are_sent() -> None:
    async with answering(ANSWERS["cohere"]) as server:
        async with HTTPReranker(
            "m",
            api="cohere",
            base_url=server.base_url,
            api_key=Secret("k"),
            parameters={"max_tokens_per_doc": 512},
            extra_headers={"X-Client-Name": "shop"},
        ) as reranker:
            await reranker.rerank(QUESTION, TEXTS)
    assert server.requests[0]["max_tokens_per_doc"] == 512
    assert "x-client-name: shop" in server.heads[0].lower()


async def test_a_refused_parameter_is_omitted_from_then_on(openai_server: OpenAIServer) -> None:
    openai_server.faults.always(Refuse("return_documents"))
    async with reranker_of(openai_server) as reranker:
        await reranker.rerank(QUESTION, TEXTS)
        await reranker.rerank(QUESTION, TEXTS)
    assert ["return_documents" in body for _, body in openai_server.requests] == [True, False, False]


def result(index: object = 0, score: object = 0.5) -> dict[str, object]:
    return {"index": index, "relevance_score": score}


GOOD = [result(0), result(1), result(2)]
RUBBISH: list[tuple[object, str]] = [
    (b"", "not JSON"),
    (b"<!doctype html><html>Welcome</html>", "page of HTML"),
    (b'{"results": [', "not JSON"),
    (b"[" * 60_000, "not JSON"),
    (b'{"results": ' + b"9" * 6_000 + b"}", "not JSON"),
    (b"\xff\xfe\x00", "not JSON"),
    (b"null", "no list of results"),
    ([], "no list of results"),
    ({}, "no list of results"),
    ({"results": None}, "no list of results"),
    ({"results": {"0": 1}}, "no list of results"),
    ({"data": GOOD}, "no list of results"),
    ({"results": []}, "0 results for 3 texts"),
    ({"results": GOOD[:2]}, "2 results for 3 texts"),
    ({"results": [*GOOD, result(3)]}, "4 results for 3 texts"),
    ({"results": [result(0), result(1), result(1)]}, "indices"),
    ({"results": [result(0), result(1), result(3)]}, "indices"),
    ({"results": [result(0), result(1), result(-1)]}, "indices"),
    ({"results": [result(0), result(1), result(2.0)]}, "indices"),
    ({"results": [result(0), result(True), result(2)]}, "indices"),
    ({"results": [result(0), result("1"), result(2)]}, "indices"),
    ({"results": [{"relevance_score": 1.0}] * 3}, "indices"),
    ({"results": [result(0), result(1), result(2, None)]}, "not a finite number"),
    ({"results": [result(0), result(1), {"index": 2}]}, "not a finite number"),
    ({"results": [result(0), result(1), {"index": 2, "score": 0.5}]}, "not a finite number"),
    ({"results": [result(0), result(1), result(2, "0.5")]}, "not a finite number"),
    ({"results": [result(0), result(1), result(2, True)]}, "not a finite number"),
    ({"results": [result(0), result(1), result(2, [0.5])]}, "not a finite number"),
    ({"results": [result(0), result(1), result(2, 10**400)]}, "not a finite number"),
    ({"results": [result(0), result(1), result(2, float("nan"))]}, "not a finite number"),
    ({"results": [result(0), result(1), result(2, float("inf"))]}, "not a finite number"),
    ({"results": [0.1, 0.2, 0.3]}, "not an object"),
    ({"error": {"message": "the engine has failed", "code": 500}}, "the engine has failed"),
    ({"detail": "no reranker loaded"}, "no reranker loaded"),
]


@pytest.mark.parametrize(("body", "said"), RUBBISH, ids=range(len(RUBBISH)))
async def test_an_invalid_response_with_status_200_is_an_error_that_counts(body: object, said: str) -> None:
    policy = Policy(retry=RetryPolicy(attempts=2, backoff=0, max_backoff=0))
    async with answering(body) as server:
        async with HTTPReranker("m", api="jina", base_url=server.base_url, policy=policy) as reranker:
            with pytest.raises(RerankingError, match=said) as caught:
                await reranker.rerank(QUESTION, TEXTS)
    assert (caught.value.stage, caught.value.dependency) == ("rerank", "the reranker m")
    assert policy.snapshot()["keys"]["m"]["failure"] == len(server.requests) == 2


async def test_a_body_that_is_too_large_is_not_read() -> None:
    big = {"results": GOOD, "padding": "x" * 3_000_000}
    async with answering(big) as server:
        async with HTTPReranker("m", api="jina", base_url=server.base_url, policy=patient()) as reranker:
            with pytest.raises(RerankingError, match="larger than"):
                await reranker.rerank(QUESTION, TEXTS)


async def test_a_server_that_repeats_all_texts_is_understood() -> None:
    texts = ["\u00fc" * 4_000] * 50
    results = [{"index": n, "relevance_score": 0.5, "document": {"text": text}} for n, text in enumerate(texts)]
    async with answering({"results": results}) as server:
        async with HTTPReranker("m", api="vllm", base_url=server.base_url) as reranker:
            assert await reranker.rerank(QUESTION, texts) == [0.5] * 50


@asynccontextmanager
async def reranker_of(server: OpenAIServer | FaultProxy, **options: Any) -> AsyncIterator[HTTPReranker]:
    options.setdefault("policy", patient())
    address = server.base_url if isinstance(server, OpenAIServer) else f"http://127.0.0.1:{server.port}/v1"
    async with HTTPReranker("fake", api="jina", base_url=address, api_key=Secret("sk-canary-1234"), **options) as made:
        yield made


@pytest.mark.parametrize(
    ("status", "attempts", "said"),
    [
        (400, 1, r"refused the request \(400\)"),
        (401, 1, r"refused the API key \(401\): check RAGCORE_RERANK_API_KEY"),
        (403, 1, "RAGCORE_RERANK_API_KEY"),
        (404, 1, "does not know the model"),
        (413, 1, r"\(413\)"),
        (422, 1, r"\(422\)"),
        (429, 3, r"rate of requests \(429\)"),
        (500, 3, "failed with status 500"),
        (503, 3, "failed with status 503"),
    ],
)
async def test_statuses_are_retried_only_where_that_may_help(
    openai_server: OpenAIServer, status: int, attempts: int, said: str
) -> None:
    openai_server.faults.always(Fail(status))
    async with reranker_of(openai_server) as reranker:
        with pytest.raises(RerankingError, match=said) as caught:
            await reranker.rerank(QUESTION, TEXTS)
    assert (caught.value.status, caught.value.attempts) == (status, attempts)
    assert "sk-canary" not in str(caught.value)


async def test_a_pause_that_the_server_asks_for_is_kept(openai_server: OpenAIServer) -> None:
    openai_server.faults.next(Fail(429, {"retry-after": "60"}))
    async with reranker_of(openai_server) as reranker:
        with deadline(5), pytest.raises((RerankingError, CircuitOpen)) as caught:
            await reranker.rerank(QUESTION, TEXTS)
        assert caught.value.retry_after == pytest.approx(60, abs=2)
        with deadline(5), pytest.raises(CircuitOpen):
            await reranker.rerank(QUESTION, TEXTS)
    assert (
        len(openai_server.requests) == 0
    )  # the fault came before the request was recorded, and nothing was sent afterwards


async def test_a_failed_attempt_is_repeated(openai_server: OpenAIServer) -> None:
    openai_server.faults.next(Fail(503), Fail(OSError()), None)
    async with reranker_of(openai_server) as reranker:
        scores = await reranker.rerank(QUESTION, TEXTS)
    assert max(scores) == scores[1]


async def test_the_servers_message_is_repeated_without_the_texts() -> None:
    message = "the document 'The warranty is two years.' has no language that 'How long is the warranty?' has"
    for api, body in (("cohere", {"message": message}), ("voyage", {"detail": message}), ("tei", {"error": message})):
        async with answering(body, status=400) as server:
            async with HTTPReranker("m", api=api, base_url=server.base_url, api_key="k") as reranker:  # type: ignore[arg-type]
                with pytest.raises(RerankingError, match=r"the document '\[quoted\].?' has no language") as caught:
                    await reranker.rerank(QUESTION, TEXTS)
        assert "two years" not in str(caught.value)
        assert "How long" not in str(caught.value)


async def test_a_batch_that_is_too_large_names_the_setting() -> None:
    error = {"error": "batch size 50 > maximum allowed batch size 32", "error_type": "Validation"}
    async with answering(error, status=422) as server:
        async with HTTPReranker("m", api="tei", base_url=server.base_url, batch=64) as reranker:
            with pytest.raises(RerankingError, match="batch size 50 > maximum"):
                await reranker.rerank("q", ["a"] * 50)


async def test_a_server_that_refuses_connections_is_named(unused_port: int) -> None:
    address = f"http://127.0.0.1:{unused_port}"
    async with HTTPReranker("m", api="tei", base_url=address, policy=patient()) as reranker:
        with pytest.raises(RerankingError, match="can't be reached"):
            await reranker.rerank(QUESTION, TEXTS)


@pytest.fixture
async def unused_port(anyio_backend: str) -> int:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port)
    await listener.aclose()
    return port


SERVED: dict[str, Fault] = {
    "500": Fail(500),
    "529": Fail(529),
    "429 for an hour": Fail(429, {"retry-after": "3600"}),
    "hangs": Hang(),
    "silent": Silent(),
    "disconnect": Fail(OSError()),
    "100 MB": Huge(),
    "bomb": Bomb(),
    "bombed error": Bomb(500),
    "endless error": Endless(),
    "crumbs": Crumbs(),
    "redirect loop": Redirect(),
    "another server": Redirect("http://127.0.0.2:9/v1"),
    "HTML": Answer(200, b"<html></html>", {"content-type": "text/html"}),
    **{f"corrupt {what}": Corrupt(what) for what in ("dimension", "nan", "zero", "base64", "count")},
}
WIRED: dict[str, Fault] = {
    "never answers": Hang(),
    "reset at connect": Reset("connect"),
    "reset in mid-answer": Reset("answer", 20),
    "stall": Stall(20),
    "one byte a second": Drip(1.0),
}


async def searched(server: OpenAIServer | FaultProxy) -> Found:
    """Search with a reranker at this address, within a deadline. If the search waited for the whole time of a bad server, the deadline would fail it."""
    passages = [Passage(text, text, text) for text in TEXTS]

    class Plain:
        async def search(self, query: Query, /) -> list[Passage]:
            return passages

    query = Query(question=QUESTION, tenant="t", mode="text", top_k=2)
    async with reranker_of(server) as reranker, RerankedSearcher(Plain(), reranker) as searcher:
        with deadline(1.5):
            found = await searcher.search(query)
    assert isinstance(found, Found)
    return found


@pytest.mark.parametrize("fault", SERVED.values(), ids=SERVED)
async def test_a_search_never_waits_for_a_bad_server(openai_server: OpenAIServer, fault: Fault) -> None:
    openai_server.faults.always(fault)
    if isinstance(fault, Bomb):
        # The server packs a bomb once, which takes seconds on a busy machine: that is not the search's time.
        _bomb(fault.encoding, fault.size)
    found = await searched(openai_server)
    assert [passage.text for passage in found] == TEXTS[:2]
    assert [part.stage for part in found.degraded] == ["rerank"]
    openai_server.faults.always(None)
    found = await searched(openai_server)
    assert (found.degraded, found[0].text) == ((), TEXTS[1])


@pytest.mark.parametrize("fault", WIRED.values(), ids=WIRED)
async def test_a_search_never_waits_for_a_bad_connection(openai_server: OpenAIServer, fault: Fault) -> None:
    async with FaultProxy("127.0.0.1", openai_server.port) as proxy:
        found = await searched(proxy)
        assert (found.degraded, found[0].text) == ((), TEXTS[1])
        proxy.faults.always(fault)
        found = await searched(proxy)
    assert [passage.text for passage in found] == TEXTS[:2]
    assert [part.stage for part in found.degraded] == ["rerank"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: HTTPReranker("m", api="other"), "api is 'other': it must be one of cohere, jina"),  # type: ignore[arg-type]
        (lambda: HTTPReranker("m", api="tei"), "address of the tei server is missing"),
        (lambda: HTTPReranker("m", api="vllm"), "address of the vllm server is missing"),
        (lambda: HTTPReranker("m", api="cohere"), "no API key for https://api.cohere.com/v2.*RAGCORE_RERANK_API_KEY"),
        (lambda: HTTPReranker("m", api="cohere", api_key="k\n€"), "check RAGCORE_RERANK_API_KEY"),
        (lambda: HTTPReranker("m", api="jina", api_key="k", batch=0), "batch is 0"),
        (lambda: HTTPReranker("m", api="jina", api_key="k", max_characters=0), "max_characters is 0"),
        (lambda: HTTPReranker("m", api="jina", api_key="k", parameters={"query": "x"}), "which ragcore sets itself"),
    ],
)
def test_a_wrong_configuration_is_refused_at_once(make: Callable[[], HTTPReranker], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make()


async def test_it_must_be_open() -> None:
    with pytest.raises(NotOpen):
        await HTTPReranker("m", api="jina", api_key="k").rerank("q", ["a"])
