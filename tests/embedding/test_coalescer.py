"""Questions that share a request, and their outcome when the request is not sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import anyio
import numpy as np
import pytest
from tests.pace import in_time

from ragcore import DeadlineExceeded, EmbeddingError, NotOpen, Overloaded, Vector
from ragcore.embedding.coalescer import MOST_REQUESTS, MOST_TEXTS, MOST_WAITING, Coalescer
from ragcore.lifecycle.owner import Owner
from ragcore.resilience import Bulkhead, Policy, flow
from ragcore.resilience.patience import Patience

pytestmark = pytest.mark.anyio


async def embed(coalescer: Coalescer, owner: Owner, text: str, outcomes: list[str]) -> None:
    try:
        await coalescer.embed(owner, text)
        outcomes.append("vector")
    except (EmbeddingError, NotOpen) as error:
        outcomes.append(type(error).__name__)


async def together(
    send: Callable[[Sequence[str], bool], Awaitable[Vector]],
    count: int,
    end: Callable[[Coalescer, Owner], Awaitable[None]],
) -> list[str]:
    """Return the outcomes of `count` texts that wait together until `end` is called, and of one text after that."""
    owner = Owner("test")
    await owner.start()
    coalescer = Coalescer(send)
    outcomes: list[str] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(embed, coalescer, owner, f"text {number}", outcomes)
                await anyio.sleep(0.01)
            await end(coalescer, owner)
        await embed(coalescer, owner, "later", outcomes)
    await owner.stop()
    return outcomes


async def test_after_a_stray_cancellation_waiting_callers_get_an_error_and_the_next_text_is_sent(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("asyncio's own cancellation")
    strays: list[asyncio.Future[None]] = []

    async def send(texts: Sequence[str], of_several: bool) -> Vector:
        if len(strays) < MOST_REQUESTS:
            strays.append(asyncio.get_running_loop().create_future())
            await strays[-1]
        return np.ones((len(texts), 2), np.float32)

    async def end(coalescer: Coalescer, owner: Owner) -> None:
        for stray in strays:
            stray.cancel()

    outcomes = await together(send, MOST_REQUESTS + 1, end)
    assert outcomes == ["EmbeddingError"] * (MOST_REQUESTS + 1) + ["vector"]


async def test_closing_ends_the_wait_of_all_callers() -> None:
    async def send(texts: Sequence[str], of_several: bool) -> Vector:
        await anyio.sleep_forever()
        raise AssertionError

    async def end(coalescer: Coalescer, owner: Owner) -> None:
        coalescer.close()
        await owner.stop()

    outcomes = await together(send, MOST_REQUESTS + 2, end)
    assert outcomes == ["EmbeddingError"] * (MOST_REQUESTS + 2) + ["NotOpen"]


class Server:
    """Embeds texts, but fails each request that contains a text of `poison`."""

    def __init__(self, *poison: str, seconds: float = 0.02) -> None:
        self.poison = poison
        self.seconds = seconds
        self.requests: list[tuple[tuple[str, ...], bool, str]] = []

    async def send(self, texts: Sequence[str], of_several: bool) -> Vector:
        self.requests.append((tuple(texts), of_several, flow.current()))
        await anyio.sleep(self.seconds)
        if any(text in self.poison for text in texts):
            raise EmbeddingError("500", dependency="embedding", stage="embed", attempts=1)
        return np.array([[len(text), 1] for text in texts], np.float32)


async def ask(coalescer: Coalescer, owner: Owner, name: str, text: str, outcomes: dict[str, str]) -> None:
    with flow(name):
        try:
            vector = await coalescer.embed(owner, text)
            assert vector[0] == len(text)
            outcomes[text] = "vector"
        except (EmbeddingError, Overloaded) as error:
            outcomes[text] = type(error).__name__


async def all_of(server: Server, asked: Sequence[tuple[str, str]]) -> tuple[dict[str, str], Coalescer]:
    owner = Owner("test")
    await owner.start()
    coalescer = Coalescer(server.send)
    outcomes: dict[str, str] = {}
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for name, text in asked:
                group.start_soon(ask, coalescer, owner, name, text, outcomes)
    await owner.stop()
    assert not coalescer._waiting
    assert not coalescer._flows
    return outcomes, coalescer


async def test_a_text_that_makes_a_server_fail_fails_only_its_own_flow() -> None:
    server = Server("poison")
    asked = [(f"tenant {number}", f"question {number}") for number in range(7)] + [("bad", "poison")]
    outcomes, _ = await all_of(server, asked)
    assert outcomes == {**{text: "vector" for _, text in asked}, "poison": "EmbeddingError"}
    assert all(of_several == (len(texts) > 1) for texts, of_several, _ in server.requests)
    assert [name for texts, _, name in server.requests if texts == ("poison",)] == ["bad"]
    assert len(server.requests) <= 7, "the failed batch is sent again in halves, not text by text"


async def test_a_request_of_one_flow_is_not_sent_again() -> None:
    server = Server("poison")
    outcomes, _ = await all_of(server, [("bad", "poison"), ("bad", "other")])
    assert set(outcomes.values()) == {"EmbeddingError"}
    assert [(sorted(texts), *how) for texts, *how in server.requests] == [(["other", "poison"], False, "bad")]


async def test_batches_are_made_from_all_flows_in_turn() -> None:
    server = Server()
    asked = [("hog", f"hog {number}") for number in range(500)] + [("quiet", "quiet")]
    outcomes, _ = await all_of(server, asked)
    assert set(outcomes.values()) == {"vector"}
    first_with_quiet = next(number for number, (texts, _, _) in enumerate(server.requests) if "quiet" in texts)
    assert first_with_quiet == 0


async def test_a_text_of_two_flows_is_sent_once_with_the_first_flows_turn() -> None:
    server = Server()
    outcomes, coalescer = await all_of(server, [("a", "same"), ("b", "same"), ("b", "other")])
    assert outcomes == {"same": "vector", "other": "vector"}
    assert (coalescer.asked, sorted(text for texts, _, _ in server.requests for text in texts)) == (
        3,
        ["other", "same"],
    )


@pytest.mark.slow
async def test_a_full_queue_makes_room_for_a_flow_with_less_than_its_share() -> None:
    server = Server(seconds=0.1)
    asked = [("hog", f"hog {number}") for number in range(MOST_WAITING + 300)] + [("quiet", "quiet")]
    outcomes, _ = await all_of(server, asked)
    assert outcomes["quiet"] == "vector"
    assert list(outcomes.values()).count("Overloaded") > 0


@pytest.mark.slow
async def test_time_before_a_text_is_sent_is_not_the_embedders_silence() -> None:
    server = Server(seconds=0.5)
    outcomes: list[bool] = []
    owner = Owner("test")
    await owner.start()
    coalescer = Coalescer(server.send)

    async def one(number: int) -> None:
        with Patience(0.9) as patience:
            await coalescer.embed(owner, f"text {number}")
        outcomes.append(patience.ran_out)

    async with anyio.create_task_group() as group:
        for number in range(5 * MOST_REQUESTS * MOST_TEXTS // 4):
            group.start_soon(one, number)
    await owner.stop()
    assert not any(outcomes), "the last texts waited for longer than their patience before they were sent"


async def test_a_silent_embedder_is_silent_from_the_moment_of_sending() -> None:
    server = Server(seconds=60)
    owner = Owner("test")
    await owner.start()
    coalescer = Coalescer(server.send)
    began = anyio.current_time()
    with Patience(0.1) as patience:
        await coalescer.embed(owner, "text")
    assert patience.ran_out
    assert in_time(anyio.current_time() - began, 1)
    await owner.stop()


async def test_a_request_ends_when_all_its_callers_have_left() -> None:
    ended: list[str] = []

    async def send(texts: Sequence[str], of_several: bool) -> Vector:
        try:
            await anyio.sleep(30)
        except anyio.get_cancelled_exc_class():
            ended.append("cancelled")
            raise
        raise AssertionError

    owner = Owner("test")
    await owner.start()
    coalescer = Coalescer(send)
    async with anyio.create_task_group() as group:
        for number in range(2):
            group.start_soon(coalescer.embed, owner, f"text {number}")
        await anyio.sleep(0.05)
        assert ended == []
        group.cancel_scope.cancel()
    for _ in range(50):
        if ended:
            break
        await anyio.sleep(0.01)
    assert ended == ["cancelled"]
    await owner.stop()


async def test_a_policy_around_a_question_is_not_charged_for_the_queue_of_its_request() -> None:
    inner = Policy("wire", bulkhead=Bulkhead(1), timeout=60)
    outer = Policy("mine", attempt_timeout=0.3, timeout=60, retry=False)

    async def send(texts: Sequence[str], of_several: bool) -> Vector:
        async def wire() -> Vector:
            await anyio.sleep(0.1)
            return np.ones((len(texts), 2), np.float32)

        return await inner.call(wire)

    owner = Owner("test")
    await owner.start()
    coalescer = Coalescer(send)
    assert inner.bulkhead is not None
    assert inner.bulkhead.try_acquire("another")

    async def free() -> None:
        await anyio.sleep(0.6)
        assert inner.bulkhead is not None
        inner.bulkhead.release(flow="another")

    async with anyio.create_task_group() as group:
        group.start_soon(free)
        vector = await outer.call(lambda: coalescer.embed(owner, "text"))
    assert vector.shape == (2,)
    assert outer.snapshot()["breaker"]["failure"] == 0
    await owner.stop()


@pytest.mark.slow
async def test_a_full_queue_does_not_refuse_a_flow_for_a_text_that_it_shares() -> None:
    server = Server(seconds=0.1)
    asked = [("hog", f"hog {number}") for number in range(MOST_WAITING + 200)]
    shared = asked[-1][1]
    outcomes, _ = await all_of(
        server, [*asked, ("quiet", shared), *(("late", f"late {number}") for number in range(50))]
    )
    assert outcomes[shared] == "vector"


async def test_on_a_busy_loop_the_callers_own_scope_ends_the_call_and_not_the_error_of_the_request() -> None:
    """The request sees that the deadline has passed before the timer of the caller's scope has run."""

    async def send(texts: Sequence[str], of_several: bool) -> Vector:
        until = time.perf_counter() + 0.05
        while time.perf_counter() < until:
            pass
        raise DeadlineExceeded("too late", budget=0.01, elapsed=0.05)

    owner = Owner("test")
    await owner.start()
    with anyio.move_on_after(0.01) as scope:
        await Coalescer(send).embed(owner, "text")
    assert scope.cancelled_caught
    with pytest.raises(DeadlineExceeded):  # without a scope, the caller gets the error
        await Coalescer(send).embed(owner, "text")
    await owner.stop()
