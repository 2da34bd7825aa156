"""What is remembered of tenants, so that a search need not ask for it."""

from __future__ import annotations

from ragcore.store.postgres.recent import Recent

__all__ = ["Tenants"]

# How long a tenant counts as small or large, and for how many tenants that is remembered.
REMEMBER_SECONDS = 60.0
REMEMBER_TENANTS = 10_000


class Tenants:
    """What the last searches of this process learned about tenants.

    Invariant: it decides how a search is done, never which rows it may find. So it may be out of date: other processes write as well, and a search
    of this one may end after a write that began later.

    Attributes:
        exactly: whether the tenant is so small that its vectors are all compared.
        hides_expired: whether it has expired documents that are not removed yet.
        chunks: about how many it has.
    """

    def __init__(self) -> None:
        self.exactly: Recent[bool] = Recent(seconds=REMEMBER_SECONDS, most=REMEMBER_TENANTS)
        self.hides_expired: Recent[bool] = Recent(seconds=REMEMBER_SECONDS, most=REMEMBER_TENANTS)
        self.chunks: Recent[float] = Recent(seconds=REMEMBER_SECONDS, most=REMEMBER_TENANTS)

    def forget(self, tenant: str) -> None:
        """After a write: the next search learns anew."""
        self.exactly.drop(tenant)
        self.hides_expired.drop(tenant)
        self.chunks.drop(tenant)
