"""A circuit breaker: closed → open → half_open → closed.

It counts outcomes in a sliding time window. Two rules that other breakers break: the caller's own cancellation is neither success nor failure
and gives a probe's slot back; and a result that began in an earlier state is ignored, which each permit's generation tells.

Sources: M. Nygard, "Release It!" (the pattern); resilience4j and Polly (ratio over a sliding window with a minimum throughput, slow calls);
sony/gobreaker (generations).
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, TypeAlias, TypeVar

from ragcore.errors import CircuitOpen
from ragcore.events import emit, listening
from ragcore.resilience.clock import clock, now_if_any
from ragcore.resilience.snapshot import Snapshot
from ragcore.resilience.window import SlidingWindow

__all__ = ["CircuitBreaker", "Outcome", "Permit", "State"]

T = TypeVar("T")
State: TypeAlias = Literal["closed", "open", "half_open", "isolated"]
Outcome: TypeAlias = Literal["success", "failure", "neutral"]

# Enough durations for a p95 that means something, few enough to sort when a deadline expires.
REMEMBERED = 64
# Breaks differ by this share, so that clients that broke together don't probe together.
JITTER = 0.2


class CircuitBreaker:
    """Stops calls to a dependency that fails, and probes whether it is back.

    Args:
        failure_ratio: opens at this share of failures in the window, in (0, 1].
        slow_call_ratio: opens at this share of slow calls; only with `slow_call_duration`.
        slow_call_duration: seconds from which a call is slow; None: none is.
        minimum_throughput: calls in the window before a ratio means anything.
        sampling_duration: seconds of the window.
        break_duration: seconds open before the first probe; doubles each time a probe fails, ±20 %.
        max_break_duration: cap of that; a probe that hasn't come back by then has failed.
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
        self._window = SlidingWindow(sampling_duration)
        self._open_until = 0.0
        self._reopened = 0
        self._probing = 0
        self._probed_at = 0.0
        self._probes_passed = 0
        self._durations: deque[float] = deque(maxlen=REMEMBERED)
        self._queued: set[Callable[[], object]] = set()
        self._success = self._failure = self._slow = self._neutral = self._ignored = self._rejected = 0

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
            self._refuse_unless_probing(clock()())

    def acquire(self) -> Permit:
        """Admit one call, synchronously. Report its end on the permit, exactly once.

        Raises:
            CircuitOpen: open, isolated, or half-open with all probes out.
        """
        now = clock()()
        return Permit(self, self.admit(now), now)

    def admit(self, now: float) -> int:
        """As `acquire`, for a caller that keeps the permit's two numbers itself: the generation, to be handed to `end`."""
        if self._state != "closed":
            self._take_probe(now)
        return self._generation

    def end(self, generation: int, began: float, outcome: Outcome, now: float) -> None:
        """How a call ended that was let in by `admit`; exactly once."""
        if listening():
            emit("breaker.outcome", self.name, outcome=outcome, seconds=now - began, state=self._state)
        if generation != self._generation:
            self._ignored += 1
            return
        half_open = self._state != "closed"
        if half_open:
            self._probing -= 1
        if outcome == "neutral":
            self._neutral += 1
            return
        duration = now - began
        slow = duration >= self.slow_call_duration
        if slow:
            self._slow += 1
        failed = outcome == "failure"
        if failed:
            self._failure += 1
        else:
            self._success += 1
            self._durations.append(duration)
        if half_open:
            self._judge_probe(failed or slow, now)
        else:
            calls = self._window.add(now, failed, slow)
            if (failed or slow) and calls >= self.minimum_throughput:
                self._judge_window(now)

    def fail_after_success(self, generation: int, now: float) -> None:
        """A call that had ended well failed after all: a stream that broke. Decides no probe, opens a closed breaker."""
        if generation != self._generation or self._state != "closed":
            self._ignored += 1
            return
        self._failure += 1
        if self._window.add(now, True, False) >= self.minimum_throughput:
            self._judge_window(now)

    async def call(self, fn: Callable[[], Awaitable[T]], /) -> T:
        """Call `fn` through the breaker alone; every `Exception` counts as a failure, a cancellation is neutral."""
        time = clock()
        began = time()
        generation = self.admit(began)
        outcome: Outcome = "neutral"
        try:
            result = await fn()
            outcome = "success"
        except Exception:
            outcome = "failure"
            raise
        finally:
            self.end(generation, began, outcome, time())
        return result

    def wakes(self, wake: Callable[[], object], /) -> Waking:
        """For the length of the block `wake` is called when the breaker opens: whoever waits in a queue would wait in vain."""
        return Waking((self,), wake)

    def typical_duration(self) -> float:
        """The 95th percentile of the last 64 successes' seconds; 0 if there were none."""
        ordered = sorted(self._durations)
        return ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else 0.0

    def snapshot(self) -> Snapshot:
        """State, window and counters, serialisable."""
        now = now_if_any()
        if now is not None:
            self._window.advance(now)
        return Snapshot(
            name=self.name,
            state=self._state,
            retry_after=max(0.0, self._open_until - now) if self._state == "open" and now is not None else None,
            window_calls=self._window.calls,
            window_failures=self._window.failures,
            window_slow=self._window.slow,
            probes_out=self._probing,
            success=self._success,
            failure=self._failure,
            slow=self._slow,
            neutral=self._neutral,
            ignored=self._ignored,
            rejected=self._rejected,
        )

    def _take_probe(self, now: float) -> None:
        self._refuse_unless_probing(now)
        if self._state == "open":
            self._move("half_open")
        self._probing += 1
        self._probed_at = now

    def _refuse_unless_probing(self, now: float) -> None:
        dependency = self.name or "this dependency"
        wait: float | None = None
        # Longer than any break: the clock went back, for it is another event loop's.
        self._open_until = min(self._open_until, now + self.max_break_duration * (1 + JITTER))
        if self._state == "half_open" and self._probing >= self.probes:
            if now < self._probed_at + self.max_break_duration:
                wait, why = self.break_duration, "is half-open and its probes are out"
            else:  # they never came back: a hung probe must not refuse everyone for ever
                self._judge_probe(True, now)
        if self._state == "open" and now < self._open_until:
            wait = self._open_until - now
            why = f"is open after failures; the next probe is in {wait:.1f} s"
        elif self._state == "isolated":
            why = "was opened by hand; reset() closes it"
        elif wait is None:
            return
        self._rejected += 1
        emit("breaker.rejected", self.name, state=self._state)
        raise CircuitOpen(f"the circuit breaker of {dependency} {why}", dependency=self.name, retry_after=wait)

    def _judge_window(self, now: float) -> None:
        window = self._window
        if window.failures >= self.failure_ratio * window.calls or window.slow >= self.slow_call_ratio * window.calls:
            self._open(now)

    def _judge_probe(self, failed: bool, now: float) -> None:
        if failed:
            self._reopened += 1
            self._open(now)
            return
        self._probes_passed += 1
        if self._probes_passed >= self.probes:
            self._reopened = 0
            self._move("closed")

    def _open(self, now: float) -> None:
        length = min(self.break_duration * 2 ** min(self._reopened, 30), self.max_break_duration)
        self._open_until = now + length * random.uniform(1 - JITTER, 1 + JITTER)
        self._move("open")

    def _move(self, state: State) -> None:
        before, self._state = self._state, state
        self._generation += 1
        self._probing = 0
        self._probes_passed = 0
        calls, failures = self._window.calls, self._window.failures
        self._window.clear()
        if before != state:
            emit(f"breaker.{state}", self.name, before=before, calls=calls, failures=failures)
        if state in ("open", "isolated"):
            for wake in tuple(self._queued):
                wake()


