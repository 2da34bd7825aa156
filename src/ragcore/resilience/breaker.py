"""A circuit breaker: closed → open → half_open → closed.

It counts outcomes in a sliding time window. Three rules that other breakers break: the caller's own cancellation is neither success nor failure
and gives a probe's slot back; a result that began in an earlier state is ignored, which each permit's generation tells; and where some flows
fail while others are served, it is opened for those alone, each of which then has a breaker of its own until it is served again.

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

# Enough durations for a p95 that means something, few enough to sort when a deadline expires.
REMEMBERED = 64
# Flows that asked while it was open: two tell whether there is more than one.
MOST_ASKED = 2
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
        max_break_duration: cap of that, before the ±20 %; a probe that hasn't come back by then has failed.
        probes: calls at once while half-open, and successes that close it.
        name: in events and errors.

    One breaker can serve several policies and clients of a process: share the object.

    Invariant: each change of state begins a new generation with an empty window, in one step, in `_move`. The end of a call of an earlier generation
    changes neither, so no late result can close, open or probe.

    Where flows are set (`with flow(name):`) and some fail while others are served, it opens for those alone; `state` stays "closed" then, and
    `snapshot` counts the flows that are set apart.
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
        self._leave: tuple[CircuitBreaker, int] = (self, 0)  # what each call gets until the next change of state
        self._window = SlidingWindow(sampling_duration)
        self._open_until = 0.0
        self._reopened = 0
        self._probing = 0
        self._probed_at = 0.0
        self._probes_passed = 0
        self._durations: deque[float] = deque(maxlen=REMEMBERED)
        # Those of flows set apart wait here as well: a flow's own breaker has no queue before it.
        self.sleepers = Sleepers()
        self._flows = FlowsApart(
            self._window,
            minimum_throughput=minimum_throughput,
            seconds=sampling_duration,
            failure_ratio=failure_ratio,
            slow_ratio=slow_call_ratio if slow_call_duration is not None else math.inf,
            open_for=self._open_for,
        )
        # Theirs, looked at by each call; the same two objects for good.
        self._apart, self._blame = self._flows.of, self._flows.blame
        self._flow: str | None = None  # whose alone it is, and of which breaker
        self._parent: CircuitBreaker | None = None
        # Flows that asked since it opened: a failed probe of the only one decides, of one among several it may be that flow's own affair.
        self._asked: dict[str, None] = {}
        self._one_probe_failed = False
        self._success = self._failure = self._slow = self._neutral = self._ignored = self._rejected = 0

    @property
    def state(self) -> State:
        """As of now; an open breaker turns half_open when its break is over and a call asks."""
        return self._state

    def isolate(self) -> None:
        """Open it by hand, until `reset`."""
        self._move("isolated")

    def reset(self) -> None:
        """Close it by hand, for all flows, with an empty window."""
        self._reopened = 0
        self._apart.clear()
        self._move("closed")

    def like(self, name: str) -> CircuitBreaker:
        """Another one with the same settings."""
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
        """Raise `CircuitOpen` if a call would be refused now; takes no slot, so ask before queueing.

        Args:
            flow: for whom; None: the flow in force.
        """
        if self._state == "closed" and not self._apart:
            return
        flow = current_flow.get() if flow is None else flow
        # Its own state before the flow's: what is closed to all is closed to each.
        if self._state != "closed":
            self._refuse_unless_probing(clock()(), flow)
        own = self._apart.get(flow)
        if own is not None:
            own.check(flow)

    def acquire(self) -> Permit:
        """Admit one call, synchronously. Report its end on the permit, exactly once.

        Raises:
            CircuitOpen: open, isolated, or half-open with all probes out.
        """
        now = clock()()
        flow = current_flow.get()
        breaker, generation = self.admit(now, flow)
        return Permit(breaker, generation, now, flow)

    def admit(self, now: float, flow: str) -> tuple[CircuitBreaker, int]:
        """As `acquire`, for a caller that keeps the permit itself: the breaker that let it in, this one or the flow's own, and its generation."""
        if self._state == "closed" and not self._apart:
            return self._leave
        own = self._apart.get(flow)
        # Forgotten only here, when the flow asks: nothing has to look for breakers that have closed.
        if own is not None and own.state == "closed":  # it is served again
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
        """How a call ended that was let in by `admit`; exactly once."""
        if listening():
            emit("breaker.outcome", self.name, outcome=outcome, seconds=now - began, state=self._state)
        if generation != self._generation:
            self._ignored += 1
            return
        half_open = self._state != "closed"  # an open breaker lets nobody in, so nobody of its generation ends
        # The slot before the verdict: a probe that was cancelled gives it back, and says nothing.
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
            self._durations.append(
                duration
            )  # successes alone: how long a failure took says nothing of how long to wait
        if half_open:
            self._judge_probe(failed or slow, now, flow)
            return
        calls = self._window.add(now, failed, slow)
        if failed or slow:
            if self._flows.bad(flow, calls, now, failed=failed, slow=slow):
                self._open(now)
            return
        blame = self._blame
        if flow == blame.latest and not blame.failing:  # the way of every call that goes well
            blame.latest_began = began
            return
        self._flows.good(flow, began, now)

    def fail_after_success(self, generation: int, now: float, flow: str = "") -> None:
        """A call that had ended well failed after all: a stream that broke. Decides no probe, opens a closed breaker."""
        if generation != self._generation or self._state != "closed":
            self._ignored += 1
            return
        self._failure += 1
        if self._flows.bad(flow, self._window.add(now, True, False), now, failed=True, slow=False):
            self._open(now)

    async def call(self, fn: Callable[[], Awaitable[T]], /) -> T:
        """Call `fn` through the breaker alone; every `Exception` counts as a failure, a cancellation is neutral."""
        time, flow = clock(), current_flow.get()
        began = time()
        breaker, generation = self.admit(began, flow)
        outcome: Outcome = "neutral"  # unless something else is known: a cancellation leaves it so
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
        """One call that began then has served several flows: none of them is failing. Its end has been counted once, as nobody's."""
        now = clock()()
        for flow in flows:
            self._flows.good(flow, began, now, counts=False)

    def wakes(self, wake: Callable[[], object], /) -> Waking:
        """For the length of the block `wake` is called when the breaker opens: whoever waits in a queue would wait in vain."""
        return Waking((self.sleepers,), wake, current_flow.get())

    def typical_duration(self) -> float:
        """The 95th percentile of the last 64 successes' seconds; 0 if there were none."""
        ordered = sorted(self._durations)
        return ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else 0.0

    def snapshot(self) -> BreakerSnapshot:
        """State, window and counters, serialisable."""
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
            dependency += ", for this flow alone,"
        wait: float | None = None
        if flow not in self._asked and len(self._asked) < MOST_ASKED:
            self._asked[flow] = None
        # Longer than any break: the clock went back, for it is another event loop's.
        self._open_until = min(self._open_until, now + self.max_break_duration * (1 + JITTER))
        if self._state == "half_open" and self._probing >= self.probes:
            if now < self._probed_at + self.max_break_duration:
                wait, why = self.break_duration, "is half-open and its probes are out"
            else:  # they never came back: a hung probe must not refuse everyone for ever
                self._judge_probe(True, now, None)
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

    def _open_for(self, flow: str, now: float) -> CircuitBreaker:
        """A breaker for one flow alone, which is open."""
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
            # It is known to fail, so it decides nothing for the others; its own break gets longer.
            own._judge_probe(True, now, None)
            return
        if flow is not None and not self._one_probe_failed and any(other != flow for other in self._asked):
            # It may be this flow's own affair: another one's probe decides.
            self._one_probe_failed = True
            self._flows.set_apart(flow, now)
            return
        self._reopened += 1
        self._open(now)

    def _open(self, now: float) -> None:
        # The exponent is capped as well: 2 ** 2000 is no float.
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
            whose = {} if self._flow is None else {"flow": self._flow}
            emit(f"breaker.{state}", self.name, before=before, calls=calls, failures=failures, **whose)
        if state in ("open", "isolated"):
            if self._parent is None:
                self.sleepers.wake(None)
            else:
                self._parent.sleepers.wake(self._flow)
