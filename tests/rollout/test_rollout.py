"""Rollouts in virtual time: who serves whom, who takes over and when, what is counted, and that nothing is left behind."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import (
    Answer,
    ConfigurationError,
    DeadlineExceeded,
    Delta,
    Done,
    GenerationError,
    InvalidInput,
    LimitExceeded,
    Unsupported,
    events,
    testing,
)
from ragcore.resilience import deadline
from ragcore.rollout import Guard, Rollout, RolloutStatus, Shadow
from ragcore.rollout.assignment import position
from ragcore.testing.simulated import run_seeded
from ragcore.types import RolloutState

from .sides import Behaviour, Function

pytestmark = pytest.mark.anyio
# A share of 1 sends each tenant to the candidate.
EVERYONE: dict[str, Any] = {"share": 1.0, "shadow": None}
PATIENT = Guard(hangs=None, success=None, error_difference=None, least_calls=10_000, most_calls=20_000)


@pytest.fixture
def seen() -> Iterator[list[events.Event]]:
    """The rollout's events of the test."""
    found: list[events.Event] = []
    unsubscribe = events.subscribe(lambda event: found.append(event) if event.name.startswith("rollout.") else None)
    yield found
    unsubscribe()


@asynccontextmanager
async def cancelled_after(seconds: float) -> AsyncIterator[None]:
    """Cancel the block from another task. A scope with a deadline would be the deadline of the call."""
    async with anyio.create_task_group() as group:

        async def cancel() -> None:
            await anyio.sleep(seconds)
            group.cancel_scope.cancel()

        group.start_soon(cancel)
        yield
        group.cancel_scope.cancel()


def names(seen: list[events.Event]) -> list[str]:
    return [event.name for event in seen if event.name != "rollout.call"]


async def test_a_tenant_stays_with_its_side_and_the_candidate_keeps_its_tenants() -> None:
    stable, candidate = Function("stable"), Function("candidate")
    async with Rollout(stable, candidate, share=0.05, shadow=None, guard=PATIENT) as rollout:
        tenants = [f"member-{number}" for number in range(400)]
        served: set[str] = set()
        for share in (0.05, 0.25, 1.0):
            assert rollout.state.share == share
            now = {tenant for tenant in tenants if rollout.serves(tenant) == "candidate"}
            assert served <= now
            assert abs(len(now) / len(tenants) - share) < 0.06
            for tenant in tenants[:20]:
                assert await rollout.ask("?", tenant=tenant) == ("candidate" if tenant in now else "stable")
            served = now
            await rollout.promote()
    assert rollout.state.status == "promoted"


