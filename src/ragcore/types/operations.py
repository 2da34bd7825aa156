"""What operators look at: calls, limits, costs, health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from ragcore.value import Value, mapping

__all__ = ["CallInfo", "Health", "LimitState", "Price", "Stats", "UsedTokens"]


@dataclass(frozen=True, slots=True)
class Price(Value):
    """What a million tokens cost, in any currency."""

    prompt: float = 0.0
    completion: float = 0.0
    embedding: float = 0.0


@dataclass(frozen=True, slots=True)
class UsedTokens(Value):
    """What was used of a model: requests, tokens, and what they cost by the price table."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    embedding_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class LimitState(Value):
    """What is left of a limit for each minute.

    Attributes:
        name: "requests" or "tokens".
        limit: a minute.
        remaining: at the moment.
        reset: seconds until all of it is there again.
    """

    name: str
    limit: int
    remaining: int
    reset: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Health(Value):
    """Whether the client can do its work.

    Attributes:
        status: the worst of the services'.
        ready: whether questions can be answered now, degraded or not.
        services: "database", "rag_service", "memory_usage", each healthy | degraded | unhealthy.
        details: numbers and reasons behind each; never a secret.
    """

    status: Literal["healthy", "degraded", "unhealthy"]
    timestamp: datetime
    services: Mapping[str, str] = field(hash=False)
    ready: bool
    details: Mapping[str, Any] = mapping()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats(Value):
    """A snapshot of the machinery: policies by dependency, pools, caches, calls."""

    policies: Mapping[str, Any] = mapping()
    pools: Mapping[str, Any] = mapping()
    caches: Mapping[str, Any] = mapping()
    calls: Mapping[str, int] = mapping()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallInfo(Value):
    """One call of the client, running or finished.

    Attributes:
        id: random, the same as in the answer and the errors.
        method: "ask", "stream", "retrieve", …
        tenant: whose call it is.
        stage: where it is, or where it ended.
        elapsed: seconds so far, or altogether.
        waiting_on: the innermost function that it awaits; None if it can't be seen or the call is finished.
        outcome: "ok", "degraded", "cancelled" or the error's name; None while it runs.
    """

    id: str
    method: str
    tenant: str
    stage: str
    elapsed: float
    waiting_on: str | None = None
    outcome: str | None = None
