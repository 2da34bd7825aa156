"""Invariants of a bulkhead for callers that join, wait, leave and give up, tested with Hypothesis."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import anyio
from hypothesis import given
from hypothesis import strategies as st

from ragcore import events
from ragcore.resilience import Bulkhead, Overloaded
from ragcore.testing import VirtualLoop
from tests.examples import examples


@dataclass(frozen=True)
class Caller:
    flow: str
    comes: float
    timeout: float | None
    holds: float
    leaves_after: float | None


CALLERS = st.builds(
    Caller,
    flow=st.sampled_from("aabc"),
    comes=st.floats(0, 5).map(lambda at: round(at, 2)),
    timeout=st.none() | st.floats(0.1, 5),
    holds=st.floats(0.05, 1.5),
    leaves_after=st.none() | st.floats(0, 3),
)


@dataclass
class Seen:
    inside: dict[str, int] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


@examples()
@given(
    callers=st.lists(CALLERS, min_size=1, max_size=40),
    limit=st.integers(1, 4),
    queue=st.integers(0, 12),
    new_limit=st.none() | st.integers(1, 6),
)
def test_no_place_is_lost_and_no_caller_waits_while_one_is_free(
    callers: list[Caller], limit: int, queue: int, new_limit: int | None
) -> None:
    bulkhead = Bulkhead(limit, queue=queue, name="b")
    seen = Seen()

    def check(lowered: int) -> None:
        if bulkhead.waiting and bulkhead.inside < bulkhead.limit:
            seen.failures.append("a caller waits while a place is free")
        if bulkhead.waiting > queue:
            seen.failures.append("more callers wait than the queue allows")
        if bulkhead.inside > max(bulkhead.limit, lowered):
            seen.failures.append("more calls are inside than the limit allows")
        # A caller that was just given a place may not have woken yet.
        if bulkhead.inside < sum(seen.inside.values()):
            seen.failures.append("the count is wrong")
        for flow, inside in seen.inside.items():
            if bulkhead.holds(flow) < inside:
                seen.failures.append(f"{flow} holds {inside}, and {bulkhead.holds(flow)} are counted")

    def listen(event: events.Event) -> None:
        left = event.data.get("left")
        if event.name == "bulkhead.admitted" and left is not None and left < event.data["service_time"]:
            seen.failures.append("a caller without enough time was admitted")

    async def come(number: int, caller: Caller) -> None:
        await anyio.sleep_until(caller.comes)
        when = math.inf if caller.timeout is None else caller.comes + caller.timeout
        seen.ended[number] = "left"
        with anyio.move_on_after(caller.leaves_after):
            try:
                await bulkhead.acquire(when, flow=caller.flow)
            except Overloaded as error:
                seen.ended[number] = "refused"
                if anyio.current_time() > when + 1e-6:
                    seen.failures.append(f"refused late: {error}")
                return
            seen.ended[number] = "served"
            seen.inside[caller.flow] = seen.inside.get(caller.flow, 0) + 1
            try:
                await anyio.sleep(caller.holds)
            finally:
                seen.inside[caller.flow] -= 1
                bulkhead.release(caller.holds, flow=caller.flow)
        check(limit)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number, caller in enumerate(callers):
                group.start_soon(come, number, caller)
            await anyio.sleep_until(2.5)
            if new_limit is not None:
                bulkhead.limit = new_limit
        check(0)

    stop = events.subscribe(listen)
    try:
        anyio.run(main, backend_options={"loop_factory": VirtualLoop})
    finally:
        stop()
    assert seen.failures == []
    assert (bulkhead.inside, bulkhead.waiting, bulkhead.line.ring, bulkhead._places.holders) == (0, 0, {}, 0)
    assert len(seen.ended) == len(callers)
    patient = [
        number for number, caller in enumerate(callers) if caller.timeout is None and caller.leaves_after is None
    ]
    if queue >= len(callers):
        assert all(seen.ended[number] == "served" for number in patient), (
            "a caller that has time and stays must be served"
        )


@examples(0.3)
@given(crowd=st.integers(20, 200), limit=st.integers(1, 8), seconds=st.floats(0.1, 1.0))
def test_a_quiet_flow_waits_for_one_place_even_if_many_callers_of_another_flow_wait(
    crowd: int, limit: int, seconds: float
) -> None:
    bulkhead = Bulkhead(limit, queue=64)
    waited: list[float] = []

    async def hog() -> None:
        while True:
            try:
                await bulkhead.acquire(anyio.current_time() + 30, flow="hog")
            except Overloaded:
                await anyio.sleep(0.1)
                continue
            try:
                await anyio.sleep(seconds)
            finally:
                bulkhead.release(seconds, flow="hog")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(crowd):
                group.start_soon(hog)
            for _ in range(10):
                await anyio.sleep(2.2)
                began = anyio.current_time()
                await bulkhead.acquire(began + 30, flow="quiet")
                waited.append(anyio.current_time() - began)
                bulkhead.release(seconds, flow="quiet")
            group.cancel_scope.cancel()

    anyio.run(main, backend_options={"loop_factory": VirtualLoop})
    assert max(waited) <= seconds + 1e-6
