"""A policy: all that surrounds one call to a dependency, in a fixed order, which `pipeline` tells."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Literal, TypeVar

from ragcore.resilience.breaker import CircuitBreaker
from ragcore.resilience.bulkhead import Bulkhead
from ragcore.resilience.call import Call
from ragcore.resilience.clock import now_if_any
from ragcore.resilience.dependency import Dependency
from ragcore.resilience.failure import On
from ragcore.resilience.hold import Hold
from ragcore.resilience.keyed_breakers import KeyedBreakers
from ragcore.resilience.pauses import Pauses
from ragcore.resilience.pipeline import again, try_once
from ragcore.resilience.retry import RetryBudget, RetryPolicy
from ragcore.resilience.snapshot import PolicySnapshot

__all__ = ["Hold", "Policy", "policy_of"]

T = TypeVar("T")


class Policy:
    """Deadline, retry, breaker, bulkhead and attempt timeout around calls to one dependency.

    Args:
        name: the dependency's, in events and errors.
        on: what may pass: an error type, a tuple of them, or a function that judges an error (`Failure`, or None: the caller's affair).
            None: what the component says that uses the policy; alone, `OSError`.
        timeout: seconds for a whole call where no deadline is inherited.
        attempt_timeout: seconds for one attempt of a call, or for the first answer of a held one.
        first_timeout: seconds to a held stream's first item.
        idle_timeout: seconds between a held stream's items.
        bulkhead: None: 64 at once and 256 waiting; False: no limit.
        retry: None: 3 attempts; False: one.
        breaker: None: opens at half of at least 10 calls within 30 s failing; False: none.
        max_keys: how many keys have a breaker of their own at once; the one that was used longest ago is forgotten first.

    Breakers and bulkheads hold state: share the object to share its state. A policy may be made anywhere and, while idle, change loops.
    What `fn` raised comes out as itself, after the last attempt, or at once if `on` says None; an attempt's own timeout is a `TimeoutError`.
    Where one policy's call runs within another's, the inner one retries, and what it gave up on is not retried around it.

    Example:
        >>> import anyio
        >>> crm = Policy("crm", on=OSError, attempt_timeout=2.0)
        >>> async def ask() -> str:
        ...     return "hello"
        >>> async def main() -> str:
        ...     return await crm.call(ask)
        >>> anyio.run(main)
        'hello'
    """

    def __init__(
        self,
        name: str = "",
        /,
        *,
        on: On | None = None,
        timeout: float = 30.0,
        attempt_timeout: float = 10.0,
        first_timeout: float = 10.0,
        idle_timeout: float = 10.0,
        bulkhead: Bulkhead | Literal[False] | None = None,
        retry: RetryPolicy | Literal[False] | None = None,
        breaker: CircuitBreaker | Literal[False] | None = None,
        max_keys: int = 64,
    ) -> None:
        for label, seconds in (
            ("timeout", timeout),
            ("attempt_timeout", attempt_timeout),
            ("first_timeout", first_timeout),
            ("idle_timeout", idle_timeout),
        ):
            if not seconds > 0:
                raise ValueError(f"{label} is {seconds!r}: it must be positive")
        if max_keys < 1:
            raise ValueError("max_keys is at least 1")
        if not (on is None or callable(on) or (isinstance(on, tuple) and all(isinstance(kind, type) for kind in on))):
            raise ValueError(f"on is {on!r}: it must be a type of error, a tuple of them, a function, or None")
        retries = RetryPolicy() if retry is None else retry or None
        guard = CircuitBreaker() if breaker is None else breaker or None
        limiter = Bulkhead(64, queue=256) if bulkhead is None else bulkhead or None
        for part in (limiter, guard):
            if part is not None:
                part.name = part.name or name
        if retries is not None:
            import tenacity  # noqa: F401  # loaded when a policy is made, never inside a call
        self._has_default_breaker = breaker is None
        self._dependency = Dependency(
            name=name,
            on=on,
            timeout=timeout,
            attempt_timeout=attempt_timeout,
            first_timeout=first_timeout,
            idle_timeout=idle_timeout,
            bulkhead=limiter,
            retry=retries,
            budget=None if retries is None else retries.budget or RetryBudget(),
            breaker=guard,
            breakers=None if guard is None else KeyedBreakers(guard, most=max_keys),
            pauses=Pauses(most=max_keys),
        )

    async def call(self, fn: Callable[[], Awaitable[T]], /, *, key: str | None = None, on: On | None = None) -> T:
        """Call the dependency.

        Args:
            fn: called once per attempt; returns an awaitable.
            key: a breaker for each model or replica.
            on: what may pass, where the policy itself doesn't say.

        Raises:
            DeadlineExceeded: the inherited deadline or `timeout` passed.
            CircuitOpen, Overloaded: the dependency was not asked.
            TimeoutError: the last attempt took longer than `attempt_timeout`.
            What `fn` raised: after the last attempt.

        Cancelled, it leaves nothing behind: place, permit and probe slot are back.
        """
        call = Call(self._dependency, key, on)
        try:
            return await try_once(call, fn)
        except Exception as error:
            return await again(call, error, lambda: try_once(call, fn))

    def hold(self, *, key: str | None = None, on: On | None = None) -> AbstractAsyncContextManager[Hold]:
        """A place that is kept for a stream, to the end of the block.

        The breaker judges the first item and the end. `Hold.call` retries until the first item has been handed on.
        """
        return Hold(self._dependency, key, on)

    @property
    def name(self) -> str:
        """The dependency's name."""
        return self._dependency.name

    @property
    def first_timeout(self) -> float:
        """Seconds to a held stream's first item."""
        return self._dependency.first_timeout

    @property
    def idle_timeout(self) -> float:
        """Seconds between a held stream's items."""
        return self._dependency.idle_timeout

    @property
    def bulkhead(self) -> Bulkhead | None:
        """The bulkhead that calls pass; None if there is none."""
        return self._dependency.bulkhead

    def breaker(self, key: str | None = None) -> CircuitBreaker | None:
        """The breaker that calls with this key pass; None if there is none."""
        return self._dependency.breaker_of(key)

    @property
    def has_default_breaker(self) -> bool:
        """Whether no breaker was given: then components take one for each model; one that was given is shared by all."""
        return self._has_default_breaker

    def snapshot(self) -> PolicySnapshot:
        """Counters, and the parts' own snapshots, serialisable."""
        dependency, now = self._dependency, now_if_any()
        return PolicySnapshot(
            name=dependency.name,
            calls=dependency.calls,
            retries=dependency.retries,
            paused_for=None if now is None else dependency.pauses.longest(now),
            breaker=None if dependency.breaker is None else dependency.breaker.snapshot(),
            keys={key: breaker.snapshot() for key, breaker in dependency.breakers or ()},
            bulkhead=None if dependency.bulkhead is None else dependency.bulkhead.snapshot(),
            retry_budget=None if dependency.budget is None else dependency.budget.snapshot(),
        )


def policy_of(part: object, name: str = "policy") -> Policy | None:
    """A component's policy; None if it has none.

    Not by a Protocol: from Python 3.12 on `isinstance` doesn't see what a wrapper, such as a cache around an embedder, hands on by `__getattr__`.
    """
    policy = getattr(part, name, None)
    # A component of a user's may call something else its policy.
    return policy if isinstance(policy, Policy) else None
