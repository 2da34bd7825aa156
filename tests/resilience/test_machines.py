"""State machines. Hypothesis generates sequences of steps, and each primitive is compared with a simple model in virtual time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any

import anyio
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from ragcore.resilience import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpen,
    DeadlineExceeded,
    Overloaded,
    Policy,
    RetryBudget,
    RetryPolicy,
    SingleFlight,
    deadline,
)
from ragcore.resilience.permit import Permit
from ragcore.testing import VirtualLoop, at_rest
from tests.examples import examples

SETTINGS = examples(stateful_step_count=40)
SLACK = 1e-3

seconds = st.sampled_from([0.1, 0.5, 1.0, 2.0, 5.0, 20.0])


class BreakerMachine(RuleBasedStateMachine):
    """Compares the breaker with a list of all calls since its last change of state."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.now = 10_000.0
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(anyio, "current_time", lambda: self.now)

    @initialize(ratio=st.sampled_from([0.3, 0.5, 1.0]), minimum=st.integers(1, 6), probes=st.integers(1, 3))
    def made(self, ratio: float, minimum: int, probes: int) -> None:
        self.breaker = CircuitBreaker(
            failure_ratio=ratio,
            minimum_throughput=minimum,
            probes=probes,
            sampling_duration=30,
            break_duration=5,
            max_break_duration=40,
            slow_call_duration=4,
            slow_call_ratio=0.8,
        )
        self.state = "closed"
        self.epoch = 0  # the model's generation: a call that began in an earlier one is ignored
        self.window: list[tuple[int, bool, bool]] = []  # bucket, failed, slow
        self.out: set[Permit] = set()  # probes
        self.passed = 0
        self.opened_at = self.probed_at = 0.0
        self.reopened = 0
        self.epochs: dict[Permit, int] = {}

    def moved(self, state: str) -> None:
        self.state = state
        self.epoch += 1
        self.window, self.out, self.passed = [], set(), 0
        if state == "open":
            self.opened_at = self.now

    def longest_break(self) -> float:
        return 1.2 * min(5.0 * float(2**self.reopened), 40.0)

    def lost_probes(self) -> None:
        """Count the probes that never ended as failed."""
        if self.state == "half_open" and len(self.out) >= self.breaker.probes and self.now >= self.probed_at + 40:
            self.reopened += 1
            self.moved("open")

    @rule(wait=seconds)
    def time_passes(self, wait: float) -> None:
        self.now += wait

    @rule(target=permits)
    def begin(self) -> Any:
        self.lost_probes()
        try:
            permit = self.breaker.acquire()
        except CircuitOpen:
            assert self.state != "closed", "a closed breaker refused a call"
            if self.state == "open":
                assert self.now <= self.opened_at + self.longest_break()
            if self.state == "half_open":
                assert len(self.out) >= self.breaker.probes
            return multiple()
        assert self.state != "isolated"
        if self.state == "open":
            assert self.now >= self.opened_at + self.longest_break() / 1.2 * 0.8, (
                "a probe was admitted before the break was over"
            )
            self.moved("half_open")
        if self.state == "half_open":
            self.out.add(permit)
            self.probed_at = self.now
        self.epochs[permit] = self.epoch
        return permit

    @rule(permit=consumes(permits), outcome=st.sampled_from(["success", "failure", "neutral"]))
    def end(self, permit: Permit, outcome: str) -> None:
        before = self.breaker.state
        permit.report(outcome)  # type: ignore[arg-type]
        stale = self.epochs.pop(permit) != self.epoch
        if stale or outcome == "neutral":
            self.out.discard(permit)
            assert self.breaker.state == before, "a stale or cancelled call changed the state"
            return
        failed, slow = outcome == "failure", self.now - permit.began >= 4
        if self.state == "half_open":
            self.out.discard(permit)
            if failed or slow:
                self.reopened += 1
                self.moved("open")
            else:
                self.passed += 1
                if self.passed == self.breaker.probes:
                    self.reopened = 0
                    self.moved("closed")
            return
        bucket = int(self.now // 3)
        self.window = [call for call in self.window if call[0] > bucket - 10]
        self.window.append((bucket, failed, slow))
        calls, failures = len(self.window), sum(call[1] for call in self.window)
        slows = sum(call[2] for call in self.window)
        too_many = failures >= self.breaker.failure_ratio * calls or slows >= 0.8 * calls
        if (failed or slow) and too_many and calls >= self.breaker.minimum_throughput:
            self.moved("open")

    @rule()
    def isolate(self) -> None:
        self.breaker.isolate()
        self.moved("isolated")

    @precondition(lambda self: self.state in ("isolated", "open"))
    @rule()
    def reset(self) -> None:
        self.breaker.reset()
        self.reopened = 0
        self.moved("closed")

    @invariant()
    def agrees(self) -> None:
        assert self.breaker.state == self.state
        out = self.breaker.snapshot()["probes_out"]
        assert out == len(self.out) <= self.breaker.probes

    def teardown(self) -> None:
        self.patch.undo()


class RetryBudgetMachine(RuleBasedStateMachine):
    """Compares the balance with a model: the initial balance, plus deposits without the overflow, minus withdrawals."""

    @initialize(ratio=st.floats(0, 2), reserve=st.integers(0, 8))
    def made(self, ratio: float, reserve: int) -> None:
        self.budget = RetryBudget(ratio=ratio, reserve=reserve)
        self.expected = float(reserve)
        self.spent = self.refused = 0

    @rule()
    def call(self) -> None:
        self.budget.deposit()
        self.expected = min(self.expected + self.budget.ratio, max(self.expected, float(self.budget.reserve)))

    @rule()
    def retry(self) -> None:
        if self.budget.withdraw():
            self.spent += 1
            assert self.expected >= 1
            self.expected -= 1
        else:
            self.refused += 1
            assert self.expected < 1

    @invariant()
    def conserved(self) -> None:
        assert self.budget.balance == pytest.approx(self.expected)
        assert 0 <= self.budget.balance <= self.budget.reserve
        assert (self.budget.snapshot()["spent"], self.budget.snapshot()["refused"]) == (self.spent, self.refused)


class OnLoop(RuleBasedStateMachine):
    """A machine whose rules start and cancel tasks on its own event loop, which runs until no callback is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        self.settle()
        return task

    def settle(self, seconds: float = 0.0) -> None:
        async def turns() -> None:
            await asyncio.sleep(seconds)
            for _ in range(12):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def teardown(self) -> None:
        try:
            for task in self.tasks:
                task.cancel()
            self.settle()
            for task in self.tasks:
                assert task.done()
                if not task.cancelled():
                    task.result()
            self.at_rest()
            assert not asyncio.all_tasks(self.loop)
        finally:
            self.loop.close()

    def at_rest(self) -> None:
        """Check the state after all tasks have ended."""


class BulkheadMachine(OnLoop):
    """Compares callers that join, wait, are admitted, leave and give up with a queue and a set."""

    callers = Bundle("callers")

    @initialize(limit=st.integers(1, 3), queue=st.integers(0, 4))
    def made(self, limit: int, queue: int) -> None:
        self.bulkhead = Bulkhead(limit, queue=queue)
        self.limit = limit
        self.number = 0
        self.waiting: deque[int] = deque()
        self.inside: list[int] = []
        self.leave: dict[int, asyncio.Event] = {}
        self.of: dict[int, asyncio.Task[Any]] = {}
        self.let_in: list[int] = []  # in the order of the bulkhead
        self.expected: list[int] = []  # in the order of the model

    @rule(target=callers)
    def come(self) -> Any:
        self.number += 1
        number = self.number
        refused = len(self.inside) >= self.limit and len(self.waiting) >= self.bulkhead.queue
        gone = self.leave[number] = asyncio.Event()
        result: list[str] = []

        async def caller() -> None:
            try:
                await self.bulkhead.acquire()
            except Overloaded:
                result.append("refused")
                return
            self.let_in.append(number)
            try:
                await gone.wait()
            finally:
                self.bulkhead.release()

        self.of[number] = self.spawn(caller())
        assert (result == ["refused"]) == refused
        if refused:
            return multiple()
        self.waiting.append(number)
        self.model_lets_in()
        return number

    def model_lets_in(self) -> None:
        while self.waiting and len(self.inside) < self.limit:
            self.inside.append(self.waiting.popleft())
            self.expected.append(self.inside[-1])

    @rule(number=consumes(callers))
    def go(self, number: int) -> None:
        if self.leave[number].is_set():
            return
        self.leave[number].set()
        self.settle()
        if number in self.inside:
            self.inside.remove(number)
        else:  # it will leave as soon as it is admitted
            self.waiting.remove(number)
            self.of[number].cancel()
        self.settle()
        self.model_lets_in()

    @rule(number=consumes(callers), together=st.booleans())
    def give_up(self, number: int, together: bool) -> None:
        self.of[number].cancel()
        if (
            together and self.inside and number not in self.inside
        ):  # give up in the same step in which another caller leaves
            self.leave[self.inside.pop(0)].set()
        self.settle()
        for place in (self.inside, self.waiting):
            if number in place:
                place.remove(number)
        self.model_lets_in()

    @rule(limit=st.integers(1, 4))
    def change_the_limit(self, limit: int) -> None:
        self.bulkhead.limit = self.limit = limit
        self.settle()
        self.model_lets_in()

    @invariant()
    def agrees(self) -> None:
        assert self.bulkhead.inside == len(self.inside)
        assert self.bulkhead.waiting == len(self.waiting) <= self.bulkhead.queue
        assert self.let_in == self.expected, "the order was not first in, first out"
        if self.waiting:
            assert len(self.inside) >= self.limit, "a caller waits while a place is free"

    def at_rest(self) -> None:
        at_rest(self.bulkhead)()


class SingleFlightMachine(OnLoop):
    """Compares waiters that join, leave and are served with a set of waiters for each key."""

    waiters = Bundle("waiters")

    @initialize()
    def made(self) -> None:
        self.flights = SingleFlight()
        self.loop.run_until_complete(self.flights.start())
        self.waiting: dict[str, set[int]] = {}
        self.runs: dict[str, list[asyncio.Future[str]]] = {}
        self.of: dict[int, tuple[str, asyncio.Task[Any]]] = {}
        self.number = self.started = self.expected_started = 0

    async def work(self, key: str) -> str:
        self.started += 1
        landing: asyncio.Future[str] = self.loop.create_future()
        self.runs.setdefault(key, []).append(landing)
        try:
            return await landing
        finally:
            self.runs[key].remove(landing)

    @rule(target=waiters, key=st.sampled_from("abc"))
    def join(self, key: str) -> int:
        self.number += 1
        if not self.waiting.get(key):
            self.expected_started += 1
        self.of[self.number] = key, self.spawn(self.flights.call(key, lambda: self.work(key)))
        self.waiting.setdefault(key, set()).add(self.number)
        return self.number

    @rule(number=consumes(waiters))
    def leave(self, number: int) -> None:
        key, task = self.of[number]
        task.cancel()
        self.settle()
        if number in self.waiting.get(key, ()):
            self.waiting[key].remove(number)
            assert task.cancelled()

    @rule(number=consumes(waiters))
    def leave_while_another_joins(self, number: int) -> None:
        """Join and leave in the same step. A new caller must not join a flight that ends because its last waiter leaves."""
        key, task = self.of[number]
        task.cancel()
        remaining = self.waiting.get(key, set()) - {number}
        self.expected_started += not remaining
        self.number += 1
        self.of[self.number] = key, self.spawn(self.flights.call(key, lambda: self.work(key)))
        self.waiting[key] = remaining | {self.number}
        assert not self.of[self.number][1].done()

    @rule(key=st.sampled_from("abc"), fails=st.booleans())
    def land(self, key: str, fails: bool) -> None:
        if not self.waiting.get(key):
            return
        landing = self.runs[key][-1]
        if fails:
            landing.set_exception(OSError(key))
        else:
            landing.set_result(key.upper())
        self.settle()
        for number in self.waiting.pop(key):
            task = self.of[number][1]
            self.tasks.discard(task)
            assert task.done()
            if fails:
                assert str(task.exception()) == key
            else:
                assert task.result() == key.upper()

    @invariant()
    def agrees(self) -> None:
        flying = {key for key, waiters in self.waiting.items() if waiters}
        assert self.flights.snapshot()["flying"] == len(flying)
        assert {key for key, runs in self.runs.items() if runs} == flying, (
            "there is work without a waiter, or a waiter without work"
        )
        assert all(len(runs) <= 1 for runs in self.runs.values())
        assert self.started == self.expected_started

    def at_rest(self) -> None:
        at_rest(self.flights)()
        self.loop.run_until_complete(self.flights.aclose())


class PolicyMachine(OnLoop):
    """Makes calls of all kinds through one policy. No call ends after its deadline or is lost, and all resources are given back."""

    calls = Bundle("calls")

    @initialize(limit=st.integers(1, 3), queue=st.integers(0, 3), attempts=st.integers(1, 3))
    def made(self, limit: int, queue: int, attempts: int) -> None:
        self.budget = RetryBudget(ratio=0.2, reserve=4)
        self.policy = Policy(
            "machine",
            timeout=9,
            attempt_timeout=3,
            bulkhead=Bulkhead(limit, queue=queue),
            retry=RetryPolicy(attempts=attempts, backoff=0.5, max_backoff=2, budget=self.budget),
            breaker=CircuitBreaker(minimum_throughput=4, break_duration=2, max_break_duration=8, probes=1),
        )
        self.limit, self.attempts = limit, attempts
        self.inside = self.begun = self.ended = self.retries = 0

    @rule(target=calls, within=seconds, takes=seconds, fails=st.booleans())
    def call(self, within: float, takes: float, fails: bool) -> asyncio.Task[Any]:
        self.begun += 1
        tries = 0

        async def work() -> None:
            nonlocal tries
            tries += 1
            self.inside += 1
            assert self.inside <= self.limit, "more calls are inside than the bulkhead has places"
            began = self.loop.time()
            try:
                await anyio.sleep(takes)
                if fails:
                    raise OSError
            finally:
                self.inside -= 1
                assert self.loop.time() - began <= 3 + SLACK, "an attempt continued past its time limit"

        async def one() -> None:
            began = self.loop.time()
            try:
                with deadline(within):
                    await self.policy.call(work)
            except (OSError, CircuitOpen, Overloaded, DeadlineExceeded):
                pass
            finally:
                self.ended += 1
                assert self.loop.time() <= began + within + SLACK, "a call ended after its deadline"
                assert tries <= self.attempts
                self.retries += max(0, tries - 1)

        return self.spawn(one())

    @rule(task=consumes(calls))
    def cancel(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        self.settle()
        assert task.done()

    @rule(wait=seconds)
    def time_passes(self, wait: float) -> None:
        self.settle(wait)

    @invariant()
    def bounded(self) -> None:
        snapshot = self.policy.snapshot()
        assert snapshot["bulkhead"]["inside"] <= self.limit
        assert self.inside <= snapshot["bulkhead"]["inside"]
        assert snapshot["breaker"]["probes_out"] <= 1
        assert 0 <= self.budget.balance <= 4
        assert snapshot["retries"] == self.budget.snapshot()["spent"] <= 4 + 0.2 * self.begun

    def at_rest(self) -> None:
        self.settle()
        assert self.ended == self.begun, "a call was lost"
        assert self.retries <= self.budget.snapshot()["spent"]
        at_rest(self.policy)()


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = SETTINGS
TestRetryBudget = RetryBudgetMachine.TestCase
TestRetryBudget.settings = SETTINGS
TestBulkhead = BulkheadMachine.TestCase
TestBulkhead.settings = SETTINGS
TestSingleFlight = SingleFlightMachine.TestCase
TestSingleFlight.settings = SETTINGS
TestPolicy = PolicyMachine.TestCase
TestPolicy.settings = SETTINGS
