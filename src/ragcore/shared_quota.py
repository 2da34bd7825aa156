"""Limits that hold for all processes that use one database.

The database counts each call when it begins and what it has used when it ends. This process counts for itself too. Its counts say what is left, and they
stand in as long as the database can't be asked: an outage of it refuses nobody.
"""

from __future__ import annotations

import logging
import math

import anyio

from ragcore.calls import Call
from ragcore.errors import RagcoreError
from ragcore.events import emit
from ragcore.protocols import Limits, QuotaStore
from ragcore.quota import Quota
from ragcore.resilience.owner import cleaning_up

__all__ = ["SharedQuota"]

logger = logging.getLogger("ragcore")

# Seconds that a call waits for the database's word; then this process's own counts decide.
ADMIT_SECONDS = 1.0
# Seconds beyond its deadline after which a call's place comes back by itself: its process has ended without giving it back.
LEASE_SECONDS = 5.0
# Seconds for which the database is not asked after it has failed to answer.
PAUSE_SECONDS = 5.0
# Seconds between two warnings.
WARN_SECONDS = 60.0
# Tenants whose use waits to be written.
MOST_OWING = 10_000


class SharedQuota:
    """A `Quota` whose counts are shared.

    Args:
        quota: this process's own.
        store: counts for all.
    """

    def __init__(self, quota: Quota, store: QuotaStore) -> None:
        self._quota = quota
        self._store = store
        self._limits = Limits(
            requests_per_minute=quota.requests_per_minute,
            tokens_per_minute=quota.tokens_per_minute,
            calls_at_once=quota.calls_at_once,
            spending_per_day=quota.spending_per_day,
        )
        # Tokens and cost by tenant, not written yet: of calls that are under way, and of those whose end could not be written.
        self._owed: dict[str, tuple[int, float]] = {}
        self._again_at = self._warned = -math.inf

    async def admit(self, call: Call) -> None:
        """Let a call in that this process's own counts have let in.

        Raises:
            LimitExceeded: the counts of all processes together say no.
        """
        if anyio.current_time() < self._again_at:
            return
        seconds = min(ADMIT_SECONDS, call.remaining() / 2)
        allowance = None
        try:
            with anyio.move_on_after(seconds):
                call.counted = True  # also where the answer is lost
                allowance = await self._store.admit_call(
                    call.id, self._limits, tenant=call.tenant, seconds=call.remaining() + LEASE_SECONDS
                )
        except RagcoreError as error:
            self._failed(str(error))
            return
        if allowance is None:
            self._failed(f"no word from the database within {seconds:.2g} s")
            return
        self._quota.adopt(call.tenant, allowance)
        if not allowance.admitted:
            call.counted = False
            raise self._quota.refusal(call.tenant, allowance)

    def owe(self, tenant: str, tokens: int, cost: float) -> None:
        """What has been used, to be written when the call ends."""
        if tenant in self._owed or len(self._owed) < MOST_OWING:
            before = self._owed.get(tenant, (0, 0.0))
            self._owed[tenant] = (before[0] + tokens, before[1] + cost)

    async def settle(self, call: Call) -> None:
        """Write what has been used, and give the call's place back. Within 250 ms; what could not be written goes with the tenant's next call."""
        if not call.counted:
            return
        call.counted = False
        if anyio.current_time() < self._again_at:
            return
        tokens, cost = self._owed.pop(call.tenant, (0, 0.0))
        written = False
        try:
            with cleaning_up():
                await self._store.settle_call(call.id, self._limits, tenant=call.tenant, tokens=tokens, cost=cost)
                written = True
        except RagcoreError as error:
            self._failed(str(error))
        finally:
            if not written and (tokens or cost):
                self.owe(call.tenant, tokens, cost)

    def _failed(self, why: str) -> None:
        emit("limit.unshared", "quota")
        now = anyio.current_time()
        self._again_at = now + PAUSE_SECONDS
        if now - self._warned >= WARN_SECONDS:
            self._warned = now
            logger.warning("limits are counted in this process alone for the moment: %s", why)
