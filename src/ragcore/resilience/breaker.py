"""A circuit breaker: closed → open → half_open → closed.

It counts outcomes in a sliding time window. It has three rules that many other breakers lack:

- The caller's own cancellation is neither a success nor a failure, and gives a probe's slot back.
- The result of a call that began in an earlier state is ignored. Each change of state begins a new generation, and each permit belongs to one.
- If some flows fail while others succeed, the breaker opens only for the failing flows. Each of them has its own breaker until it succeeds again.

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
from ragcore.resilience.flow import current_flow
from ragcore.resilience.flows_apart import FlowsApart
from ragcore.resilience.permit import Outcome, Permit
from ragcore.resilience.snapshot import BreakerSnapshot
from ragcore.resilience.waking import Sleepers, Waking
from ragcore.resilience.window import SlidingWindow

__all__ = ["CircuitBreaker", "State"]

T = TypeVar("T")
State: TypeAlias = Literal["closed", "open", "half_open", "isolated"]

# The number of durations to remember: enough for a meaningful p95, and few enough to sort when a deadline expires.
REMEMBERED = 64
# While the breaker is open, it remembers the first flows that call, up to this number. Two are enough to know that there are several.
MOST_ASKED = 2
# Breaks vary at random by this share, so that clients whose breakers opened together don't probe together.
JITTER = 0.2


class CircuitBreaker:
    """Stops calls to a dependency that fails, and probes whether it works again.

    Args:
        failure_ratio: the share of failures in the window at which the breaker opens, in (0, 1].
        slow_call_ratio: the share of slow calls in the window at which it opens; used only with `slow_call_duration`.
        slow_call_duration: a call that takes at least this many seconds is slow; None: no call is slow.
        minimum_throughput: the ratios apply only if the window has at least this many calls.
        sampling_duration: the length of the window in seconds.
        break_duration: seconds from opening to the first probe, ±20 %. Each failed probe doubles this time.
        max_break_duration: the upper limit of the break, before the ±20 %. A probe without a result after this time counts as failed.
        probes: the number of concurrent calls while half-open, and the number of successes that close the breaker.
        name: the name in events and errors.

    Several policies and clients of a process can share one breaker: pass the same object.

    Invariant: each change of state begins a new generation with an empty window, in one step, in `_move`. The end of a call of an earlier generation
    changes neither the state nor the window.

    If flows are set (`with flow(name):`) and some of them fail while others succeed, the breaker opens only for the failing flows. Then `state` stays
    "closed", and `snapshot` counts these flows as `flows_apart`.
    """

    sleepers: Sleepers
    slow_call_duration: float

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
            raise ValueError("failure_ratio and slow_call_ratio must be greater than 0 and at most 1")
        if minimum_throughput < 1 or probes < 1:
            raise ValueError("minimum_throughput and probes must be at least 1")
        if not (sampling_duration > 0 and 0 < break_duration <= max_break_duration < math.inf):
            raise ValueError(
                "sampling_duration and break_duration must be positive, and break_duration at most max_break_duration"
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
        self._leave: tuple[CircuitBreaker, int] = (self, 0)  # the permit of each call until the next change of state
        self._window = SlidingWindow(sampling_duration)
        self._open_until = 0.0
        self._reopened = 0
        self._probing = 0
        self._probed_at = 0.0
        self._probes_passed = 0
        self._durations: deque[float] = deque(maxlen=REMEMBERED)
        # Callers of flows that are set apart are registered here too. The flow's own breaker wakes them through `_parent`.
        self.sleepers = Sleepers()
        self._flows = FlowsApart(
            self._window,
            minimum_throughput=minimum_throughput,
            seconds=sampling_duration,
            failure_ratio=failure_ratio,
            slow_ratio=slow_call_ratio if slow_call_duration is not None else math.inf,
            open_for=self._open_for,
        )
        # Shortcuts that each call reads. `_flows` never replaces these two objects.
        self._apart, self._blame = self._flows.of, self._flows.blame
        # Set if this is the breaker of one flow. Then `_parent` is the breaker of all flows.
        self._flow: str | None = None
        self._parent: CircuitBreaker | None = None
        # Flows that have called since it opened. If there is only one, its failed probe opens the breaker again. If there are several, perhaps only the
        # probing flow fails, so the probe of another flow decides.
        self._asked: dict[str, None] = {}
        self._one_probe_failed = False
        self._success = self._failure = self._slow = self._neutral = self._ignored = self._rejected = 0

    @property
    def state(self) -> State:
        """The current state. An open breaker becomes half_open at the first call after its break."""
        return self._state

    def isolate(self) -> None:
        """Open the breaker by hand, until `reset`."""
        self._move("isolated")

    def reset(self) -> None:
        """Close the breaker by hand, for all flows, and empty its window."""
        self._reopened = 0
        self._apart.clear()
        self._move("closed")

    def like(self, name: str) -> CircuitBreaker:
        """Return a new breaker with the same settings."""
        return CircuitBreaker(
            failure_ratio=self.failure_ratio,
            slow_call_ratio=self.slow_call_ratio,
            slow_call_duration=None if math.isinf(self.slow_call_duration) else self.slow_call_duration,
            minimum_throughput=self.minimum_throughput,
            sampling_duration=self.sampling_duration,
            break_duration=self.break_duration,
            max_break_duration=self.max_break_duration,
            probes=self.probes,
            name=name,
        )

    def check(self, flow: str | None = None) -> None:
        """Raise `CircuitOpen` if a call would be refused now. Takes no slot, so use it before a call queues.

        Args:
            flow: the flow of the call; None: the current flow.
        """
        if self._state == "closed" and not self._apart:
            return
        flow = current_flow.get() if flow is None else flow
        # Check the state for all flows before the state of this flow: a breaker that is open for all flows is open for each of them.
        if self._state != "closed":
            self._refuse_unless_probing(clock()(), flow)
        own = self._apart.get(flow)
        if own is not None:
            own.check(flow)

    def acquire(self) -> Permit:
        """Admit one call, synchronously. Report the end of the call on the permit, exactly once.

        Raises:
            CircuitOpen: the breaker is open or isolated, or it is half-open and all its probes are under way.
        """
        now = clock()()
        flow = current_flow.get()
        breaker, generation = self.admit(now, flow)
        return Permit(breaker, generation, now, flow)

    def admit(self, now: float, flow: str) -> tuple[CircuitBreaker, int]:
        """Admit one call as `acquire` does, for a caller that keeps the permit itself.

        Returns:
            The breaker that admitted the call, which is this breaker or the breaker of the flow, and its generation.
        """
        if self._state == "closed" and not self._apart:
            return self._leave
        own = self._apart.get(flow)
        # A closed breaker is removed only here, at the flow's next call, so that no other code has to search for closed breakers.
        if own is not None and own.state == "closed":  # the flow succeeds again
            del self._apart[flow]
        elif own is not None and self._state == "closed":
            return own.admit(now, flow)
        if self._state != "closed":
            if own is not None and self._state != "isolated":
                own.check(flow)
            self._refuse_unless_probing(now, flow)
            if self._state == "open":
                self._move("half_open")
            self._probing += 1
            self._probed_at = now
        return self._leave

    def end(self, generation: int, began: float, outcome: Outcome, now: float, flow: str = "") -> None:
        """Report the outcome of a call that `admit` admitted, exactly once."""
        if listening("breaker.outcome"):
            emit("breaker.outcome", self.name, outcome=outcome, seconds=now - began, state=self._state)
        if generation != self._generation:
            self._ignored += 1
            return
        half_open = (
            self._state != "closed"
        )  # an open breaker admits no calls, so no outcome of its generation can arrive
        # Give the slot back before the outcome is judged: a cancelled probe decides nothing.
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
            # Remember only the durations of successes: the duration of a failure does not show how long an answer takes.
            self._durations.append(duration)
        if half_open:
            self._judge_probe(failed or slow, now, flow)
            return
        calls = self._window.add(now, failed, slow)
        if failed or slow:
            if self._flows.bad(flow, calls, now, failed=failed, slow=slow):
                self._open(now)
            return
        blame = self._blame
        if flow == blame.latest and not blame.failing:  # the fast path of a healthy dependency
            blame.latest_began = began
            return
        self._flows.good(flow, began, now)

    def fail_after_success(self, generation: int, now: float, flow: str = "") -> None:
        """Report that a call failed after its success was reported: a stream broke. The failure can open a closed breaker but does not decide a probe."""
        if generation != self._generation or self._state != "closed":
            self._ignored += 1
            return
        self._failure += 1
        if self._flows.bad(flow, self._window.add(now, True, False), now, failed=True, slow=False):
            self._open(now)

    async def call(self, fn: Callable[[], Awaitable[T]], /) -> T:
        """Call `fn` through the breaker only. Every `Exception` counts as a failure; a cancellation is neutral."""
        time, flow = clock(), current_flow.get()
        began = time()
        breaker, generation = self.admit(began, flow)
        outcome: Outcome = "neutral"  # stays neutral after a cancellation
        try:
            result = await fn()
            outcome = "success"
        except Exception:
            outcome = "failure"
            raise
        finally:
            breaker.end(generation, began, outcome, time(), flow)
        return result

    def served(self, flows: Iterable[str], began: float) -> None:
        """Record that one shared call succeeded for several flows. The breaker has already counted this call once, without a flow.

        Args:
            flows: the flows that the call served.
            began: the time at which the call began.
        """
        now = clock()()
        for flow in flows:
            self._flows.good(flow, began, now, counts=False)

    def wakes(self, wake: Callable[[], object], /) -> Waking:
        """Call `wake` if the breaker opens during the block, so that a caller stops waiting in a queue."""
        return Waking((self.sleepers,), wake, current_flow.get())

    def typical_duration(self) -> float:
        """Return the 95th percentile of the durations of the last 64 successes, in seconds; 0 if there were none."""
        ordered = sorted(self._durations)
        return ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else 0.0

    def snapshot(self) -> BreakerSnapshot:
        """Return state, window and counters, serialisable."""
        now = now_if_any()
        if now is not None:
            self._window.advance(now)
        return BreakerSnapshot(
            name=self.name,
            state=self._state,
            retry_after=max(0.0, self._open_until - now) if self._state == "open" and now is not None else None,
            window_calls=self._window.calls,
            window_failures=self._window.failures,
            window_slow=self._window.slow,
            probes_out=self._probing,
            flows_apart=len(self._flows),
            success=self._success,
            failure=self._failure,
            slow=self._slow,
            neutral=self._neutral,
            ignored=self._ignored,
            rejected=self._rejected,
        )

    def _refuse_unless_probing(self, now: float, flow: str) -> None:
        dependency = self.name or "this dependency"
        if self._flow is not None:
            dependency += " for this flow"
        wait: float | None = None
        if flow not in self._asked and len(self._asked) < MOST_ASKED:
            self._asked[flow] = None
        # On another event loop the clock may have gone back. Then the stored end is too far in the future, so limit it to the longest break.
        self._open_until = min(self._open_until, now + self.max_break_duration * (1 + JITTER))
        if self._state == "half_open" and self._probing >= self.probes:
            if now < self._probed_at + self.max_break_duration:
                wait, why = self.break_duration, "is half-open and all its probes are under way"
            else:  # no probe has ended in time: count that as a failure, because probes that hang must not block all calls forever
                self._judge_probe(True, now, None)
        if self._state == "open" and now < self._open_until:
            wait = self._open_until - now
            why = f"is open after failures; the next probe is in {wait:.1f} s"
        elif self._state == "isolated":
            why = "was opened by hand; call reset() to close it"
        elif wait is None:
            return
        self._rejected += 1
        emit("breaker.rejected", self.name, state=self._state)
        raise CircuitOpen(f"the circuit breaker of {dependency} {why}", dependency=self.name, retry_after=wait)

    def _open_for(self, flow: str, now: float) -> CircuitBreaker:
        """Return an open breaker for one flow."""
        own = self.like(self.name)
        own._flow, own._parent = flow, self
        own._open(now)
        return own

    def _judge_probe(self, failed: bool, now: float, flow: str | None) -> None:
        if not failed:
            self._probes_passed += 1
            if self._probes_passed >= self.probes:
                self._reopened = 0
                self._move("closed")
            return
        own = self._apart.get(flow) if flow is not None else None
        if own is not None and own.state != "closed":
            # The flow is known to fail, so its probe decides nothing for the others. Only its own break gets longer.
            own._judge_probe(True, now, None)
            return
        if flow is not None and not self._one_probe_failed and any(other != flow for other in self._asked):
            # Perhaps only this flow fails: the probe of another flow decides.
            self._one_probe_failed = True
            self._flows.set_apart(flow, now)
            return
        self._reopened += 1
        self._open(now)

    def _open(self, now: float) -> None:
        # The exponent is limited, because 2 ** 2000 does not fit into a float.
        length = min(self.break_duration * 2 ** min(self._reopened, 30), self.max_break_duration)
        self._open_until = now + length * random.uniform(1 - JITTER, 1 + JITTER)
        self._move("open")

    def _move(self, state: State) -> None:
        before, self._state = self._state, state
        self._generation += 1
        self._leave = (self, self._generation)
        self._probing = 0
        self._probes_passed = 0
        calls, failures = self._window.calls, self._window.failures
        self._window.clear()
        self._flows.clear()
        self._one_probe_failed = False
        if state != "half_open":
            self._asked.clear()
        if before != state:
            of_flow = {} if self._flow is None else {"flow": self._flow}
            emit(f"breaker.{state}", self.name, before=before, calls=calls, failures=failures, **of_flow)
        if state in ("open", "isolated"):
            if self._parent is None:
                self.sleepers.wake(None)
            else:
                self._parent.sleepers.wake(self._flow)
