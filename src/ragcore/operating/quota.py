"""The limits of each tenant (requests and tokens per minute, calls at once, spending per day), and its use by model.

Token buckets limit requests and tokens: a bucket holds at most the limit of a minute and fills steadily, and a request takes one unit from it. The number of
a model's tokens is known only after an answer, so they are taken then. The bucket may then become negative, and the tenant is refused until the bucket holds
a whole unit again. Spending is counted by the day in UTC. All counts are kept in this process; `shared_quota` joins those of several processes.

Source: J. Turner, "New directions in communications" (1986): the leaky bucket as a meter.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Literal

import anyio

from ragcore.errors import LimitExceeded
from ragcore.events import emit
from ragcore.protocols import Allowance
from ragcore.types import LimitState, Price, Usage, UsedTokens

__all__ = ["Quota"]

MINUTE = 60.0
DAY = 86_400.0
MILLION = 1_000_000
# Tenants whose state is kept. The tenant whose last call is oldest is forgotten first.
MOST_TENANTS = 100_000
# Pairs of tenant and model whose use is kept; the use of further pairs is added up under OTHERS.
MOST_USES = 100_000
OTHERS = "(others)"

Name = Literal["requests", "tokens", "calls", "spending"]


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float

    def filled(self, capacity: float, now: float) -> float:
        """Return the level at the time `now`."""
        return min(capacity, self.level + (now - self.at) * capacity / MINUTE)


@dataclass(slots=True)
class _Tenant:
    requests: _Bucket | None = None
    tokens: _Bucket | None = None
    day: date | None = None
    spent: float = 0.0


@dataclass(slots=True)
class Quota:
    """The limits of each tenant, and how much of each limit remains.

    Args:
        requests_per_minute, tokens_per_minute, calls_at_once: limits of each tenant; None: no limit.
        spending_per_day: limit of each tenant, in the currency of the prices; None: no limit.
        prices: prices by model.
        today: returns the current day in UTC.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    calls_at_once: int | None = None
    spending_per_day: float | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    today: Callable[[], date] = lambda: datetime.now(UTC).date()
    _tenants: OrderedDict[str, _Tenant] = field(default_factory=OrderedDict)
    _used: OrderedDict[tuple[str, str], UsedTokens] = field(default_factory=OrderedDict)

    def admit(self, tenant: str, running: int) -> None:
        """Check a tenant's limits, and count a request.

        Args:
            running: number of the tenant's running calls.

        Raises:
            LimitExceeded: names the limit, and when to try again. The request is not counted.
        """
        now, known = anyio.current_time(), self._of(tenant)
        self._check(known, running, now)
        if self.requests_per_minute is not None:
            known.requests = self._taken(known.requests, self.requests_per_minute, 1.0, now)

    def adopt(self, tenant: str, allowance: Allowance, *, tokens: int = 0, cost: float = 0.0) -> None:
        """Replace the counts of this process by the shared counts of all processes.

        Args:
            tokens, cost: use in this process that the shared counts don't contain yet.
        """
        now, known = anyio.current_time(), self._of(tenant)
        if self.requests_per_minute is not None:
            known.requests = _Bucket(self.requests_per_minute - allowance.requests, now)
        if self.tokens_per_minute is not None:
            known.tokens = _Bucket(self.tokens_per_minute - allowance.tokens - tokens, now)
        known.day, known.spent = self.today(), allowance.spent + cost

    def refusal(self, tenant: str, allowance: Allowance) -> LimitExceeded:
        """Return the error for a call that the shared counts refuse. Call `adopt` with these counts first."""
        try:
            self._check(self._of(tenant), allowance.calls, anyio.current_time())
        except LimitExceeded as exceeded:
            return exceeded
        # The buckets have filled a little since the refusal, so no limit is exceeded any longer.
        return self._exceeded("requests", "the limits of this tenant were used up a moment ago", 1.0)

    def charge(self, tenant: str, usage: Usage, model: str, embedding_model: str) -> tuple[int, float]:
        """Count the tokens of a call. Returns their number and their cost."""
        written, embedded = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0), usage.embedding_tokens or 0
        cost = self._count(tenant, model, UsedTokens(1, usage.prompt_tokens or 0, usage.completion_tokens or 0, 0))
        if embedded:
            cost += self._count(tenant, embedding_model, UsedTokens(0, 0, 0, embedded))
        known = self._of(tenant)
        if self.tokens_per_minute is not None:
            known.tokens = self._taken(known.tokens, self.tokens_per_minute, written + embedded, anyio.current_time())
        self._spent(known)
        known.spent += cost
        return written + embedded, cost

    def state(self, tenant: str) -> tuple[LimitState, ...]:
        """Return how much of each limit per minute remains; () if there are no such limits."""
        now = anyio.current_time()
        known = self._tenants.get(tenant, _Tenant())
        found = []
        for name, capacity, bucket in (
            ("requests", self.requests_per_minute, known.requests),
            ("tokens", self.tokens_per_minute, known.tokens),
        ):
            if capacity is not None:
                level = capacity if bucket is None else bucket.filled(capacity, now)
                found.append(
                    LimitState(name, capacity, max(0, math.floor(level)), (capacity - level) * MINUTE / capacity)
                )
        return tuple(found)

    def forget(self, tenant: str) -> None:
        """Remove a tenant's data. Counts of limits that are partly used are kept, so that a tenant can't reset its limits by erasing its data."""
        known = self._tenants.get(tenant)
        full = all(state.remaining >= state.limit for state in self.state(tenant))
        if known is not None and full and not self._spent(known):
            del self._tenants[tenant]
        for key in [key for key in self._used if key[0] == tenant]:
            del self._used[key]

    def used(self) -> dict[tuple[str, str], UsedTokens]:
        """Return the use by tenant and model, since the client was made."""
        return dict(self._used)

    def _check(self, known: _Tenant, running: int, now: float) -> None:
        if self.calls_at_once is not None and running >= self.calls_at_once:
            raise self._exceeded("calls", f"{running} calls of this tenant are already running", 1.0)
        if self.spending_per_day is not None and self._spent(known) >= self.spending_per_day:
            raise self._exceeded("spending", "this tenant has reached its daily spending limit", self._until_tomorrow())
        limits: tuple[tuple[Name, int | None, _Bucket | None], ...] = (
            ("tokens", self.tokens_per_minute, known.tokens),
            ("requests", self.requests_per_minute, known.requests),
        )
        for name, capacity, bucket in limits:
            if capacity is None:
                continue
            level = capacity if bucket is None else bucket.filled(capacity, now)
            needed = 1.0 if name == "requests" else min(1.0, capacity)
            if level < needed:
                wait = (needed - level) * MINUTE / capacity
                raise self._exceeded(name, f"more than {capacity:,} {name} a minute", wait)

    def _of(self, tenant: str) -> _Tenant:
        known = self._tenants.setdefault(tenant, _Tenant())
        self._tenants.move_to_end(tenant)
        if len(self._tenants) > MOST_TENANTS:
            self._tenants.popitem(last=False)
        return known

    def _spent(self, known: _Tenant) -> float:
        today = self.today()
        if known.day != today:
            known.day, known.spent = today, 0.0
        return known.spent

    def _taken(self, bucket: _Bucket | None, capacity: float, amount: float, now: float) -> _Bucket:
        level = capacity if bucket is None else bucket.filled(capacity, now)
        return _Bucket(level - amount, now)

    def _count(self, tenant: str, model: str, more: UsedTokens) -> float:
        price = self.prices.get(model, Price())
        cost = (
            more.prompt_tokens * price.prompt
            + more.completion_tokens * price.completion
            + more.embedding_tokens * price.embedding
        ) / MILLION
        key = (tenant, model)
        if key not in self._used and len(self._used) >= MOST_USES:
            key = (OTHERS, model)
        before = self._used.get(key, UsedTokens())
        self._used[key] = UsedTokens(
            before.requests + more.requests,
            before.prompt_tokens + more.prompt_tokens,
            before.completion_tokens + more.completion_tokens,
            before.embedding_tokens + more.embedding_tokens,
            before.cost + cost,
        )
        return cost

    def _exceeded(self, name: Name, why: str, seconds: float) -> LimitExceeded:
        emit("limit.exceeded", name)
        again = f"in {math.ceil(seconds):,} s"
        return LimitExceeded(f"{why}; try again {again}", limit=name, retry_after=seconds)

    def _until_tomorrow(self) -> float:
        now = datetime.now(UTC)
        return DAY - (now.hour * 3600 + now.minute * 60 + now.second)
