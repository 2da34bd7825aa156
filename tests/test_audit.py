"""The audit log records who reads or changes whose data."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import anyio
import pytest

from ragcore import ConfigurationError, Document, StoreError, audit, events
from ragcore.contrib import asgi
from ragcore.testing import Fail, FakeStore, fake_rag

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed]
CANARY = "canary hiv treatment"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_each_call_is_a_line_with_actor_and_tenant_and_no_text(tmp_path: Path) -> None:
    path, store = tmp_path / "audit.jsonl", FakeStore()
    async with audit.AuditLog(path), fake_rag(store=store) as rag:
        with audit.acting("jane", admin=True, route="support desk"):
            await rag.add([Document("plan", f"Your {CANARY} is covered.")], tenant="m")
            await rag.ask(f"Is my {CANARY} covered?", tenant="m")
            await rag.retrieve(CANARY, tenant="m")
            await rag.similarity(CANARY, tenant="m")
            await rag.documents(tenant="m")
            async with rag.stream(CANARY, tenant="m") as stream:
                async for _ in stream:
                    pass
            await rag.delete(["plan"], tenant="m")
        store.faults.always(Fail(503))
        with pytest.raises(StoreError):
            await rag.ask(CANARY, tenant="other")
    found = lines(path)
    assert [line["action"] for line in found] == [
        "add", "ask", "retrieve", "similarity", "documents", "stream", "stream", "delete", "ask",
    ]  # fmt: skip
    assert all(
        (line["who"], line["admin"], line["route"], line["tenant"]) == ("jane", True, "support desk", "m")
        for line in found[:-1]
    )
    assert [(line["passages"], line["documents"]) for line in found] == [
        (0, 1), (1, 0), (1, 0), (1, 0), (0, 1), (1, 0), (1, 0), (0, 1), (0, 0),
    ]  # fmt: skip
    assert [line["outcome"] for line in found if line["action"] == "stream"] == ["begun", "ok"]
    assert (found[-1]["who"], found[-1]["tenant"], found[-1]["outcome"]) == ("", "other", "StoreError")
    assert all(line["call_id"] and line["at"].endswith("+00:00") for line in found)
    assert "canary" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_the_web_service_records_the_actor_and_the_route(tmp_path: Path) -> None:
    async def authenticate(scope: Any) -> asgi.Identity | None:
        return asgi.Identity("ops", admin=True, name="jane@example.org")

    async def ask(
        app: asgi.ASGIApp, method: str, path: str, body: bytes = b"", query: bytes = b"", content_type: bytes = b""
    ) -> None:
        async def receive() -> asgi.Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: asgi.Message) -> None:
            pass

        headers = [(b"content-type", content_type)]
        scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": headers}
        await app(scope, receive, send)

    path = tmp_path / "audit.jsonl"
    async with audit.AuditLog(path), fake_rag() as rag:
        app = asgi.app(rag, authenticate=authenticate)
        await ask(app, "POST", "/chat", json.dumps({"message": CANARY}).encode())
        await ask(app, "POST", "/debug/rag-similarity/member-42", json.dumps({"query": CANARY}).encode())
        await ask(app, "GET", "/debug/rag-similarity/member-42", query=b"query=canary")
        await ask(app, "GET", "/debug/inflight")
        await ask(app, "GET", "/debug-env")
        await ask(app, "GET", "/debug/status")
        await ask(app, "GET", "/debug/console")
        body = {"message": CANARY, "tenant": "member-42"}
        await ask(app, "POST", "/debug/ask", json.dumps(body).encode(), content_type=b"application/json")
    assert [(line["action"], line["tenant"], line["route"]) for line in lines(path)] == [
        ("ask", "ops", "POST /chat"),
        ("similarity", "member-42", "POST /debug/rag-similarity/"),
        ("similarity", "member-42", "GET /debug/rag-similarity/"),
        ("inflight", "*", "GET /debug/inflight"),
        ("describe", "*", "GET /debug-env"),
        ("status", "*", "GET /debug/status"),
        ("ask", "member-42", "POST /debug/ask"),
    ]
    assert {(line["who"], line["admin"]) for line in lines(path)} == {("jane@example.org", True)}
    assert "canary" not in path.read_text()


async def test_concurrent_callers_keep_their_own_actor(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with audit.AuditLog(path), fake_rag() as rag:

        async def one(name: str) -> None:
            with audit.acting(name):
                await rag.retrieve("question", tenant=f"tenant of {name}")

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, f"n{number}")
    assert {(line["who"], line["tenant"]) for line in lines(path)} == {(f"n{n}", f"tenant of n{n}") for n in range(20)}


async def test_a_second_log_appends_and_users_may_subscribe_to_audit_events(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(lambda event: seen.append(event) if event.name == "audit" else None)
    for _ in range(2):
        async with audit.AuditLog(path), fake_rag() as rag:
            await rag.retrieve("question", tenant="m")
    unsubscribe()
    assert len(lines(path)) == len(seen) == 2


async def test_a_log_that_can_not_be_written_is_an_error_on_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be written"):
        async with audit.AuditLog(tmp_path / "missing" / "audit.jsonl"):
            pass


async def test_lines_beyond_the_limit_are_counted_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr("ragcore.audit.MOST_WAITING", 5)
    log = audit.AuditLog(tmp_path / "audit.jsonl")
    for _ in range(8):
        log._take(events.Event("audit", "ask", {"tenant": "m"}))
    assert log.lost == 3


async def test_returned_passages_are_logged_before_the_stream_ends(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with audit.AuditLog(path), fake_rag() as rag:
        await rag.add([Document("plan", "The copay is $20.")], tenant="m\u2028forged")
        async with rag.stream("copay?", tenant="m\u2028forged") as stream:
            await anext(stream)
            with anyio.fail_after(5):
                while "begun" not in path.read_text():
                    await anyio.sleep(0.01)
    # No character in a name ends a line, even for programs that know other line separators.
    assert len(path.read_text().splitlines()) == 3
    assert {line["tenant"] for line in lines(path)} == {"m\u2028forged"}


async def test_the_log_can_be_written_to_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    async with audit.AuditLog("-"), fake_rag() as rag:
        await rag.documents(tenant="m")
    assert json.loads(capfd.readouterr().out)["action"] == "documents"