@given(tenant=st.text(min_size=1), key=st.text(), shares=st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_a_position_is_fixed_and_a_larger_share_contains_the_smaller_one(
    tenant: str, key: str, shares: list[float]
) -> None:
    found = position(tenant, key=key)
    assert 0 <= found < 1
    assert found == position(tenant, key=key)
    small, large = sorted(shares)
    assert not (found < small and not found < large)


def test_two_keys_give_independent_orders() -> None:
    tenants = [f"t{number}" for number in range(2_000)]
    first = {tenant for tenant in tenants if position(tenant, key="a") < 0.1}
    both = {tenant for tenant in first if position(tenant, key="b") < 0.1}
    assert 150 < len(first) < 250
    assert len(both) < 45  # 20 are expected


async def test_the_stable_side_answers_if_the_candidate_fails(seen: list[events.Event]) -> None:
    stable, candidate = Function("stable"), Function("candidate", "fails", seconds=1)
    async with Rollout(stable, candidate, guard=PATIENT, **EVERYONE) as rollout:
        began = anyio.current_time()
        assert await rollout.ask("?", tenant="a", timeout=10) == "stable"
        assert anyio.current_time() - began == pytest.approx(1.1)
        assert [seconds for _, seconds in candidate.calls] == pytest.approx([5.0])
        # What the candidate has not used belongs to the stable side, except the reserve.
        assert [seconds for _, seconds in stable.calls] == pytest.approx([9.0 - 0.05])
        status = rollout.status()
        assert (status.candidate.failed, status.stable.failed) == (1, 0)
    assert names(seen) == ["rollout.started", "rollout.fell_back"]


@pytest.mark.parametrize("behaviour", ["late", "hangs", "ignores"])
async def test_a_candidate_without_an_answer_uses_half_of_the_time(
    behaviour: Behaviour, seen: list[events.Event]
) -> None:
    stable, candidate = Function("stable", seconds=2), Function("candidate", behaviour)
    async with Rollout(stable, candidate, guard=PATIENT, **EVERYONE) as rollout:
        began = anyio.current_time()
        assert await rollout.ask("?", tenant="a", timeout=10) == "stable"
        assert anyio.current_time() - began == pytest.approx(7.0)
        assert rollout.status().candidate.hung == (behaviour != "late")
        candidate.release.set()
        await anyio.sleep(1)
        assert candidate.under_way == 0
    assert ("rollout.hung" in names(seen)) == (behaviour != "late")


async def test_one_hang_rolls_back_and_says_why(seen: list[events.Event], caplog: pytest.LogCaptureFixture) -> None:
    async with Rollout(Function("stable"), Function("candidate", "hangs"), name="release-7", **EVERYONE) as rollout:
        await rollout.ask("?", tenant="a", timeout=10)
        await anyio.sleep(1)
        assert rollout.state.status == "rolled_back"
        assert rollout.serves("a") == "stable"
    (event,) = [event for event in seen if event.name == "rollout.rolled_back"]
    assert event.source == "release-7"
    assert event.data["reason"] == "hangs: 1 calls of the candidate hung, and at most 0 are allowed"
    assert any("release-7" in line and "hangs" in line for line in caplog.messages)


async def test_the_deadline_around_a_call_applies() -> None:
    stable, candidate = Function("stable", "hangs"), Function("candidate", "hangs")
    async with Rollout(stable, candidate, guard=PATIENT, **EVERYONE) as rollout:
        began = anyio.current_time()
        with pytest.raises(DeadlineExceeded):
            with deadline(4):
                await rollout.ask("?", tenant="a", timeout=10)
        assert anyio.current_time() - began == pytest.approx(4.0)
        assert candidate.calls[0][1] == pytest.approx(2.0)


async def test_the_stable_sides_own_error_reaches_the_caller() -> None:
    async with Rollout(
        Function("stable", "fails"), Function("candidate", "fails"), guard=PATIENT, **EVERYONE
    ) as rollout:
        with pytest.raises(GenerationError, match="stable failed"):
            await rollout.ask("?", tenant="a")
    late = Function("stable", "late")
    async with Rollout(late, Function("candidate"), share=0.05, shadow=None) as rollout:
        with pytest.raises(DeadlineExceeded, match="late"):
            await rollout.ask("?", tenant="somebody", timeout=10)


@pytest.mark.parametrize("error", [InvalidInput("no"), LimitExceeded("no", limit="requests", retry_after=1)])
async def test_a_refusal_of_the_call_says_nothing_about_the_candidate(error: Exception) -> None:
    async def candidate(question: str, **_: object) -> str:
        raise error

    stable = Function("stable")
    async with Rollout(stable, candidate, **EVERYONE) as rollout:
        with pytest.raises(type(error)):
            await rollout.ask("?", tenant="a")
        assert stable.calls == []
        assert rollout.status().candidate.calls == 0


async def test_a_cancelled_call_cancels_its_side_and_counts_nothing() -> None:
    for behaviour in ("answers", "ignores"):
        candidate = Function("candidate", behaviour, seconds=5)
        async with Rollout(Function("stable"), candidate, guard=PATIENT, **EVERYONE) as rollout:
            began = anyio.current_time()
            async with cancelled_after(1):
                await rollout.ask("?", tenant="a")
            assert anyio.current_time() - began == pytest.approx(1.0)
            await anyio.sleep(2)
            status = rollout.status().candidate
            if behaviour == "answers":
                assert (candidate.under_way, status.calls) == (0, 0)
            else:  # it ignores its cancellation, so it hangs
                assert (status.calls, status.hung) == (1, 1)
                candidate.release.set()


async def test_in_the_shadow_the_candidate_is_compared_and_never_shown(seen: list[events.Event]) -> None:
    stable = Function("stable", answer=Answer("The deductible is $1,500."))
    candidate = Function("candidate", answer=Answer("The deductible is $1,000."), seconds=3)
    guard = Guard(least_calls=10, least_seconds=0)
    async with Rollout(stable, candidate, share=0, guard=guard) as rollout:
        for number in range(20):
            began = anyio.current_time()
            answer = await rollout.ask("What is the deductible?", tenant=f"m{number}")
            assert answer.text == "The deductible is $1,500."
            assert anyio.current_time() - began == pytest.approx(0.1)
            await anyio.sleep(4)
        assert rollout.state.status == "rolled_back"
        assert "figures" in rollout.state.reason or "p95" in rollout.state.reason
    assert "rollout.compared" in names(seen)


async def test_shadows_are_bounded_in_number_rate_and_time() -> None:
    stable, candidate = Function("stable"), Function("candidate", "hangs")
    shadow = Shadow(concurrency=2, per_minute=5, timeout=10)
    async with Rollout(stable, candidate, share=0, guard=PATIENT, shadow=shadow) as rollout:
        for _ in range(6):
            await rollout.ask("?", tenant="a")
        assert candidate.under_way == 2
        await anyio.sleep(12)
        assert candidate.under_way == 0
        candidate.behaviour = "answers"
        before = len(candidate.calls)
        for _ in range(60):
            await rollout.ask("?", tenant="a")
            await anyio.sleep(0.2)
        assert len(candidate.calls) - before <= 5 + 2  # a bucket of five, and five a minute
        candidate.behaviour, before = "hangs", len(candidate.calls)
        await anyio.sleep(60)
        await rollout.ask("?", tenant="a")
        await anyio.sleep(0.1)
        assert candidate.under_way == 1
    # Closing cancels the calls in the shadow.
    assert candidate.under_way == 0


async def test_a_share_of_the_questions_is_compared() -> None:
    candidate = Function("candidate")
    async with Rollout(Function("stable"), candidate, share=0, guard=PATIENT, shadow=Shadow(share=0.25)) as rollout:
        for _ in range(40):
            await rollout.ask("?", tenant="a")
            await anyio.sleep(2)
        assert len(candidate.calls) == 10


async def test_an_equal_candidate_goes_through_all_steps(seen: list[events.Event]) -> None:
    guard = Guard(success=0.8, least_calls=20, least_seconds=5)
    async with Rollout(Function("stable"), Function("candidate"), share=0, guard=guard) as rollout:
        shares: dict[float, int] = {}
        for number in range(5_000):
            shares.setdefault(rollout.state.share, number)
            await rollout.ask("?", tenant=f"m{number % 500}")
            await anyio.sleep(0.2)
            if rollout.state.status == "promoted":
                break
        assert list(shares) == [0.0, 0.05, 0.25, 1.0]
    assert [event.name for event in seen].count("rollout.promoted") == 4


async def test_by_hand_pause_resume_promote_abort(seen: list[events.Event]) -> None:
    guard = Guard(least_calls=10, least_seconds=0)
    async with Rollout(Function("stable"), Function("candidate"), guard=guard, **EVERYONE) as rollout:
        await rollout.pause("lunch")
        for _ in range(200):
            await rollout.ask("?", tenant="a")
        assert (rollout.state.status, rollout.state.share, rollout.state.reason) == ("paused", 1.0, "lunch")
        with pytest.raises(InvalidInput, match="status is 'paused'"):
            await rollout.pause()
        await rollout.resume()
        assert rollout.status().state.status == "running"
        await rollout.promote("all is well")
        assert rollout.status().state.status == "promoted"
        with pytest.raises(InvalidInput, match="promoted"):
            await rollout.promote()
        await rollout.abort("complaints")
        assert (rollout.state.status, rollout.serves("a")) == ("rolled_back", "stable")
        await rollout.promote("second try")
        assert (rollout.state.status, rollout.state.share) == ("running", 0.05)
    assert names(seen) == [
        "rollout.started",
        "rollout.paused",
        "rollout.resumed",
        "rollout.promoted",
        "rollout.rolled_back",
        "rollout.promoted",
    ]


async def test_while_paused_the_guard_still_rolls_back() -> None:
    async with Rollout(Function("stable"), Function("candidate", "hangs"), **EVERYONE) as rollout:
        await rollout.pause()
        await rollout.ask("?", tenant="a", timeout=4)
        await anyio.sleep(2)
        assert rollout.state.status == "rolled_back"


async def test_a_candidate_that_does_not_start_is_rolled_back_and_members_notice_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Function):
        async def start(self) -> None:
            raise ConfigurationError("no key")

        async def aclose(self) -> None:
            pass

    caplog.set_level(logging.CRITICAL)
    async with Rollout(Function("stable"), Broken("candidate"), **EVERYONE) as rollout:
        assert await rollout.ask("?", tenant="a") == "stable"
        assert rollout.state.reason == "start: the candidate does not start (ConfigurationError)"


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": -0.1},
        {"share": float("nan")},
        {"steps": ()},
        {"steps": (0.5, 0.25, 1.0)},
        {"steps": (0.5,)},
        {"name": ""},
        {"share": 0, "shadow": None},
    ],
)
def test_wrong_arguments_are_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Rollout(Function("stable"), Function("candidate"), **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"success": 1.0},
        {"figures": -1},
        {"p95_ratio": 0.5},
        {"false_alarm": 0},
        {"least_calls": 10, "most_calls": 5},
        {"hangs": -1},  # it would roll back a candidate without any call
        {"p95": 0.0},
        {"p95": float("nan")},
        {"least_seconds": -1.0},
        {"least_seconds": float("nan")},
    ],
)
def test_wrong_limits_are_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Guard(**wrong)


