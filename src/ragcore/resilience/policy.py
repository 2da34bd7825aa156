"""A policy: the rules around each call to a dependency, in a fixed order. `pipeline` describes the order."""

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
    """Applies a deadline, retries, a breaker, a bulkhead and an attempt timeout to calls to one dependency.

    Args:
        name: the dependency's name in events and errors.
        on: the errors that are retried and counted by the breaker: an error type, a tuple of types, or a function. The function takes an error and
            returns a `Failure`, or None if the error is neither retried nor counted. Default: the rule of the component that uses the policy, else
            `OSError`.
        timeout: seconds for a whole call if no deadline is inherited.
        attempt_timeout: seconds for one attempt of a call, or for the opening of a stream.
        first_timeout: seconds until the first item of a stream.
        idle_timeout: seconds between two items of a stream.
        bulkhead: None: 64 concurrent calls and 256 waiting ones; False: no limit.
        retry: None: 3 attempts; False: 1 attempt.
        breaker: None: opens if half of at least 10 calls within 30 s fail; False: no breaker.
        max_keys: the largest number of keys with their own breaker; the least recently used one is forgotten first.

    Breakers and bulkheads have state. To share it, pass the same object to several policies. A policy may be made outside an event loop, and may be used
    on another loop while it is idle.

    An error of `fn` is raised unchanged, after the last attempt, or at once if `on` returns None. The timeout of an attempt is a `TimeoutError`. If a
    call of one policy runs within a call of another, only the inner policy retries an error of the inner call.

    Examples:
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
            raise ValueError("max_keys must be at least 1")
        if not (on is None or callable(on) or (isinstance(on, tuple) and all(isinstance(kind, type) for kind in on))):
            raise ValueError(f"on is {on!r}: it must be an error type, a tuple of them, a function or None")
        retries = RetryPolicy() if retry is None else retry or None
        guard = CircuitBreaker() if breaker is None else breaker or None
        limiter = Bulkhead(64, queue=256) if bulkhead is None else bulkhead or None
        for part in (limiter, guard):
            if part is not None:
                part.name = part.name or name
        if retries is not None:
            import tenacity  # noqa: F401  # imported when a policy is made, not during a call
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
            key: a model or a replica, which then has its own breaker.
            on: the errors of the dependency. Used only if the policy has no rule.

        Raises:
            DeadlineExceeded: the inherited deadline or `timeout` passed.
            CircuitOpen, Overloaded: the call was refused.
            TimeoutError: the last attempt took longer than `attempt_timeout`.
            Exception: the error of `fn` in the last attempt.

        A cancelled call gives its place, its permit and its probe's slot back.
        """
        call = Call(self._dependency, key, on)
        try:
            return await try_once(call, fn)
        except Exception as error:
            return await again(call, error, lambda: try_once(call, fn))

    def hold(self, *, key: str | None = None, on: On | None = None) -> AbstractAsyncContextManager[Hold]:
        """Return a context manager that holds a place for a stream until the end of the block.

        The breaker judges the first item and the end of the stream. `Hold.call` retries until the first item was yielded.
        """
        return Hold(self._dependency, key, on)

    @property
    def name(self) -> str:
        """The dependency's name."""
        return self._dependency.name

    @property
    def first_timeout(self) -> float:
        """Seconds until the first item of a stream."""
        return self._dependency.first_timeout

    @property
    def idle_timeout(self) -> float:
        """Seconds between two items of a stream."""
        return self._dependency.idle_timeout

    @property
    def bulkhead(self) -> Bulkhead | None:
        """The policy's bulkhead; None if there is none."""
        return self._dependency.bulkhead

    def breaker(self, key: str | None = None) -> CircuitBreaker | None:
        """Return the breaker for calls with this key; None if there is none."""
        return self._dependency.breaker_of(key)

    @property
    def has_default_breaker(self) -> bool:
        """Whether the breaker is the default one. Then components use one breaker per model; a breaker that the user passed is shared by all models."""
        return self._has_default_breaker

    def snapshot(self) -> PolicySnapshot:
        """Return counters and the snapshots of all parts, serialisable."""
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
    """Return a component's policy; None if it has none.

    It uses no Protocol: a wrapper, such as a cache around an embedder, may pass members on by `__getattr__`, and from Python 3.12 on `isinstance` ignores
    such members.
    """
    policy = getattr(part, name, None)
    # A user's component may have another object under this name.
    return policy if isinstance(policy, Policy) else None
