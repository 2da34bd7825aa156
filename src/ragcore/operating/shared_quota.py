"""Limits that are shared by all processes that use the same database.

The database counts each call at its start, and the call's tokens and cost at its end. Each process keeps counts too: `RAG.limits` reads them, and they
replace the shared counts while the database is not available. So calls are still admitted while the database is down.

The use of each tenant is kept in a ledger, as sums that only grow, and each statement sends the sums. So if the response of a statement was lost, the
statement can be repeated and nothing is counted twice. The next statement includes all sums that an earlier one could not write.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field

import anyio

from ragcore.errors import NotOpen, RagcoreError
from ragcore.events import emit
from ragcore.lifecycle.owner import Owner, cleaning_up
from ragcore.operating.calls import Call
from ragcore.operating.quota import Quota
from ragcore.protocols import Ledger, Limits, QuotaStore

__all__ = ["SharedQuota"]

logger: logging.Logger = logging.getLogger("ragcore")

# Seconds that a call waits for the database. After that, the counts of this process decide.
ADMIT_SECONDS = 1.0
# If a call has less time for the database than this, a failure says nothing about the database.
LEAST_ADMIT_SECONDS = 0.05
# If a call has not given its place back this many seconds after its deadline, its process has probably ended. Then it no longer counts as running.
LEASE_SECONDS = 5.0
# After a failure, neither calls nor background writes send a statement for this many seconds.
PAUSE_SECONDS = 5.0
# Seconds between two warnings.
WARN_SECONDS = 60.0
# The largest number of ledgers, and the largest number of ended calls in a ledger whose places are not given back yet.
MOST_LEDGERS = 100_000
MOST_FINISHED = 1_000
# Seconds after which a new ledger begins. If a ledger is not written for a day, the database forgets it and would then count its sums a second time.
LEDGER_SECONDS = 6 * 3_600.0


@dataclass(slots=True)
class _TenantLedger:
    """The ledger of one tenant in this process.

    Attributes:
        written: tokens and cost that the database has confirmed.
    """

    began: float
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    tokens: int = 0
    cost: float = 0.0
    finished: dict[str, None] = field(default_factory=dict)
    written: tuple[int, float] = (0, 0.0)

    @property
    def is_confirmed(self) -> bool:
        return not self.finished and self.written == (self.tokens, self.cost)

    def snapshot(self) -> Ledger:
        return Ledger(name=self.name, tokens=self.tokens, cost=self.cost, finished=tuple(self.finished))

    def confirm(self, sent: Ledger) -> None:
        self.written = (max(sent.tokens, self.written[0]), max(sent.cost, self.written[1]))
        for call in sent.finished:
            self.finished.pop(call, None)


class SharedQuota:
    """A `Quota` whose counts are shared by all processes.

    Invariant: a tenant's use is added to its ledger before a statement is sent, and the sums in a ledger only grow. So each use is counted exactly once, even
    if a snapshot of a ledger is written twice or the response of the database is lost.

    Args:
        quota: the counts of this process.
        store: counts for all processes.
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
        self._ledgers: OrderedDict[str, _TenantLedger] = OrderedDict()
        self._catching_up = False
        self._again_at = self._warned = -math.inf

    async def admit(self, call: Call) -> None:
        """Check the shared limits for a call that this process's own limits have admitted.

        Raises:
            LimitExceeded: a limit is used up in all processes together.
        """
        if anyio.current_time() < self._again_at:
            return
        seconds = min(ADMIT_SECONDS, call.remaining() / 2)
        ledger = self._ledger_of(call.tenant)
        sent, allowance = ledger.snapshot(), None
        call.counted = True  # set first: the response may be lost after the database has counted the call
        try:
            with anyio.move_on_after(seconds):
                allowance = await self._store.count_calls(
                    sent, self._limits, tenant=call.tenant, call=call.id, seconds=call.remaining() + LEASE_SECONDS
                )
        except Exception as error:
            if seconds >= LEAST_ADMIT_SECONDS:
                self._pause(error)
            return
        if allowance is None:
            if seconds >= LEAST_ADMIT_SECONDS:
                self._pause(None)
            return
        ledger.confirm(sent)
        # The database's counts don't contain the use of calls that have ended meanwhile.
        self._quota.adopt(
            call.tenant, allowance, tokens=ledger.tokens - ledger.written[0], cost=ledger.cost - ledger.written[1]
        )
        if not allowance.admitted:
            call.counted = False
            raise self._quota.refusal(call.tenant, allowance)

    def owe(self, tenant: str, tokens: int, cost: float) -> None:
        """Add the tokens and the cost of a call to its tenant's ledger. They are written when the call ends."""
        ledger = self._ledger_of(tenant)
        ledger.tokens += tokens
        ledger.cost += cost

    async def settle(self, call: Call, owner: Owner | None) -> None:
        """Write the use of a call, and give its place back. If that takes longer than 250 ms, a background task writes the rest.

        Args:
            owner: runs the background task; None: the client is closed.
        """
        ledger = self._ledger_of(call.tenant)
        if call.counted:
            call.counted = False
            ledger.finished[call.id] = None
            while len(ledger.finished) > MOST_FINISHED:  # their places expire (LEASE_SECONDS)
                del ledger.finished[next(iter(ledger.finished))]
        if ledger.is_confirmed:
            return
        try:
            if anyio.current_time() >= self._again_at:
                with cleaning_up():
                    await self._write(call.tenant, ledger)
        except Exception as error:
            self._pause(error)
        finally:
            if not ledger.is_confirmed and owner is not None and not self._catching_up:
                # A client that is being closed accepts no tasks. The error about this must not hide the error that is being raised.
                with suppress(NotOpen, RuntimeError):
                    owner.spawn(self._catch_up, name="writing shared limits")
                    self._catching_up = True

    async def _catch_up(self) -> None:
        """Write the ledgers until the database has confirmed all of them."""
        try:
            while behind := [tenant for tenant, ledger in self._ledgers.items() if not ledger.is_confirmed]:
                await anyio.sleep(max(0.0, self._again_at - anyio.current_time()))
                for tenant in behind:
                    if tenant in self._ledgers:
                        try:
                            await self._write(tenant, self._ledgers[tenant])
                        except Exception as error:
                            self._pause(error)
                            break
        finally:
            self._catching_up = False

    async def _write(self, tenant: str, ledger: _TenantLedger) -> None:
        sent = ledger.snapshot()
        await self._store.count_calls(sent, self._limits, tenant=tenant)
        ledger.confirm(sent)

    def _ledger_of(self, tenant: str) -> _TenantLedger:
        now = anyio.current_time()
        ledger = self._ledgers.get(tenant)
        if ledger is None or (ledger.is_confirmed and now - ledger.began > LEDGER_SECONDS):
            ledger = self._ledgers[tenant] = _TenantLedger(now)
            if len(self._ledgers) > MOST_LEDGERS:
                self._ledgers.popitem(last=False)
        self._ledgers.move_to_end(tenant)
        return ledger

    def _pause(self, error: Exception | None) -> None:
        """Send no statements to the database for `PAUSE_SECONDS`.

        Args:
            error: the database's error; None: it did not respond in time.
        """
        emit("limit.unshared", "quota")
        now = anyio.current_time()
        self._again_at = now + PAUSE_SECONDS
        if now - self._warned >= WARN_SECONDS:
            self._warned = now
            why = str(error) if isinstance(error, RagcoreError) else type(error).__name__
            why = "no response from the database in time" if error is None else why
            logger.warning(
                "shared limits are not available; this process applies the limits to its own calls only: %s", why
            )