# Behaviours that a side may show, call by call.
SCRIPT = st.lists(st.sampled_from(["answers", "fails", "late", "hangs", "ignores"]), min_size=1, max_size=6)


@given(
    stable=SCRIPT,
    candidate=SCRIPT,
    seconds=st.floats(0, 20),
    timeout=st.floats(0.01, 20),
    share=st.sampled_from([0.0, 0.05, 1.0]),
    cancel=st.one_of(st.none(), st.floats(0, 20)),
    seed=st.integers(0, 1_000),
    backend=st.sampled_from(["asyncio", "trio"]),
)
def test_no_call_passes_its_deadline_and_nothing_is_left_behind(
    stable: list[Behaviour],
    candidate: list[Behaviour],
    seconds: float,
    timeout: float,
    share: float,
    cancel: float | None,
    seed: int,
    backend: Any,
) -> None:
    async def main() -> None:
        sides = [Function("stable", seconds=seconds), Function("candidate", seconds=seconds)]
        async with Rollout(*sides, share=share, guard=PATIENT) as rollout:
            for number in range(6):
                for side, script in zip(sides, (stable, candidate), strict=True):
                    side.behaviour = script[number % len(script)]
                began, ended = anyio.current_time(), "cancelled"
                async with cancelled_after(1_000 if cancel is None else cancel):
                    try:
                        ended = await rollout.ask("?", tenant=f"m{number}", timeout=timeout)
                    except (DeadlineExceeded, GenerationError):
                        ended = "error"
                assert anyio.current_time() - began <= timeout + 1e-6
                assert ended in ("stable", "candidate", "error", "cancelled")
            for side in sides:
                side.release.set()
                side.behaviour = "answers"
            await anyio.sleep(60)
            status = rollout.status()
            assert status.stable.calls <= 18
            assert [side.under_way for side in sides] == [0, 0]

    run_seeded(main, seed=seed, backend=backend)


