"""A circuit breaker: closed → open → half_open → closed.

It counts outcomes in a sliding time window, a ring of buckets, O(1) a call. Two rules that other breakers break: the caller's own
cancellation is neither success nor failure and gives a probe's slot back; and a result that began in an earlier state is ignored, which
each permit's generation tells.

Sources: M. Nygard, "Release It!" (the pattern); resilience4j and Polly (ratio over a sliding window with a minimum throughput, slow calls);
sony/gobreaker (generations).
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias, TypeVar

import anyio

from ragcore.errors import CircuitOpen
from ragcore.events import emit
from ragcore.resilience.snapshot import Snapshot

__all__ = ["CircuitBreaker", "Permit", "State"]

T = TypeVar("T")
State: TypeAlias = Literal["closed", "open", "half_open", "isolated"]

BUCKETS = 10
# Enough durations for a p95 that means something, few enough to sort when a deadline expires.
REMEMBERED = 64


class CircuitBreaker:
    """Stops calls to a dependency that fails, and probes whether it is back.

    Args:
        failure_ratio: opens at this share of failures in the window, in (0, 1].
        slow_call_ratio: opens at this share of slow calls; only with `slow_call_duration`.
        slow_call_duration: seconds from which a call is slow; None: none is.
        minimum_throughput: calls in the window before a ratio means anything.
        sampling_duration: seconds of the window.
        break_duration: seconds open before the first probe; doubles each time a probe fails, ±20 %.
        max_break_duration: cap of that.
        probes: calls at once while half-open, and successes that close it.
        name: in events and errors.

    One breaker can serve several policies and clients of a process: share the object.
    """

    def __init__(
        self,
        *,
        failure_ratio: float = 0.5,
        slow_call_ratio: float = 0.8,
        slow_call_duration: float | None = None,
        minimum_throughput: int = 10,
        sampling_duration: float = 30.0,
        break_duration: float = 5.0,
        max_break_duration: float = 60.0,
        probes: int = 2,
        name: str = "",
    ) -> None:
        if not (0 < failure_ratio <= 1 and 0 < slow_call_ratio <= 1):
            raise ValueError("failure_ratio and slow_call_ratio are shares: they lie in (0, 1]")
        if minimum_throughput < 1 or probes < 1:
            raise ValueError("minimum_throughput and probes are at least 1")
        if not (sampling_duration > 0 and 0 < break_duration <= max_break_duration < math.inf):
            raise ValueError(
                "sampling_duration and break_duration are positive, and break_duration at most max_break_duration"
            )
        self.name = name
        self.failure_ratio = failure_ratio
        self.slow_call_ratio = slow_call_ratio
        self.slow_call_duration = math.inf if slow_call_duration is None else slow_call_duration
        self.minimum_throughput = minimum_throughput
        self.sampling_duration = sampling_duration
        self.break_duration = break_duration
        self.max_break_duration = max_break_duration
        self.probes = probes
        self._state: State = "closed"
        self._generation = 0
        self._window = _Window(sampling_duration)
        self._open_until = 0.0
        self._reopened = 0
        self._probing = 0
        self._probes_passed = 0
        self._durations: deque[float] = deque(maxlen=REMEMBERED)
        self._totals = dict.fromkeys(("success", "failure", "slow", "neutral", "ignored", "rejected"), 0)

    @property
    def state(self) -> State:
        """As of now; an open breaker turns half_open when its break is over and a call asks."""
        return self._state

    def isolate(self) -> None:
        """Open it by hand, until `reset`."""
        self._move("isolated")

    def reset(self) -> None:
        """Close it by hand, with an empty window."""
        self._reopened = 0
        self._move("closed")

    def check(self) -> None:
        """Raise `CircuitOpen` if a call would be refused now; takes no slot, so ask before queueing."""
        if self._state != "closed":
            self._refuse_unless_probing()

    def acquire(self, now: float | None = None) -> Permit:
        """Admit one call, synchronously. Report its end on the permit, exactly once.

        Args:
            now: `anyio.current_time()`, for a caller that has just looked at the clock.

        Raises:
            CircuitOpen: open, isolated, or half-open with all probes out.
        """
        if now is None:
            now = anyio.current_time()
        if self._state != "closed":
            self._refuse_unless_probing()
            if self._state == "open":
                self._move("half_open")
            self._probing += 1
        return Permit(self, self._generation, now)

    async def call(self, fn: Callable[[], Awaitable[T]], /) -> T:
        """Call `fn` through the breaker alone; every `Exception` counts as a failure, a cancellation is neutral."""
        permit = self.acquire()
        try:
            result = await fn()
        except Exception:
            permit.failure()
            raise
        except BaseException:
            permit.neutral()
            raise
        permit.success()
        return result

    def typical_duration(self) -> float:
        """The 95th percentile of the last 64 successes' seconds; 0 if there were none."""
        ordered = sorted(self._durations)
        return ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else 0.0

    def snapshot(self) -> Snapshot:
        """State, window and counters, serialisable."""
        calls, failures, slow = self._window.totals(anyio.current_time())
        return Snapshot(
            name=self.name,
            state=self._state,
            retry_after=self._retry_after(),
            window_calls=calls,
            window_failures=failures,
            window_slow=slow,
            probes_out=self._probing,
            **self._totals,
        )

    def _retry_after(self) -> float | None:
        if self._state == "open":
            return max(0.0, self._open_until - anyio.current_time())
        return None

    def _refuse_unless_probing(self) -> None:
        if self._state == "open" and anyio.current_time() >= self._open_until:
            return
        if self._state == "half_open" and self._probing < self.probes:
            return
        self._totals["rejected"] += 1
        emit("breaker.rejected", self.name, state=self._state)
        wait = self._retry_after()
        match self._state:
            case "isolated":
                why = "was opened by hand; reset() closes it"
            case "half_open":
                why, wait = "is half-open and its probes are out", self.break_duration
            case _:
                why = f"is open after failures; the next probe is in {wait:.1f} s"
        dependency = self.name or "this dependency"
        raise CircuitOpen(f"the circuit breaker of {dependency} {why}", dependency=self.name, retry_after=wait)

    def _end(self, permit: Permit, outcome: Literal["success", "failure", "neutral"], now: float | None) -> None:
        if permit.generation != self._generation:
            self._totals["ignored"] += 1
            return
        if self._state == "half_open":
            self._probing -= 1
        if outcome == "neutral":
            self._totals["neutral"] += 1
            return
        if now is None:
            now = anyio.current_time()
        duration = now - permit.began
        slow = duration >= self.slow_call_duration
        self._totals[outcome] += 1
        self._totals["slow"] += slow
        failed = outcome == "failure"
        if not failed:
            self._durations.append(duration)
        if self._state == "half_open":
            self._judge_probe(failed or slow)
        elif self._window.add(now, failed, slow) >= self.minimum_throughput and (failed or slow):
            self._judge_window()

    def _late_failure(self, permit: Permit) -> None:
        if permit.generation != self._generation or self._state != "closed":
            self._totals["ignored"] += 1
            return
        self._totals["failure"] += 1
        if self._window.add(anyio.current_time(), True, False) >= self.minimum_throughput:
            self._judge_window()

    def _judge_window(self) -> None:
        window = self._window
        if window.failures >= self.failure_ratio * window.calls or window.slow >= self.slow_call_ratio * window.calls:
            self._move("open")

    def _judge_probe(self, failed: bool) -> None:
        if failed:
            self._reopened += 1
            self._move("open")
            return
        self._probes_passed += 1
        if self._probes_passed >= self.probes:
            self._reopened = 0
            self._move("closed")

    def _move(self, state: State) -> None:
        before, self._state = self._state, state
        self._generation += 1
        self._probing = 0
        self._probes_passed = 0
        calls, failures = self._window.calls, self._window.failures
        self._window.clear()
        if state == "open":
            length = min(self.break_duration * 2 ** min(self._reopened, 30), self.max_break_duration)
            self._open_until = anyio.current_time() + length * random.uniform(0.8, 1.2)
        if before != state:
            emit(f"breaker.{state}", self.name, before=before, calls=calls, failures=failures)


