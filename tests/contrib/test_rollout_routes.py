"""The application with a rollout: it answers the chats, and administrators see and change it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from ragcore import Document, events
from ragcore.contrib import asgi
from ragcore.rollout import Guard, Rollout
from ragcore.testing import FakeGenerator, fake_rag

from .test_asgi import Client, authenticate

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    stable, candidate = fake_rag(), fake_rag(generator=FakeGenerator("The new answer [1]."))
    rollout = Rollout(stable, candidate, share=0.25, shadow=None, guard=Guard(least_calls=1_000), name="release-7")
    async with rollout:
        for rag in (stable, candidate):
            for tenant in ("m", *(f"m{number}" for number in range(20))):
                await rag.add([Document("d", "Your deductible is $1,500.")], tenant=tenant)
        yield Client(asgi.app(stable, authenticate=authenticate, rollout=rollout))


async def test_chats_are_answered_by_the_side_that_serves_the_tenant(client: Client) -> None:
    seen = set()
    for number in range(20):
        status, _, body = await client("POST", "/chat", {"message": "deductible?"}, x_user=f"m{number}")
        assert status == 200
        text = json.loads(body)["text"]
        status, _, events = await client(
            "POST", "/chat", {"message": "deductible?"}, x_user=f"m{number}", accept="text/event-stream"
        )
        assert status == 200
        assert (b"The new" in events) == text.startswith("The new")
        seen.add(text.startswith("The new"))
    assert seen == {True, False}
    shown = json.loads((await client("GET", "/debug/rollout", x_user="ops!"))[2])
    assert shown["stable"]["calls"] + shown["candidate"]["calls"] == 40


async def test_administrators_see_and_change_the_rollout(client: Client) -> None:
    _, _, shown = await client("GET", "/debug/status", x_user="root!")
    assert json.loads(shown)["rollout"]["state"]["status"] == "running"  # for the console
    shown = json.loads((await client("GET", "/debug/rollout", x_user="ops!"))[2])
    assert (shown["state"]["name"], shown["state"]["status"], shown["state"]["share"]) == ("release-7", "running", 0.25)
    for action, body, expected in (
        ("pause", {"reason": "lunch"}, ("paused", 0.25, "lunch")),
        ("resume", None, ("running", 0.25, "by hand")),
        ("promote", None, ("running", 1.0, "by hand")),
        ("abort", {"reason": "complaints"}, ("rolled_back", 0.0, "complaints")),
    ):
        status, _, answer = await client("POST", f"/debug/rollout/{action}", body, x_user="ops!")
        state = json.loads(answer)["state"]
        assert (status, state["status"], state["share"], state["reason"]) == (200, *expected)
    status, _, answer = await client("POST", "/debug/rollout/abort", None, x_user="ops!")
    assert status == 400
    assert "rolled_back" in json.loads(answer)["message"]


async def test_the_audit_log_has_the_outcome_of_each_change(client: Client) -> None:
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append, names=["audit"])
    try:
        for action in ("pause", "pause", "resume"):
            await client("POST", f"/debug/rollout/{action}", None, x_user="ops!")
        await client("POST", "/debug/rollout/abort", {"reason": ""}, x_user="ops!")
    finally:
        unsubscribe()
    found = [(one.data["route"], one.data["outcome"]) for one in seen]
    assert found == [
        ("POST /debug/rollout/pause", "ok"),
        ("POST /debug/rollout/pause", "InvalidInput"),
        ("POST /debug/rollout/resume", "ok"),
        ("POST /debug/rollout/abort", "InvalidInput"),
    ]


@pytest.mark.parametrize("body", [[], {"why": "x"}, {"reason": ""}, {"reason": 1}, b"{"])
async def test_a_wrong_body_changes_nothing(client: Client, body: object) -> None:
    assert (await client("POST", "/debug/rollout/abort", body, x_user="ops!"))[0] == 400
    shown = json.loads((await client("GET", "/debug/rollout", x_user="ops!"))[2])
    assert shown["state"]["status"] == "running"


async def test_members_may_not_use_the_routes(client: Client) -> None:
    assert (await client("GET", "/debug/rollout", x_user="m"))[0] == 403
    assert (await client("POST", "/debug/rollout/abort", None, x_user="m"))[0] == 403
    assert (await client("GET", "/debug/rollout"))[0] == 401
    assert (await client("GET", "/debug/rollout/abort", x_user="ops!"))[0] == 405


async def test_without_a_rollout_there_are_no_such_routes() -> None:
    async with fake_rag() as rag:
        plain = Client(asgi.app(rag, authenticate=authenticate))
        assert (await plain("GET", "/debug/rollout", x_user="ops!"))[0] == 404