async def test_a_stream_is_taken_over_until_its_first_piece_only() -> None:
    for fault, expected in (("none", "candidate"), ("before", "stable"), ("hang", "stable"), ("after", "error")):
        async with testing.fake_rag() as stable, testing.fake_rag() as candidate:
            for rag in (stable, candidate):
                await rag.add([_document()], tenant="a")
            sides = [_Named(stable, "stable"), _Named(candidate, "candidate", fault)]
            async with Rollout(*sides, guard=PATIENT, **EVERYONE) as rollout:
                began = anyio.current_time()
                pieces: list[str] = []
                try:
                    async with rollout.stream("What is the deductible?", tenant="a", timeout=10) as stream:
                        async for event in stream:
                            match event:
                                case Delta(text):
                                    pieces.append(text)
                                case Done(answer):
                                    assert answer.model.startswith(expected)
                except GenerationError:
                    assert (expected, bool(pieces)) == ("error", True)
                assert anyio.current_time() - began <= 10
                await anyio.sleep(7)
                status = rollout.status()
                assert status.candidate.calls == 1
                assert status.candidate.failed == (fault != "none")
                assert status.candidate.hung == (fault == "hang")
                assert rollout._owner is not None
                assert rollout._owner.running == 0


def test_a_small_share_is_shown_with_its_digits() -> None:
    status = RolloutStatus.of(RolloutState(name="r", share=0.005, steps=(0.005, 0.25, 1.0)))
    assert status.lines()[0] == "r: running, share 0.5% of steps 0.5%, 25%, 100%"