class Permit:
    """The leave for one call. Its end is reported once; what is reported after a change of state is ignored."""

    __slots__ = ("_breaker", "_judged", "began", "generation")

    def __init__(self, breaker: CircuitBreaker, generation: int, began: float) -> None:
        self._breaker: CircuitBreaker | None = breaker
        self._judged: CircuitBreaker | None = None
        self.generation = generation
        self.began = began

    def success(self, now: float | None = None) -> None:
        """The dependency answered."""
        self._report("success", now)

    def failure(self, now: float | None = None) -> None:
        """The dependency failed."""
        self._report("failure", now)

    def neutral(self) -> None:
        """Nothing can be said of the dependency: the caller gave up, or was at fault itself."""
        self._report("neutral", None)

    def failure_after_success(self) -> None:
        """The dependency failed after it had answered well at first: a stream that broke. Decides no probe, opens a closed breaker."""
        if self._judged is not None:
            self._judged._late_failure(self)

    def _report(self, outcome: Literal["success", "failure", "neutral"], now: float | None) -> None:
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            self._judged = breaker
            breaker._end(self, outcome, now)


class _Window:
    """Calls, failures and slow calls of the last `seconds`, in a ring of buckets that is advanced on use."""

    __slots__ = ("_buckets", "_head", "_period", "calls", "failures", "slow")

    def __init__(self, seconds: float) -> None:
        self._period = seconds / BUCKETS
        self.clear()

    def clear(self) -> None:
        self._buckets = [[0, 0, 0] for _ in range(BUCKETS)]
        self._head = -1
        self.calls = self.failures = self.slow = 0

    def add(self, now: float, failed: bool, slow: bool) -> int:
        """Count one call; how many the window holds now."""
        period = int(now / self._period)
        if period != self._head:
            self._advance(period)
        bucket = self._buckets[self._head % BUCKETS]
        bucket[0] += 1
        self.calls += 1
        if failed:
            bucket[1] += 1
            self.failures += 1
        if slow:
            bucket[2] += 1
            self.slow += 1
        return self.calls

    def totals(self, now: float) -> tuple[int, int, int]:
        self._advance(int(now / self._period))
        return self.calls, self.failures, self.slow

    def _advance(self, period: int) -> None:
        steps = min(period - self._head, BUCKETS)  # a clock that stood still or went back moves nothing
        for step in range(1, steps + 1):
            bucket = self._buckets[(period - steps + step) % BUCKETS]
            self.calls -= bucket[0]
            self.failures -= bucket[1]
            self.slow -= bucket[2]
            bucket[:] = (0, 0, 0)
        self._head = max(self._head, period)
