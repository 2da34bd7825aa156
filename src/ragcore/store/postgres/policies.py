"""The default policies of a store in PostgreSQL."""

from __future__ import annotations

from ragcore.resilience import Bulkhead, Policy, RetryPolicy

__all__ = ["queue_of", "search_policy", "writing_policy"]


def queue_of(pool_size: int) -> int:
    """Return the length of a policy's queue. It is at least as long as the default; the bulkhead refuses callers that have too little time left to wait."""
    return max(256, 16 * pool_size)


def search_policy(pool_size: int) -> Policy:
    """Return the policy of searches: as many at once as there are connections."""
    return Policy(
        "database", attempt_timeout=10.0, bulkhead=Bulkhead(pool_size, queue=queue_of(pool_size)), retry=_retry()
    )


def writing_policy(pool_size: int) -> Policy:
    """Return the policy of writes: they use at most half of the connections.

    Writing a large document takes minutes, so only its deadline limits it. A timeout of a write is not retried, and does not count against searches.
    """
    return Policy(
        "database writes",
        timeout=600.0,
        attempt_timeout=86_400.0,
        bulkhead=Bulkhead(max(1, pool_size // 2), queue=queue_of(pool_size)),
        retry=_retry(),
    )


def _retry() -> RetryPolicy:
    return RetryPolicy(attempts=4, backoff=0.05, max_backoff=1.0)
