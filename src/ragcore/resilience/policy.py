"""A policy: all that surrounds one call to a dependency, in a fixed order.

Outermost first: deadline → retry → admission (breaker and bulkhead together) → attempt timeout → call. The breaker is asked before queueing and
again when the turn comes, in the same synchronous step that takes the place; so nothing is held while a retry sleeps, and nobody
waits for a breaker while holding a place. The happy path opens one cancel scope and never enters tenacity.

Source: Polly's resilience pipeline (strategies listed outermost first).
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ragcore.errors import CircuitOpen, DeadlineExceeded
from ragcore.events import emit
from ragcore.resilience.breaker import CircuitBreaker, Permit
from ragcore.resilience.bulkhead import Bulkhead
from ragcore.resilience.deadline import expires_at, inherit
from ragcore.resilience.failure import LONGEST_RETRY_AFTER, Failure, On, judge
from ragcore.resilience.retry import RetryBudget, RetryPolicy
from ragcore.resilience.snapshot import Snapshot

__all__ = ["Hold", "Policy"]

T = TypeVar("T")


# Where nothing has succeeded lately: seconds of waiting in vain that count against the dependency, though the caller's time ran out.
LONG_WITHOUT_SUCCESS = 1.0


class AttemptTimeout(TimeoutError):
    """An attempt took longer than its own limit. May be retried.

    Attributes:
        shortened: the limit was less than the policy's own, for want of the caller's time: then it counts only if most successes would have
            been in time.
    """

    def __init__(self, message: str, *, shortened: bool) -> None:
        super().__init__(message)
        self.shortened = shortened


class Policy:
    """Deadline, retry, breaker, bulkhead and attempt timeout around calls to one dependency.

    Args:
        name: the dependency's, in events and errors.
        on: what may pass: an error type, a tuple of them, or a function that judges an error (`Failure`, or None: the caller's affair).
            None: what the component says that uses the policy; alone, `OSError`.
        timeout: seconds for a whole call where no deadline is inherited.
        attempt_timeout: seconds for one attempt of a call, or for the first answer of a held one.
        first_timeout: seconds to a held stream's first item.
        idle_timeout: seconds between a held stream's items.
        bulkhead: None: 64 at once and 256 waiting; False: no limit.
        retry: None: 3 attempts; False: one.
        breaker: None: opens at half of at least 10 calls within 30 s failing; False: none.
        max_keys: how many keys have a breaker of their own at once; the one that was used longest ago is forgotten first.

    Breakers and bulkheads hold state: share the object to share its state. A policy may be made anywhere and, while idle, change loops.
    What `fn` raised comes out as itself, after the last attempt, or at once if `on` says None; an attempt's own timeout is a `TimeoutError`.

    Example:
        >>> crm = Policy("crm", on=OSError, attempt_timeout=2.0)
        >>> async def ask() -> str:
        ...     return "hello"
        >>> async def main() -> str:
        ...     return await crm.call(ask)
        >>> anyio.run(main)
        'hello'
    """

    def __init__(
        self,
        name: str = "",
        /,
        *,
        on: On | None = None,
        timeout: float = 30.0,
        attempt_timeout: float = 10.0,
        first_timeout: float = 10.0,
        idle_timeout: float = 10.0,
        bulkhead: Bulkhead | Literal[False] | None = None,
        retry: RetryPolicy | Literal[False] | None = None,
        breaker: CircuitBreaker | Literal[False] | None = None,
        max_keys: int = 64,
    ) -> None:
        for label, seconds in (
            ("timeout", timeout),
            ("attempt_timeout", attempt_timeout),
            ("first_timeout", first_timeout),
            ("idle_timeout", idle_timeout),
        ):
            if not seconds > 0:
                raise ValueError(f"{label} is {seconds!r}: it must be positive")
        if max_keys < 1:
            raise ValueError("max_keys is at least 1")
        self.name = name
        self.on = on
        self.timeout = timeout
        self.attempt_timeout = attempt_timeout
        self.first_timeout = first_timeout
        self.idle_timeout = idle_timeout
        self.max_keys = max_keys
        self._bulkhead = Bulkhead(64, queue=256) if bulkhead is None else bulkhead or None
        self._retry = RetryPolicy() if retry is None else retry or None
        self._breaker = CircuitBreaker() if breaker is None else breaker or None
        self._has_default_breaker = breaker is None
        self._budget = None if self._retry is None else self._retry.budget or RetryBudget()
        self._keyed: OrderedDict[str, CircuitBreaker] = OrderedDict()
        self._paused: OrderedDict[str | None, float] = OrderedDict()
        self._calls = 0
        self._retries = 0
        if self._retry is not None:
            import tenacity  # noqa: F401  # loaded when a policy is made, never inside a call
        for part in (self._bulkhead, self._breaker):
            if part is not None:
                part.name = part.name or name

    async def call(self, fn: Callable[[], Awaitable[T]], /, *, key: str | None = None, on: On | None = None) -> T:
        """Call the dependency.

        Args:
            fn: called once per attempt; returns an awaitable.
            key: a breaker for each model or replica.
            on: what may pass, where the policy itself doesn't say.

        Raises:
            DeadlineExceeded: the inherited deadline or `timeout` passed.
            CircuitOpen, Overloaded: the dependency was not asked.
            TimeoutError: the last attempt took longer than `attempt_timeout`.
            What `fn` raised: after the last attempt.

        Cancelled, it leaves nothing behind: place, permit and probe slot are back.
        """
        call = _Call(self, key, on)
        try:
            return await call.attempt(fn)
        except Exception as error:
            return await call.again(error, lambda: call.attempt(fn))

    def hold(self, *, key: str | None = None, on: On | None = None) -> AbstractAsyncContextManager[Hold]:
        """A place that is kept for a stream, to the end of the block.

        The breaker judges the first item and the end. `Hold.call` retries until the first item has been handed on.
        """
        return Hold(self, key, on)

    def breaker(self, key: str | None = None) -> CircuitBreaker | None:
        """The breaker that calls with this key pass; None if there is none."""
        if key is None or self._breaker is None or self._breaker.state == "isolated":
            return self._breaker
        breaker = self._keyed.get(key)
        if breaker is None:
            breaker = self._keyed[key] = self._like(self._breaker, key)
            while len(self._keyed) > self.max_keys:
                self._keyed.popitem(last=False)
        else:
            self._keyed.move_to_end(key)
        return breaker

    @property
    def has_default_breaker(self) -> bool:
        """Whether no breaker was given: then components take one for each model; one that was given is shared by all."""
        return self._has_default_breaker

    @property
    def bulkhead(self) -> Bulkhead | None:
        """The bulkhead that calls pass; None if there is none."""
        return self._bulkhead

    def snapshot(self) -> Snapshot:
        """Counters, and the parts' own snapshots, serialisable."""
        return Snapshot(
            name=self.name,
            calls=self._calls,
            retries=self._retries,
            paused_for=max(0.0, max(self._paused.values(), default=-math.inf) - anyio.current_time()),
            breaker=self._breaker and self._breaker.snapshot(),
            keys={key: breaker.snapshot() for key, breaker in self._keyed.items()},
            bulkhead=self._bulkhead and self._bulkhead.snapshot(),
            retry_budget=self._budget and self._budget.snapshot(),
        )

    @staticmethod
    def _like(pattern: CircuitBreaker, key: str) -> CircuitBreaker:
        slow = pattern.slow_call_duration
        return CircuitBreaker(
            failure_ratio=pattern.failure_ratio,
            slow_call_ratio=pattern.slow_call_ratio,
            slow_call_duration=None if math.isinf(slow) else slow,
            minimum_throughput=pattern.minimum_throughput,
            sampling_duration=pattern.sampling_duration,
            break_duration=pattern.break_duration,
            max_break_duration=pattern.max_break_duration,
            probes=pattern.probes,
            name=f"{pattern.name}[{key}]",
        )

    def _pause(self, key: str | None, seconds: float) -> None:
        """Leave the dependency, or the model of a key, alone for as long as it asked, within reason."""
        until = anyio.current_time() + min(seconds, LONGEST_RETRY_AFTER)
        self._paused[key] = max(self._paused.get(key, -math.inf), until)
        self._paused.move_to_end(key)
        while len(self._paused) > self.max_keys:
            self._paused.popitem(last=False)
        emit("policy.paused", self.name, seconds=seconds)


class _Call:
    """The state of one call: its deadline, its breaker, how often it was tried."""

    __slots__ = ("attempts", "began", "breaker", "cancellations", "key", "on", "open_by", "policy", "when")

    def __init__(self, policy: Policy, key: str | None, on: On | None) -> None:
        self.policy = policy
        self.key = key
        self.on = policy.on or on or OSError
        self.breaker = policy._breaker if key is None else policy.breaker(key)
        self.began = anyio.current_time()
        inherited = expires_at()
        self.when = inherited if inherited < math.inf else self.began + policy.timeout
        self.open_by = math.inf
        self.attempts = 0
        self.cancellations = _cancellations()
        policy._calls += 1
        if policy._budget is not None:
            policy._budget.deposit()

    async def attempt(self, fn: Callable[[], Awaitable[T]]) -> T:
        """One attempt: admission, bound, judgement; everything is given back."""
        admitted = await self.admit()
        try:
            result = await self.bounded(fn, self.policy.attempt_timeout, admitted)
        except BaseException as error:
            admitted.end(self.blame(error, admitted.began))
            raise
        admitted.end("success")
        return result

    async def admit(self) -> _Admitted:
        """Wait for a place, and take it with the breaker's permit in one synchronous step."""
        policy = self.policy
        now = self.began if self.attempts == 0 else anyio.current_time()
        self.attempts += 1
        while policy._paused.get(self.key, -math.inf) > now:  # it may be extended meanwhile
            await self.wait_for_pause()
            now = anyio.current_time()
        if self.breaker is not None:
            self.breaker.check()
        bulkhead = policy._bulkhead
        if bulkhead is not None and not bulkhead.try_acquire():
            await self.queue(bulkhead)
            now = anyio.current_time()
        try:
            permit = None if self.breaker is None else self.breaker.acquire(now)
        except BaseException:
            if bulkhead is not None:
                bulkhead.release()
            raise
        return _Admitted(bulkhead, permit, now)

    async def queue(self, bulkhead: Bulkhead) -> None:
        with anyio.CancelScope(deadline=self.when) as scope:
            await bulkhead.acquire(self.when)
            return
        if scope.cancelled_caught:
            raise self.expired("waiting for a place")

    async def wait_for_pause(self) -> None:
        """A 429 paces everyone: wait, or say at once that there is no time to."""
        policy = self.policy
        until = policy._paused[self.key]
        wait = until - anyio.current_time()
        if until >= min(self.when, self.open_by):
            name = policy.name or "the dependency"
            raise CircuitOpen(
                f"{name} asked to be left alone for another {wait:.1f} s, which is past the deadline",
                dependency=policy.name,
                retry_after=wait,
            )
        await anyio.sleep(wait)

    async def bounded(self, fn: Callable[[], Awaitable[T]], limit: float, admitted: _Admitted) -> T:
        own = min(admitted.began + limit, self.open_by)
        when = min(own, self.when)
        with anyio.CancelScope(deadline=when) as scope, inherit(when):
            return await fn()
        if not scope.cancelled_caught:  # pragma: no cover  # the block either returned or was cancelled
            raise AssertionError
        if own <= self.when:
            elapsed = anyio.current_time() - admitted.began
            message = f"{self.policy.name or 'the dependency'} did not answer within {elapsed:.1f} s"
            raise AttemptTimeout(message, shortened=own < admitted.began + limit)
        raise self.expired("waiting for the answer")

    def blame(self, error: BaseException, began: float) -> Literal["success", "failure", "neutral"]:
        """Whether the error of an attempt counts against the dependency.

        Args:
            began: when the attempt began; the time in the queue is not the dependency's.
        """
        if isinstance(error, AttemptTimeout) and not error.shortened:
            return "failure"
        now = anyio.current_time()
        ran_out = isinstance(error, AttemptTimeout | DeadlineExceeded) or (
            not isinstance(error, Exception) and now >= self.when
        )
        if ran_out:
            # Too short a time says nothing about the dependency; one in which most successes would have come does.
            typical = 0.0 if self.breaker is None else self.breaker.typical_duration()
            return "failure" if now - began > (typical or LONG_WITHOUT_SUCCESS) else "neutral"
        if not isinstance(error, Exception) or _cancellations() > self.cancellations:
            return "neutral"
        failure = judge(self.on, error)
        if failure is None:
            return "neutral"
        if failure.retry_after and not failure.counts:
            self.policy._pause(self.key, failure.retry_after)
        return "failure" if failure.counts else "neutral"

    async def again(self, error: Exception, attempt: Callable[[], Awaitable[T]]) -> T:
        """After a failed attempt: try again if that makes sense, or let the error out as itself."""
        await self.yield_to_cancellation(error)
        retry = self.policy._retry
        if retry is None or self.attempts >= retry.attempts or self.failure(error) is None:
            raise error
        try:
            return await retry.run(attempt, first=error, wait=self.wait_before_retry)
        except Exception as last:
            await self.yield_to_cancellation(last)
            raise

    async def yield_to_cancellation(self, error: Exception) -> None:
        """An error raised while the caller is being cancelled must not swallow the cancellation."""
        await checkpoint_if_cancelled()  # an anyio scope delivers its own
        if _cancellations() > self.cancellations:
            raise asyncio.CancelledError from error

    def failure(self, error: Exception) -> Failure | None:
        if isinstance(error, AttemptTimeout):
            return Failure()
        failure = judge(self.on, error)
        return failure if failure is not None and failure.retry else None

    def wait_before_retry(self, error: Exception, number: int) -> float | None:
        """Seconds to wait, or None if another attempt is not allowed, not affordable, or would not fit."""
        policy, retry = self.policy, self.policy._retry
        assert retry is not None
        failure = self.failure(error)
        if failure is None or number >= retry.attempts or _cancellations() > self.cancellations:
            return None
        wait = retry.wait_before(number, failure.retry_after)
        if anyio.current_time() + wait >= min(self.when, self.open_by):
            return None
        if policy._budget is not None and not policy._budget.withdraw():
            emit("retry.budget_empty", policy.name)
            return None
        policy._retries += 1
        emit("retry.attempt", policy.name, attempt=number + 1, wait=wait, error=type(error).__name__)
        return wait

    def expired(self, what: str) -> DeadlineExceeded:
        elapsed = anyio.current_time() - self.began
        return DeadlineExceeded(
            f"{self.policy.name or 'the dependency'}: the deadline passed while {what}, after {elapsed:.2f} s",
            budget=self.when - self.began,
            elapsed=elapsed,
        )


class _Admitted:
    """A place and a permit; ended once, synchronously, so that no cancellation can come between."""

    __slots__ = ("_bulkhead", "_ended", "began", "permit")

    def __init__(self, bulkhead: Bulkhead | None, permit: Permit | None, began: float) -> None:
        self._bulkhead = bulkhead
        self.permit = permit
        self.began = began
        self._ended = False

    def judge(self, outcome: Literal["success", "failure", "neutral"], now: float) -> None:
        """Tell the breaker; only the first time counts."""
        permit = self.permit
        if permit is None:
            return
        if outcome == "success":
            permit.success(now)
        elif outcome == "failure":
            permit.failure(now)
        else:
            permit.neutral()

    def end(self, outcome: Literal["success", "failure", "neutral"]) -> None:
        """Tell the breaker and give the place back."""
        if self._ended:
            return
        self._ended = True
        now = anyio.current_time()
        self.judge(outcome, now)
        if self._bulkhead is not None:
            self._bulkhead.release(None if outcome == "neutral" else now - self.began)


class Hold:
    """A place at a dependency that is kept for a stream. Made by `Policy.hold()`."""

    def __init__(self, policy: Policy, key: str | None, on: On | None) -> None:
        self._policy = policy
        self._key = key
        self._on = on
        self._call: _Call | None = None
        self._admitted: _Admitted | None = None
        self._handed_on = False
        self._reading: list[AsyncGenerator[Any, None]] = []
        self._outcome: Literal["success", "neutral"] = "neutral"

    async def __aenter__(self) -> Self:
        self._call = _Call(self._policy, self._key, self._on)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        try:
            for items in self._reading:
                await items.aclose()
        finally:
            if self._admitted is not None:
                self._admitted.end(self._outcome)

    @property
    def attempts(self) -> int:
        """How often the dependency was asked so far."""
        return 0 if self._call is None else self._call.attempts

    async def call(self, fn: Callable[[], Awaitable[T]], /, *, timeout: float | None = None) -> T:
        """Open the stream: the place is taken and kept; what fails is retried, as in `Policy.call`, with the place given back meanwhile.

        May be called again to reopen a stream that broke before its first item was handed on.

        Args:
            fn: called once per attempt.
            timeout: seconds for the opening with all its attempts; running out of them counts against the dependency.
        """
        call = self._opened()
        if timeout is not None:
            call.open_by = anyio.current_time() + timeout
        if self._handed_on:
            raise RuntimeError("the first item has been handed on: opening the stream again would repeat it")

        async def attempt() -> T:
            if self._admitted is not None:
                self._admitted.end("neutral")
            admitted = self._admitted = await call.admit()
            try:
                return await call.bounded(fn, self._policy.attempt_timeout, admitted)
            except BaseException as error:
                admitted.end(call.blame(error, admitted.began))
                raise

        try:
            return await attempt()
        except Exception as error:
            return await call.again(error, attempt)

    def items(self, source: AsyncIterable[T], /) -> AsyncGenerator[T, None]:
        """The items of `source`, each within its time: the first within `first_timeout`, then `idle_timeout`, all within the deadline.

        No cancel scope is open across the `yield`. The consumer's time counts in the deadline, not in the timeouts.

        Raises:
            TimeoutError: an item took too long.
            DeadlineExceeded: the deadline passed.
        """
        items = self._read(self._opened(), source.__aiter__())
        self._reading.append(items)
        return items

    async def _read(self, call: _Call, iterator: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        if self._admitted is None:  # a stream that needs no opening takes its place here
            self._admitted = await call.admit()
        try:
            while True:
                limit = self._policy.idle_timeout if self._handed_on else self._policy.first_timeout
                try:
                    item = await self._next(call, iterator, limit)
                except StopAsyncIteration:
                    self._judge("success")
                    return
                except BaseException as error:
                    self._judge(call.blame(error, anyio.current_time() - limit))
                    raise
                self._judge("success")
                self._handed_on = True
                yield item
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()

    async def _next(self, call: _Call, iterator: AsyncIterator[T], limit: float) -> T:
        own = anyio.current_time() + limit
        when = min(own, call.when)
        with anyio.CancelScope(deadline=when) as scope, inherit(when):
            return await iterator.__anext__()
        if not scope.cancelled_caught:  # pragma: no cover  # the block either returned or was cancelled
            raise AssertionError
        if own <= call.when:
            what = "stopped for" if self._handed_on else "sent nothing within"
            message = f"{self._policy.name or 'the stream'} {what} {limit:g} s"
            raise AttemptTimeout(message, shortened=False)
        raise call.expired("reading the stream")

    def _judge(self, outcome: Literal["success", "failure", "neutral"]) -> None:
        admitted = self._admitted
        if admitted is None:
            return
        if self._handed_on and outcome == "failure" and admitted.permit is not None:
            admitted.permit.failure_after_success()
        admitted.judge(outcome, anyio.current_time())
        if outcome == "success":
            self._outcome = "success"

    def _opened(self) -> _Call:
        if self._call is None:
            raise RuntimeError("use `async with policy.hold() as held`")
        return self._call


def _cancellations() -> int:
    """How often the current asyncio task was asked to cancel; 0 under trio, whose cancellation can't be swallowed."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return 0
    return 0 if task is None else task.cancelling()
