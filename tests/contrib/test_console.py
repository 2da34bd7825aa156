"""The console's page and its routes, over plain ASGI. tests/system/test_console.py drives the page in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from ragcore import RAG, Document, Settings
from ragcore.contrib import asgi
from ragcore.testing import FakeGenerator, Hang, fake_rag

from .test_asgi import Client, authenticate

pytestmark = pytest.mark.anyio

JSON = {"content_type": "application/json"}
QUESTION = {"message": "deductible?", "tenant": "m"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(rag: RAG) -> Client:
    await rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
    return Client(asgi.app(rag, authenticate=authenticate))


def policy(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the directives of the content security policy."""
    directives = (one.strip().partition(" ") for one in headers["content-security-policy"].split(";"))
    return {name: sources for name, _, sources in directives}


async def test_the_page_is_the_same_for_every_caller_and_no_cache_stores_it(client: Client) -> None:
    seen = set()
    for headers in ({}, {"x_user": "m"}, {"x_user": "root!"}, {"x_forwarded_host": "<script>", "host": "<script>"}):
        status, got, body = await client("GET", "/debug/console", query="x=<script>", **headers)
        assert (status, got["content-type"], got["cache-control"]) == (200, "text/html; charset=utf-8", "no-store")
        seen.add(body)
    assert len(seen) == 1
    assert (await client("GET", "/debug/console/"))[2] in seen
    status, got, body = await client("HEAD", "/debug/console")
    assert (status, body, int(got["content-length"])) == (200, b"", len(seen.pop()))
    assert (await client("POST", "/debug/console"))[0] == 405


async def test_the_policy_allows_the_pages_own_script_and_style_only(client: Client) -> None:
    _, headers, body = await client("GET", "/debug/console")
    page, allowed = body.decode(), policy(headers)
    for element in ("script", "style"):
        (content,) = re.findall(rf"<{element}[^>]*>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert allowed[f"{element}-src"] == f"'sha256-{digest}'"
    assert {name: allowed[name] for name in ("default-src", "connect-src", "frame-ancestors", "base-uri", "form-action")} == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }  # fmt: skip
    assert allowed["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in headers["content-security-policy"]
    assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")
    assert headers["referrer-policy"] == "no-referrer"


async def test_the_page_names_no_other_host_and_neither_parses_nor_stores_texts(client: Client) -> None:
    page = (await client("GET", "/debug/console"))[2].decode()
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}
    parses = (
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|javascript:|\son\w+=|\sstyle=|\ssrc="
    )
    stores = r"Storage|\.cookie|indexedDB|caches\.|serviceWorker"
    assert re.findall(f"{parses}|{stores}", page) == []


async def test_an_option_switches_the_console_off(rag: RAG) -> None:
    off = Client(asgi.app(rag, authenticate=authenticate, console=False))
    assert (await off("GET", "/debug/console"))[0] == 401
    assert (await off("GET", "/debug/console", x_user="root!"))[0] == 404
    assert (await off("POST", "/debug/ask", QUESTION, x_user="root!", **JSON))[0] == 404
    assert (await off("GET", "/debug/status", x_user="root!"))[0] == 200
    document = json.loads((await off("GET", "/openapi.json", x_user="m"))[2])
    assert not {"/debug/console", "/debug/ask"} & document["paths"].keys()


async def test_without_authentication_there_is_no_console(rag: RAG) -> None:
    closed = Client(asgi.app(rag))
    for method, path in (("GET", "/debug/console"), ("GET", "/debug/status"), ("POST", "/debug/ask")):
        assert (await closed(method, path))[0] == 401


async def test_the_console_works_below_a_mount_point(rag: RAG) -> None:
    mounted = Client(asgi.app(rag, authenticate=authenticate), root="/rag")
    assert (await mounted("GET", "/debug/console"))[0] == 200
    assert (await mounted("GET", "/debug/status", x_user="root!"))[0] == 200


async def test_only_administrators_use_the_routes_of_the_console(client: Client) -> None:
    assert (await client("GET", "/debug/status", x_user="m"))[0] == 403
    # A member may not ask here, also not about its own documents: the route has options that only administrators may choose.
    for tenant in ("m", "other"):
        assert (await client("POST", "/debug/ask", {**QUESTION, "tenant": tenant}, x_user="m", **JSON))[0] == 403
    assert (await client("GET", "/debug/status"))[0] == 401
    assert (await client("POST", "/debug/ask", QUESTION, **JSON))[0] == 401


async def test_the_status_shows_queues_breakers_and_calls_and_sends_no_request(client: Client, rag: RAG) -> None:
    await rag.ask("deductible?", tenant="m")
    rag.retriever.embedder.faults.always(Hang())  # type: ignore[union-attr]
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: rag.ask("again", tenant="m", timeout=5))
        while not rag.inflight():
            await anyio.sleep(0)
        status, headers, body = await client("GET", "/debug/status", x_user="root!")
        group.cancel_scope.cancel()
    shown = json.loads(body)
    assert (status, headers["cache-control"], shown["tenant"]) == (200, "no-store", "root")
    assert shown["policies"]["embedding"]["breaker"]["state"] == "closed"
    assert (shown["application"]["inside"], shown["application"]["limit"]) == (0, 256)
    assert [call["tenant"] for call in shown["inflight"]] == ["m"]
    assert [call["method"] for call in shown["recent"]] == ["ask", "add"]  # newest first


