"""The data that a policy keeps about its dependency: the configured limits and the state of the parts."""

from __future__ import annotations

from dataclasses import dataclass, field

from ragcore.resilience.breaker import CircuitBreaker
from ragcore.resilience.bulkhead import Bulkhead
from ragcore.resilience.failure import On
from ragcore.resilience.keyed_breakers import KeyedBreakers
from ragcore.resilience.pauses import Pauses
from ragcore.resilience.retry import RetryBudget, RetryPolicy

__all__ = ["Dependency"]


@dataclass(slots=True, kw_only=True)
class Dependency:
    """One dependency, shared by calls and held streams. All timeouts are in seconds."""

    name: str
    on: On | None
    timeout: float
    attempt_timeout: float
    first_timeout: float
    idle_timeout: float
    bulkhead: Bulkhead | None
    retry: RetryPolicy | None
    budget: RetryBudget | None
    breaker: CircuitBreaker | None
    breakers: KeyedBreakers | None
    pauses: Pauses
    calls: int = field(default=0, init=False)
    retries: int = field(default=0, init=False)

    def __str__(self) -> str:
        return self.name or "the dependency"

    def breaker_of(self, key: str | None) -> CircuitBreaker | None:
        """Return the breaker for calls with this key; None if there is none."""
        return self.breaker if key is None or self.breakers is None else self.breakers.get(key)
