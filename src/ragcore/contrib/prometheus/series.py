"""The metrics, with their labels and buckets. The values of each label are a fixed set, or the names of the client's dependencies.

No label holds a tenant, a question, a document or the text of an error: a label with free values makes a new time series for each value.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ragcore import errors

__all__ = ["OTHER", "OUTCOMES", "REASONS", "ROLLOUT_STATUSES", "STAGES", "STATES", "Series"]

MultiprocessMode: TypeAlias = Literal["livesum", "livemax", "livemostrecent"]

# The label of a value that is not in the fixed set.
OTHER: Final = "other"
METHODS: Final = ("ask", "stream", "retrieve", "similarity", "add", "delete", "delete_tenant", "documents")
STAGES: Final = ("rewrite", "embed", "search", "rerank", "generate", "write", "start")
OUTCOMES: Final = ("ok", "degraded", "failed", "cancelled")
# The outcome of a call that failed, and the reason for a degradation, are names of error classes.
REASONS: Final = (*errors.__all__, OTHER)
# The error with which a stage usually fails if another one can replace it.
FAILURES: Final = {
    "rewrite": "GenerationError",
    "embed": "EmbeddingError",
    "rerank": "RerankingError",
    "generate": "GenerationError",
}
STATES: Final = ("closed", "half_open", "open", "isolated")
JUDGED: Final = ("success", "failure", "slow", "neutral", "ignored", "rejected")
SIDES: Final = ("stable", "candidate")
ROLLOUT_OUTCOMES: Final = ("ok", "degraded", "failed", "late", "hung")
ROLLOUT_STATUSES: Final = ("running", "paused", "promoted", "rolled_back")
ROLLOUT_CHANGES: Final = ("started", "promoted", "rolled_back", "paused", "resumed")
DIFFERENCES: Final = ("found", "figures", "citations")
LIMITS: Final = ("requests", "tokens", "calls", "spending")

CALL_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0)
STAGE_BUCKETS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
WAIT_BUCKETS: Final = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LAG_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
SCORE_BUCKETS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Series:
    """All metrics of one registry. The attributes are in the order of the reference page."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        count, gauge, histogram = self._counter, self._gauge, self._histogram
        # Calls.
        self.calls: Counter = count(
            "calls",
            "Finished calls. The outcome is ok, degraded, cancelled or the name of an error.",
            "method",
            "outcome",
        )
        self.call_seconds: Histogram = histogram(
            "call_duration_seconds", "Duration of a call.", CALL_BUCKETS, "method", "outcome"
        )
        self.stage_seconds: Histogram = histogram(
            "stage_duration_seconds", "Duration of a stage.", STAGE_BUCKETS, "stage", "outcome"
        )
        self.first_token: Histogram = histogram(
            "first_token_seconds", "Time from the beginning of a call to the first piece of its answer.", CALL_BUCKETS
        )
        self.running: Gauge = gauge("calls_running", "Calls that run now.", "livesum")
        self.timeouts: Counter = count(
            "timeouts", "Calls that ended at their deadline, by the stage that ran.", "stage"
        )
        self.limits: Counter = count(
            "limits_exceeded", "Calls that were refused because their tenant had used up a limit.", "limit"
        )
        # Quality.
        self.answers: Counter = count(
            "answers", "Finished searches and answers, by whether the documents answer the question.", "found"
        )
        self.top_score: Histogram = histogram(
            "top_score", "Best cosine similarity of a chunk, for each search.", SCORE_BUCKETS
        )
        self.degradations: Counter = count(
            "degradations", "Stages that failed and were replaced by a fallback, by error.", "stage", "reason"
        )
        self.tokens: Counter = count("tokens", "Used tokens.", "kind")
        # Dependencies.
        self.dependency_calls: Counter = count(
            "dependency_calls", "Calls to a dependency, without retries.", "dependency"
        )
        self.retries: Counter = count("retries", "Retries of calls to a dependency.", "dependency")
        self.retries_refused: Counter = count("retries_refused", "Retries that the retry budget refused.", "dependency")
        self.retry_budget: Gauge = gauge("retry_budget", "Retries that are possible now.", "livesum", "dependency")
        self.dependency_timeouts: Counter = count(
            "dependency_timeouts",
            "Attempts that took too long, and calls that ended at their deadline.",
            "dependency",
            "limit",
        )
        self.breaker_state: Gauge = gauge(
            "breaker_state",
            "Processes whose circuit breaker is in this state: 0 or 1 for one process.",
            "livesum",
            "dependency",
            "state",
        )
        self.breaker_transitions: Counter = count(
            "breaker_transitions", "Changes of a circuit breaker to a state.", "dependency", "state"
        )
        self.breaker_outcomes: Counter = count(
            "breaker_outcomes", "Calls as the circuit breaker judged them.", "dependency", "outcome"
        )
        self.breaker_tenants: Gauge = gauge(
            "breaker_tenants_apart", "Tenants for which alone the dependency fails.", "livesum", "dependency"
        )
        self.places: Gauge = gauge("places", "Calls to a dependency that may run at once.", "livesum", "dependency")
        self.places_used: Gauge = gauge("places_used", "Calls to a dependency that run now.", "livesum", "dependency")
        self.waiting: Gauge = gauge("queue_waiting", "Calls that wait for a place.", "livesum", "dependency")
        self.queue_seconds: Histogram = histogram(
            "queue_wait_seconds", "Time that an admitted call waited for its place.", WAIT_BUCKETS, "dependency"
        )
        self.refused: Counter = count("queue_refused", "Calls that got no place in time.", "dependency")
        self.pool: Gauge = gauge("pool_connections", "Connections to the database.", "livesum", "pool", "state")
        self.pool_size: Gauge = gauge("pool_size", "Largest number of connections.", "livesum", "pool")
        self.pool_waiting: Gauge = gauge("pool_waiting", "Callers that wait for a connection.", "livesum", "pool")
        self.cache: Counter = count("cache_requests", "Look-ups in a cache.", "cache", "result")
        # The rollout. Without one, those with labels have no series.
        self.rollout_calls: Counter = count("rollout_calls", "Calls of a side of the rollout.", "side", "outcome")
        self.rollout_seconds: Histogram = histogram(
            "rollout_call_duration_seconds", "Duration of an answer of a side of the rollout.", CALL_BUCKETS, "side"
        )
        self.rollout_fallbacks: Counter = count(
            "rollout_fallbacks", "Calls that the stable side answered because the candidate did not.", "outcome"
        )
        self.rollout_compared: Counter = count("rollout_compared", "Questions that both sides have answered.")
        self.rollout_differences: Counter = count(
            "rollout_differences", "Compared questions with different answers.", "difference"
        )
        self.rollout_changes: Counter = count("rollout_changes", "Changes of the rollout.", "change")
        self.rollout_share: Gauge = gauge("rollout_share", "Share of the tenants that the candidate serves.", "livemax")
        self.rollout_status: Gauge = gauge(
            "rollout_status",
            "Processes whose rollout has this status: 0 or 1 for one process.",
            "livesum",
            "status",
        )
        self.rollout_unshared: Counter = count(
            "rollout_unshared", "Exchanges of the rollout's state with the database that failed."
        )
        # The process.
        self.hangs: Counter = count("hangs", "Calls that did not return after their deadline.", "stage")
        self.blocked: Counter = count("event_loop_blocked", "Times that code blocked the event loop.")
        self.blocked_now: Gauge = gauge(
            "event_loop_blocked_now", "Processes whose event loop is blocked now.", "livesum"
        )
        self.blocked_seconds: Counter = count(
            "event_loop_blocked_seconds", "Seconds for which code blocked the event loop."
        )
        self.starved_seconds: Counter = count(
            "event_loop_starved_seconds", "Seconds for which the event loop got no processor."
        )
        self.executor: Counter = count("executor_saturated", "Times that the default executor was full.")
        self.lag: Histogram = histogram("event_loop_lag_seconds", "Delay of a timer of the event loop.", LAG_BUCKETS)
        self.started: Gauge = gauge(
            "start_time_seconds", "Start of the newest process, in seconds since 1970.", "livemax"
        )
        self.memory: Gauge = gauge("resident_memory_bytes", "Resident memory of the processes.", "livesum")
        self.memory_limit: Gauge = gauge("memory_limit_bytes", "Limit of the memory; 0 without a limit.", "livemax")
        self.cpu: Counter = count("cpu_seconds", "Processor time of the processes.")
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Create the series of rare events. Without a 0 before it, Prometheus does not see the first one."""
        for stage in STAGES:
            self.hangs.labels(stage)
            self.timeouts.labels(stage)
        for method in ("ask", "stream", "retrieve"):
            for outcome in ("ok", "degraded", "StoreError", "GenerationError", "DeadlineExceeded", OTHER):
                self.calls.labels(method, outcome)
        for stage, error in FAILURES.items():
            for reason in (error, "CircuitOpen"):
                self.degradations.labels(stage, reason)
        for found in ("true", "false"):
            self.answers.labels(found)
        for kind in ("prompt", "completion", "embedding"):
            self.tokens.labels(kind)
        for limit in LIMITS:
            self.limits.labels(limit)

    def begin_rollout(self) -> None:
        """Create the series of a rollout."""
        for side in SIDES:
            for outcome in ROLLOUT_OUTCOMES:
                self.rollout_calls.labels(side, outcome)
        for change in ROLLOUT_CHANGES:
            self.rollout_changes.labels(change)
        for difference in DIFFERENCES:
            self.rollout_differences.labels(difference)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace="ragcore", registry=self._registry)

    def _gauge(self, name: str, text: str, mode: MultiprocessMode, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace="ragcore", registry=self._registry, multiprocess_mode=mode)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, namespace="ragcore", registry=self._registry, buckets=buckets)