async def test_the_status_shows_a_limited_number_of_calls(rag: RAG) -> None:
    async with fake_rag(settings=Settings(watchdog=False, recent=1_000)) as many:
        for number in range(150):
            await many.retrieve(f"question {number}", tenant=f"t{number}")
        body = (await Client(asgi.app(many, authenticate=authenticate))("GET", "/debug/status", x_user="root!"))[2]
    assert [call["tenant"] for call in json.loads(body)["recent"]] == [f"t{n}" for n in range(149, 49, -1)]


async def test_an_administrator_asks_about_the_documents_of_another_tenant(client: Client, rag: RAG) -> None:
    status, headers, body = await client("POST", "/debug/ask", QUESTION, x_user="root!", **JSON)
    answer = json.loads(body)
    assert (status, answer["found"], headers["cache-control"]) == (200, True, "no-store")
    assert answer["retrieval"]["passages"][0]["document_id"] == "d"
    status, headers, body = await client(
        "POST", "/debug/ask", QUESTION, x_user="root!", accept="text/event-stream", **JSON
    )
    names = re.findall(r"^event: (\w+)", body.decode(), re.MULTILINE)
    assert (headers["content-type"], names[0], names[-1]) == ("text/event-stream", "retrieved", "done")
    assert [call.tenant for call in rag.recent()[-2:]] == ["m", "m"]


async def test_a_question_of_the_console_uses_its_threshold(client: Client) -> None:
    for threshold, found in ((1.0, 0), (-0.9, 1), (None, 1)):
        body = (await client("POST", "/debug/ask", {**QUESTION, "threshold": threshold}, x_user="root!", **JSON))[2]
        retrieval = json.loads(body)["retrieval"]
        assert len(retrieval["passages"]) == found
        assert (retrieval["score_threshold"], retrieval["score_threshold_from"] == "call") == (
            threshold,
            threshold is not None,
        )


async def test_a_question_of_the_console_counts_against_the_limits_of_the_tenant() -> None:
    settings = Settings(watchdog=False, requests_per_minute=1)
    async with fake_rag(settings=settings) as limited:
        app = Client(asgi.app(limited, authenticate=authenticate))
        statuses = [
            (await app("POST", "/debug/ask", {**QUESTION, "tenant": tenant}, x_user="root!", **JSON))[0]
            for tenant in ("m", "m", "other")
        ]
    assert statuses == [200, 429, 200]


@pytest.mark.parametrize("content_type", ["", "text/plain", "text/plain; application/json", "application/x-www-form-urlencoded"])  # fmt: skip
async def test_a_form_of_another_web_page_can_not_ask(client: Client, rag: RAG, content_type: str) -> None:
    """A page of another origin may send these content types with a browser's cookies, and without a preflight request."""
    before = len(rag.recent())
    assert (await client("POST", "/debug/ask", QUESTION, x_user="root!", content_type=content_type))[0] == 415
    assert len(rag.recent()) == before
    sent = {"content_type": "Application/JSON; charset=utf-8"}
    assert (await client("POST", "/debug/ask", QUESTION, x_user="root!", **sent))[0] == 200


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ([], "must be JSON like"),
        ({"message": "q"}, "must be JSON like"),
        ({"tenant": "m"}, "must be JSON like"),
        ({**QUESTION, "history": []}, "unknown fields"),
        ({**QUESTION, "message": 3}, "must be a text"),
        ({**QUESTION, "message": ""}, "question"),
        ({**QUESTION, "message": "x" * 20_000}, "at most 16,000"),
        ({**QUESTION, "tenant": ""}, "tenant"),
        ({**QUESTION, "tenant": 3}, "tenant"),
        ({**QUESTION, "tenant": ["m"]}, "tenant"),
        ({**QUESTION, "threshold": 2}, "score_threshold"),
        ({**QUESTION, "threshold": "much"}, "score_threshold"),
        ({**QUESTION, "threshold": True}, "must be a number"),
        ({**QUESTION, "threshold": False}, "must be a number"),
        (b'{"message": "q", "tenant": "m", "threshold": NaN}', "threshold"),
    ],
)
async def test_an_invalid_question_of_the_console_is_refused_with_the_reason(
    client: Client, body: Any, word: str
) -> None:
    status, _, said = await client("POST", "/debug/ask", body, x_user="root!", **JSON)
    assert status == 400
    assert word in json.loads(said)["message"]


async def test_leaving_the_page_cancels_its_question() -> None:
    async with fake_rag(generator=FakeGenerator("word " * 500, token_latency=0.01)) as slow:
        await slow.add([Document("d", "Your deductible is $1,500.")], tenant="m")
        client = Client(asgi.app(slow, authenticate=authenticate))
        async with anyio.create_task_group() as group:
            group.start_soon(
                lambda: client("POST", "/debug/ask", QUESTION, x_user="root!", accept="text/event-stream", **JSON)
            )
            while not slow.inflight():
                await anyio.sleep(0.001)
            client.gone.set()
        assert slow.recent()[-1].outcome == "cancelled"
