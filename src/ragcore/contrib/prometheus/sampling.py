"""Copies the state of a client into the metrics: counters of policies and caches, queues, pools, memory and processor time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ragcore.contrib.prometheus.series import JUDGED, OTHER, STATES

if TYPE_CHECKING:
    from prometheus_client import Counter

    from ragcore.contrib.prometheus.series import Series
    from ragcore.operating.memory import Memory
    from ragcore.types import Stats

__all__ = ["Sampling"]

# The dependency's label of waits for a connection to the database.
CONNECTIONS = "connections"
POOL = "the pool of connections"


class Sampling:
    """The last sample of a client.

    Counters of the client become counters of Prometheus by their increase since the last sample. So they also work in several processes, where
    Prometheus's client adds up the counters of all processes.
    """

    def __init__(self, series: Series) -> None:
        self._series = series
        self._before: dict[tuple[object, ...], float] = {}
        # The label of each dependency, by the names in its events.
        self._labels: dict[str, str] = {POOL: CONNECTIONS}
        self._states: dict[str, str] = {}
        self._known: set[str] = set()

    def dependency(self, name: str) -> str:
        """Return the label of the dependency with a name; "other" for a dependency that is not the client's."""
        return self._labels.get(name, OTHER)

    def take(self, stats: Stats, memory: Memory | None) -> None:
        """Copy the state of a client.

        Args:
            stats: `RAG.stats()`.
            memory: the memory of the process; None if the system does not report it.
        """
        series = self._series
        series.running.set(stats.calls.get("running", 0))
        for label, policy in stats.policies.items():
            self._policy(label, policy)
        for label, pool in stats.pools.items():
            for state in ("in_use", "idle"):
                series.pool.labels(label, state).set(pool.get(state, 0))
            series.pool_size.labels(label).set(pool.get("size", 0))
            series.pool_waiting.labels(label).set(pool.get("waiting", 0))
        shared = {f"{label}_shared": cache["behind"] for label, cache in stats.caches.items() if "behind" in cache}
        for label, cache in (*stats.caches.items(), *shared.items()):
            for result, name in (("hit", "hits"), ("miss", "misses")):
                if name in cache:
                    self._advance(series.cache, (label, result), cache[name])
        if memory is not None:
            series.memory.set(memory.resident)
            series.memory_limit.set(memory.limit or 0)
        self._advance(series.cpu, (), time.process_time())

    def _policy(self, label: str, policy: Mapping[str, Any]) -> None:
        series, breaker, bulkhead = self._series, policy.get("breaker"), policy.get("bulkhead")
        keys: Mapping[str, Mapping[str, Any]] = policy.get("keys") or {}
        for part in (policy, breaker, bulkhead, *keys.values()):
            if part:
                self._labels.setdefault(part["name"], label)
        if label not in self._known:
            self._begin_at_zero(label)
        self._advance(series.dependency_calls, (label,), policy["calls"])
        self._advance(series.retries, (label,), policy["retries"])
        budget = policy.get("retry_budget")
        if budget:
            series.retry_budget.labels(label).set(budget["balance"])
            self._advance(series.retries_refused, (label,), budget["refused"])
        if bulkhead:
            series.places.labels(label).set(bulkhead["limit"])
            series.places_used.labels(label).set(bulkhead["inside"])
            series.waiting.labels(label).set(bulkhead["waiting"])
            self._advance(series.refused, (label,), bulkhead["rejected"])
        if breaker:
            self._breakers(label, {"": breaker, **keys})

    def _begin_at_zero(self, label: str) -> None:
        """Create the series of rare events of a dependency. Without a 0 before it, Prometheus does not see the first one."""
        self._known.add(label)
        for state in STATES:
            self._series.breaker_transitions.labels(label, state)
        for limit in ("attempt", "deadline"):
            self._series.dependency_timeouts.labels(label, limit)

    def _breakers(self, label: str, breakers: Mapping[str, Mapping[str, Any]]) -> None:
        """Copy the breaker of a dependency and those of its models: the worst state counts."""
        series = self._series
        worst = max((breaker["state"] for breaker in breakers.values()), key=STATES.index)
        if self._states.get(label) != worst:
            self._states[label] = worst
            for state in STATES:
                series.breaker_state.labels(label, state).set(state == worst)
        series.breaker_tenants.labels(label).set(sum(breaker["flows_apart"] for breaker in breakers.values()))
        for key, breaker in breakers.items():
            for outcome in JUDGED:
                self._advance(series.breaker_outcomes, (label, outcome), breaker[outcome], key)

    def _advance(self, counter: Counter, labels: tuple[str, ...], value: float, part: str = "") -> None:
        """Increase a counter to the value of a counter of the client. A smaller value than before means that the client's counter has begun again."""
        place = (counter, *labels, part)
        before = self._before.get(place, 0)
        self._before[place] = value
        child = counter.labels(*labels) if labels else counter
        child.inc(value - before if value >= before else value)