@pytest.mark.parametrize("side", ["stable", "candidate"])
async def test_after_its_first_piece_a_stream_has_the_time_of_the_whole_call(side: str) -> None:
    """The candidate's half of the time limits the wait for the first piece, and not the rest of the answer."""
    slow = testing.FakeGenerator("One two three four five six seven [1].", token_latency=1.0)
    async with testing.fake_rag() as one, testing.fake_rag(generator=slow) as other:
        await other.add([_document()], tenant="a")
        sides = (one, other) if side == "candidate" else (other, one)
        share = float(side == "candidate")
        async with Rollout(*sides, guard=PATIENT, share=share, shadow=Shadow(share=1e-6)) as rollout:
            async with rollout.stream("What is the deductible?", tenant="a", timeout=10) as stream:
                assert (await stream.answer()).text.startswith("One two three four five six seven")
            await anyio.sleep(20)
            assert getattr(rollout.status(), side).failed == 0


async def test_a_stream_without_a_piece_in_its_time_is_late_and_not_hung() -> None:
    store = testing.FakeStore()
    async with testing.fake_rag() as stable, testing.fake_rag(store=store) as candidate:
        for rag in (stable, candidate):
            await rag.add([_document()], tenant="a")
        store.faults.always(testing.Slow(7.0))
        async with Rollout(stable, candidate, guard=PATIENT, **EVERYONE) as rollout:
            async with rollout.stream("What is the deductible?", tenant="a", timeout=10) as stream:
                assert (await stream.answer()).found
            await anyio.sleep(20)
            status = rollout.status().candidate
            assert (status.calls, status.failed, status.hung) == (1, 1, 0)
            assert rollout._owner is not None
            assert rollout._owner.running == 0
            assert candidate.inflight() == ()


async def test_a_side_without_a_stream_is_refused() -> None:
    async with Rollout(Function("stable"), Function("candidate"), share=0.05) as rollout:
        with pytest.raises(Unsupported, match="no stream"):
            async with rollout.stream("?", tenant="somebody"):
                pass


def _document() -> Any:
    from ragcore import Document

    return Document("d", "The deductible is $1,500 per year.")


class _Named:
    """A client whose answers name it, and whose stream may fail."""

    def __init__(self, rag: Any, name: str, fault: str = "none") -> None:
        self._rag = rag
        self._name = name
        self._fault = fault

    def ask(self, question: str, **options: Any) -> Any:
        return self._rag.ask(question, **options)

    def stream(self, question: str, **options: Any) -> Any:
        return _NamedStream(self._rag.stream(question, **options), self._name, self._fault)


class _NamedStream:
    def __init__(self, manager: Any, name: str, fault: str) -> None:
        self._manager = manager
        self._name = name
        self._fault = fault
        self._pieces = 0

    async def __aenter__(self) -> Any:
        self._stream = await self._manager.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._manager.__aexit__(*error)

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        if self._fault == "hang":
            await anyio.sleep_forever()
        if self._fault == "before" or (self._fault == "after" and self._pieces):
            raise GenerationError("broken")
        event = await anext(self._stream)
        self._pieces += isinstance(event, Delta)
        return Done(replace(event.answer, model=self._name)) if isinstance(event, Done) else event
