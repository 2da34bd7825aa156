"""Values for operators: calls, limits, costs, health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from ragcore.value import Value, mapping

__all__ = ["CallInfo", "Health", "LimitState", "Price", "RolloutState", "Stats", "UsedTokens"]


@dataclass(frozen=True, slots=True)
class Price(Value):
    """Price of a million tokens, in any currency."""

    prompt: float = 0.0
    completion: float = 0.0
    embedding: float = 0.0


@dataclass(frozen=True, slots=True)
class UsedTokens(Value):
    """Use of a model: requests, tokens, and their cost by the price table."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    embedding_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class LimitState(Value):
    """State of a limit per minute.

    Attributes:
        name: "requests" or "tokens".
        limit: requests or tokens per minute.
        remaining: requests or tokens that are left now.
        reset: seconds until the whole limit is available again.
    """

    name: str
    limit: int
    remaining: int
    reset: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Health(Value):
    """Health of the client and its dependencies.

    Attributes:
        status: the worst status of all services.
        timestamp: time of the check.
        services: "database", "rag_service" and "memory_usage", each with "healthy", "degraded" or "unhealthy".
        ready: whether questions can be answered now, degraded or not.
        details: numbers and reasons for each service, without secrets.
    """

    status: Literal["healthy", "degraded", "unhealthy"]
    timestamp: datetime
    services: Mapping[str, str] = field(hash=False)
    ready: bool
    details: Mapping[str, Any] = mapping()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats(Value):
    """A snapshot of the client's state: policies by dependency, pools, caches, numbers of calls."""

    policies: Mapping[str, Any] = mapping()
    pools: Mapping[str, Any] = mapping()
    caches: Mapping[str, Any] = mapping()
    calls: Mapping[str, int] = mapping()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallInfo(Value):
    """One call of the client, running or finished.

    Attributes:
        id: random id of the call. Its answer and its errors have the same id.
        method: "ask", "stream", "retrieve", …
        tenant: the tenant whose documents the call reads or writes.
        stage: the stage that runs now, or the last one if the call is finished.
        elapsed: seconds so far, or in total if the call is finished.
        waiting_on: what the call waits for: the innermost function that it awaits, outside of the event loop's own code, as "module.function:line"; "the
            reader of the stream" for a stream between two pieces. None if the call is finished.
        outcome: "ok", "degraded", "cancelled" or the error's class name; None while the call runs.
        degraded: the stages that failed and were replaced by a fallback, so far or in total.
    """

    id: str
    method: str
    tenant: str
    stage: str
    elapsed: float
    waiting_on: str | None = None
    outcome: str | None = None
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutState(Value):
    """The state of a rollout.

    Attributes:
        name: the name of the rollout, such as the release that is rolled out.
        status: "running", "paused" (no automatic promotion, but still automatic rollback), "promoted" (the candidate serves everyone), or "rolled_back" (the
            stable side serves everyone).
        share: the share of tenants that the candidate serves. While it is 0 and the status is "running", the candidate only runs beside the stable side.
        steps: the shares, smallest first; the last one is 1.
        reason: why the state last changed; "" at the beginning.
        version: the number of changes so far.
        changed_at: when the state last changed; None if it never did.
    """

    name: str
    status: Literal["running", "paused", "promoted", "rolled_back"] = "running"
    share: float
    steps: tuple[float, ...]
    reason: str = ""
    version: int = 0
    changed_at: datetime | None = None
