"""Limits that hold for all processes that use one database.

The database counts each call when it begins, and what it has used when it ends. This process counts for itself too. Its counts say what is left, and they
stand in as long as the database can't be asked: an outage of it refuses nobody.

What has been used is kept as sums that only grow, one ledger for each tenant, and goes with each statement. So a statement whose answer was lost is sent
again without counting twice, and what could not be written goes with the next one.
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

# Seconds that a call waits for the database's word; then this process's own counts decide.
ADMIT_SECONDS = 1.0
# Seconds beyond its deadline after which a call's place comes back by itself: its process has ended without giving it back.
LEASE_SECONDS = 5.0
# Seconds for which the database is not asked after it has failed to answer, and between two tries to write what could not be written.
PAUSE_SECONDS = 5.0
# Seconds between two warnings.
WARN_SECONDS = 60.0
# Tenants whose ledgers are kept, and ended calls in each whose places could not be given back.
MOST_LEDGERS = 100_000
MOST_FINISHED = 1_000
# Seconds after which a ledger is begun anew. The database forgets one after a day without a word of it, and would count its sums again.
LEDGER_SECONDS = 6 * 3_600.0


@dataclass(slots=True)
class _Book:
    """A ledger that is being written.

    Attributes:
        written: its tokens and cost as the database has counted them for certain.
    """

    began: float
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    tokens: int = 0
    cost: float = 0.0
    finished: dict[str, None] = field(default_factory=dict)
    written: tuple[int, float] = (0, 0.0)

    @property
    def is_written(self) -> bool:
        return not self.finished and self.written == (self.tokens, self.cost)

    def page(self) -> Ledger:
        return Ledger(name=self.name, tokens=self.tokens, cost=self.cost, finished=tuple(self.finished))

    def was_written(self, page: Ledger) -> None:
        self.written = (max(page.tokens, self.written[0]), max(page.cost, self.written[1]))
        for call in page.finished:
            self.finished.pop(call, None)


class SharedQuota:
    """A `Quota` whose counts are shared.

    Invariant: what a tenant has used stands in its book before anything is written, and the sums in a book only grow; so writing a page twice, or losing
    the answer to it, counts nothing twice and forgets nothing.

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
        self._books: OrderedDict[str, _Book] = OrderedDict()
        self._catching_up = False
        self._again_at = self._warned = -math.inf

    async def admit(self, call: Call) -> None:
        """Let a call in that this process's own counts have let in.

        Raises:
            LimitExceeded: the counts of all processes together say no.
        """
        if anyio.current_time() < self._again_at:
            return
        seconds = min(ADMIT_SECONDS, call.remaining() / 2)
        book = self._book(call.tenant)
        page, allowance = book.page(), None
        call.counted = True  # also where the answer is lost
        try:
            with anyio.move_on_after(seconds):
                allowance = await self._store.count_calls(
                    page, self._limits, tenant=call.tenant, call=call.id, seconds=call.remaining() + LEASE_SECONDS
                )
        except Exception as error:
            self._pause(error)
            return
        if allowance is None:
            self._pause(None)
            return
        book.was_written(page)
        # What other calls have used meanwhile is not in the database's counts yet.
        self._quota.adopt(
            call.tenant, allowance, tokens=book.tokens - book.written[0], cost=book.cost - book.written[1]
        )
        if not allowance.admitted:
            call.counted = False
            raise self._quota.refusal(call.tenant, allowance)

    def owe(self, tenant: str, tokens: int, cost: float) -> None:
        """What has been used, to be written when the call ends."""
        book = self._book(tenant)
        book.tokens += tokens
        book.cost += cost

    async def settle(self, call: Call, owner: Owner | None) -> None:
        """Write what has been used, and give the call's place back: within 250 ms, else in the background.

        Args:
            owner: of the background; None: the client is closed.
        """
        book = self._book(call.tenant)
        if call.counted:
            call.counted = False
            book.finished[call.id] = None
            while len(book.finished) > MOST_FINISHED:  # their places come back by themselves
                del book.finished[next(iter(book.finished))]
        if book.is_written:
            return
        try:
            if anyio.current_time() >= self._again_at:
                with cleaning_up():
                    await self._write(call.tenant, book)
        except Exception as error:
            self._pause(error)
        finally:
            if not book.is_written and owner is not None and not self._catching_up:
                # A client that is being closed takes no more work, and what it raises must not hide the error in flight.
                with suppress(NotOpen, RuntimeError):
                    owner.spawn(self._catch_up, name="counting what was used")
                    self._catching_up = True

    async def _catch_up(self) -> None:
        """Write what could not be written, until all of it is."""
        try:
            while behind := [tenant for tenant, book in self._books.items() if not book.is_written]:
                await anyio.sleep(max(0.0, self._again_at - anyio.current_time()))
                for tenant in behind:
                    if tenant in self._books:
                        try:
                            await self._write(tenant, self._books[tenant])
                        except Exception as error:
                            self._pause(error)
                            break
        finally:
            self._catching_up = False

    async def _write(self, tenant: str, book: _Book) -> None:
        page = book.page()
        await self._store.count_calls(page, self._limits, tenant=tenant)
        book.was_written(page)

    def _book(self, tenant: str) -> _Book:
        now = anyio.current_time()
        book = self._books.get(tenant)
        if book is None or (book.is_written and now - book.began > LEDGER_SECONDS):
            book = self._books[tenant] = _Book(now)
            if len(self._books) > MOST_LEDGERS:
                self._books.popitem(last=False)
        self._books.move_to_end(tenant)
        return book

    def _pause(self, error: Exception | None) -> None:
        """The database is left alone for a while. None: it said nothing in time."""
        emit("limit.unshared", "quota")
        now = anyio.current_time()
        self._again_at = now + PAUSE_SECONDS
        if now - self._warned >= WARN_SECONDS:
            self._warned = now
            why = str(error) if isinstance(error, RagcoreError) else type(error).__name__
            why = f"no word from the database within {ADMIT_SECONDS:g} s" if error is None else why
            logger.warning("limits are counted in this process alone for the moment: %s", why)
