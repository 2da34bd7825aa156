"""Remembered facts about tenants, so that a search need not query them."""

from __future__ import annotations

from ragcore.store.postgres.recent import Recent

__all__ = ["REMEMBER_SECONDS", "Tenants"]

# The seconds for which a fact is remembered, and the largest number of tenants with remembered facts.
REMEMBER_SECONDS = 60.0
REMEMBER_TENANTS = 10_000


class Tenants:
    """Facts about tenants from recent searches of this process.

    Invariant: the facts decide how a search runs, never which rows it may find. So they may be out of date: other processes write as well, and a
    search of this process may end after a write that began later.

    Attributes:
        exactly: whether all vectors of the tenant are compared, because it is small.
        hides_expired: whether the tenant has expired documents that are not removed yet, or documents that expire within the time of the fact.
        chunks: estimated number of the tenant's chunks.
        walks_on: whether a search of an existing table walks on through the index, because too few of its first chunks were the tenant's.
    """

    def __init__(self) -> None:
        self.exactly: Recent[bool] = Recent(seconds=REMEMBER_SECONDS, most=REMEMBER_TENANTS)
        self.hides_expired: Recent[bool] = Recent(seconds=REMEMBER_SECONDS, most=REMEMBER_TENANTS)
        self.chunks: Recent[float] = Recent(seconds=REMEMBER_SECONDS, most=REMEMBER_TENANTS)
        self.walks_on: Recent[bool] = Recent(seconds=REMEMBER_SECONDS, most=REMEMBER_TENANTS)

    def forget(self, tenant: str) -> None:
        """Remove the facts about a tenant after a write. The next search determines them again."""
        self.exactly.drop(tenant)
        self.hides_expired.drop(tenant)
        self.chunks.drop(tenant)
        self.walks_on.drop(tenant)
