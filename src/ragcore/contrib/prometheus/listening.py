"""Counts events. Each handler costs some microseconds, because it runs within the call that emits the event."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from ragcore.contrib.prometheus.series import (
    DIFFERENCES,
    LIMITS,
    METHODS,
    OTHER,
    REASONS,
    ROLLOUT_OUTCOMES,
    ROLLOUT_STATUSES,
    SIDES,
    STAGES,
)
from ragcore.events import Event

if TYPE_CHECKING:
    from ragcore.contrib.prometheus.series import Series

__all__ = ["Listening"]

# Outcomes that are not failures of the service.
GONE = ("cancelled", "abandoned")


class Listening:
    """A listener that counts the events of this process.

    Args:
        series: the metrics.
        dependency: returns the label of the dependency with a name.
    """

    def __init__(self, series: Series, dependency: Callable[[str], str]) -> None:
        self._series = series
        self._dependency = dependency
        self._handlers: dict[str, Callable[[Event], None]] = {
            "call.finished": self._finished,
            "tokens.used": self._tokens,
            "bulkhead.admitted": self._admitted,
            "attempt.timeout": lambda event: self._timeout(event, "attempt"),
            "deadline.exceeded": lambda event: self._timeout(event, "deadline"),
            "limit.exceeded": lambda event: series.limits.labels(_one_of(LIMITS, event.source)).inc(),
            "call.hung": lambda event: series.hangs.labels(_one_of(STAGES, event.data["stage"])).inc(),
            "loop.blocked": self._blocked,
            "loop.unblocked": self._unblocked,
            "loop.starved": lambda event: series.starved_seconds.inc(event.data["seconds"]),
            "executor.saturated": lambda _: series.executor.inc(),
            "rollout.started": self._rollout_started,
            "rollout.call": self._rollout_call,
            "rollout.fell_back": lambda event: series.rollout_fallbacks.labels(
                _one_of(ROLLOUT_OUTCOMES, event.data["outcome"])
            ).inc(),
            "rollout.compared": self._rollout_compared,
            "rollout.unshared": lambda _: series.rollout_unshared.inc(),
            **{
                f"rollout.{change}": self._rollout_changed
                for change in ("promoted", "rolled_back", "paused", "resumed")
            },
            **{f"breaker.{state}": self._moved for state in ("closed", "half_open", "open", "isolated")},
        }

    @property
    def names(self) -> Collection[str]:
        """The events that are counted."""
        return self._handlers.keys()

    def __call__(self, event: Event) -> None:
        """Count one of these events."""
        self._handlers[event.name](event)

    def _finished(self, event: Event) -> None:
        data, series = event.data, self._series
        method, stage, whole = _one_of(METHODS, event.source), _one_of(STAGES, data["stage"]), data["outcome"]
        outcome = whole if whole in ("ok", "degraded") else "cancelled" if whole in GONE else "failed"
        exact = _one_of(REASONS, whole) if outcome == "failed" else outcome
        series.calls.labels(method, exact).inc()
        series.call_seconds.labels(method, outcome).observe(data["elapsed"])
        degraded: Mapping[str, str] = data["degraded"]
        for name, seconds in data["stages"].items():
            ended = "degraded" if name in degraded else outcome if name == stage and outcome != "degraded" else "ok"
            series.stage_seconds.labels(name, ended).observe(seconds)
        for name, reason in degraded.items():
            series.degradations.labels(_one_of(STAGES, name), _one_of(REASONS, reason)).inc()
        if whole == "DeadlineExceeded":
            series.timeouts.labels(stage).inc()
        if data["first_token"] is not None:
            series.first_token.observe(data["first_token"])
        if outcome in ("ok", "degraded") and data["found"] is not None:
            series.answers.labels("true" if data["found"] else "false").inc()
        if data["top_score"] is not None:
            series.top_score.observe(data["top_score"])

    def _tokens(self, event: Event) -> None:
        for kind, number in event.data.items():
            if number:
                self._series.tokens.labels(kind).inc(number)

    def _admitted(self, event: Event) -> None:
        self._series.queue_seconds.labels(self._dependency(event.source)).observe(event.data["waited"])

    def _timeout(self, event: Event, limit: str) -> None:
        self._series.dependency_timeouts.labels(self._dependency(event.source), limit).inc()

    def _blocked(self, _: Event) -> None:
        self._series.blocked.inc()
        self._series.blocked_now.set(1)

    def _unblocked(self, event: Event) -> None:
        self._series.blocked_seconds.inc(event.data["seconds"])
        self._series.blocked_now.set(0)

    def _moved(self, event: Event) -> None:
        if "flow" in event.data:  # the breaker of one tenant
            return
        state = event.name.removeprefix("breaker.")
        self._series.breaker_transitions.labels(self._dependency(event.source), state).inc()

    def _rollout_started(self, event: Event) -> None:
        self._series.begin_rollout()
        self._rollout_changed(event)

    def _rollout_changed(self, event: Event) -> None:
        series = self._series
        series.rollout_changes.labels(event.name.removeprefix("rollout.")).inc()
        series.rollout_share.set(event.data["share"])
        for status in ROLLOUT_STATUSES:
            series.rollout_status.labels(status).set(status == event.data["status"])

    def _rollout_call(self, event: Event) -> None:
        side, outcome = _one_of(SIDES, event.data["side"]), _one_of(ROLLOUT_OUTCOMES, event.data["outcome"])
        self._series.rollout_calls.labels(side, outcome).inc()
        if outcome in ("ok", "degraded"):
            self._series.rollout_seconds.labels(side).observe(event.data["seconds"])

    def _rollout_compared(self, event: Event) -> None:
        self._series.rollout_compared.inc()
        for difference in event.data["differ"]:
            self._series.rollout_differences.labels(_one_of(DIFFERENCES, difference)).inc()


def _one_of(known: tuple[str, ...], value: Any) -> str:
    return value if value in known else OTHER