class Waking:
    """For the length of its block `wake` is called when one of the breakers opens. A class, since a generator costs each waiting call twice as much."""

    __slots__ = ("_breakers", "_wake")

    def __init__(self, breakers: Iterable[CircuitBreaker | None], wake: Callable[[], object]) -> None:
        self._breakers = breakers
        self._wake = wake

    def __enter__(self) -> None:
        for breaker in self._breakers:
            if breaker is not None:
                breaker._queued.add(self._wake)

    def __exit__(self, *exc: object) -> None:
        for breaker in self._breakers:
            if breaker is not None:
                breaker._queued.discard(self._wake)


class Permit:
    """The leave for one call. Its end is reported once; what is reported after a change of state is ignored."""

    __slots__ = ("_breaker", "_reported", "began", "generation")

    def __init__(self, breaker: CircuitBreaker, generation: int, began: float) -> None:
        self._breaker = breaker
        self._reported = False
        self.generation = generation
        self.began = began

    def report(self, outcome: Outcome) -> None:
        """How the call ended; only the first report counts.

        Args:
            outcome: "success": the dependency answered. "failure": it failed. "neutral": nothing can be said of it: the caller gave up, or was
                at fault itself.
        """
        if not self._reported:
            self._reported = True
            self._breaker.end(self.generation, self.began, outcome, clock()())

    def success(self) -> None:
        """The dependency answered."""
        self.report("success")

    def failure(self) -> None:
        """The dependency failed."""
        self.report("failure")

    def neutral(self) -> None:
        """Nothing can be said of the dependency: the caller gave up, or was at fault itself."""
        self.report("neutral")

    def failure_after_success(self) -> None:
        """The dependency failed after it had answered well at first: a stream that broke. Decides no probe, opens a closed breaker."""
        if self._reported:
            self._breaker.fail_after_success(self.generation, clock()())
