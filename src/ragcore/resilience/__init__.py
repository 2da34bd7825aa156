"""Deadlines, circuit breakers, bulkheads, retries and single flight. This package can be used without the rest of ragcore.

It contains nothing about retrieval. Everything works on asyncio and trio, and all times come from the event loop's clock.
"""

from ragcore.errors import CircuitOpen, DeadlineExceeded, Overloaded
from ragcore.resilience.breaker import CircuitBreaker, State
from ragcore.resilience.bulkhead import Bulkhead
from ragcore.resilience.deadline import Deadline, deadline
from ragcore.resilience.failure import Failure, On, from_status
from ragcore.resilience.flow import flow
from ragcore.resilience.policy import Hold, Policy
from ragcore.resilience.rate_limiter import RateLimiter
from ragcore.resilience.retry import RetryBudget, RetryPolicy
from ragcore.resilience.single_flight import SingleFlight
from ragcore.resilience.snapshot import (
    BreakerSnapshot,
    BulkheadSnapshot,
    PolicySnapshot,
    RetryBudgetSnapshot,
    SingleFlightSnapshot,
    Snapshot,
)

__all__ = [
    "BreakerSnapshot",
    "Bulkhead",
    "BulkheadSnapshot",
    "CircuitBreaker",
    "CircuitOpen",
    "Deadline",
    "DeadlineExceeded",
    "Failure",
    "Hold",
    "On",
    "Overloaded",
    "Policy",
    "PolicySnapshot",
    "RateLimiter",
    "RetryBudget",
    "RetryBudgetSnapshot",
    "RetryPolicy",
    "SingleFlight",
    "SingleFlightSnapshot",
    "Snapshot",
    "State",
    "deadline",
    "flow",
    "from_status",
]
