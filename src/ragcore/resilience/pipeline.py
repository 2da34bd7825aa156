"""The pipeline of a call: admitted, bounded, judged, and tried again.

Outermost first: deadline → retry → admission (breaker and bulkhead together) → attempt timeout → call. So nothing is held while a retry sleeps.
The happy path opens one cancel scope and never enters tenacity.

Source: Polly's resilience pipeline (strategies listed outermost first).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ragcore.events import emit
from ragcore.lifecycle.bound import inherited
from ragcore.resilience.admission import admit, admit_at_once
from ragcore.resilience.attempt import Attempt, AttemptTimeout
from ragcore.resilience.call import Call
from ragcore.resilience.clock import cancel_scope
from ragcore.resilience.permit import Outcome
from ragcore.resilience.verdict import give_up, outcome_of, worth_another

__all__ = ["again", "bounded", "end_failed", "try_once"]

T = TypeVar("T")


async def try_once(call: Call, fn: Callable[[], Awaitable[T]]) -> T:
    """One attempt: admission, bound, judgement; everything is given back."""
    attempt = admit_at_once(call) or await admit(call)
    try:
        result = await bounded(call, fn, attempt, call.dependency.attempt_timeout)
    except BaseException as error:
        # Every way out ends the attempt, a cancellation as well; there is no `finally`, since success is judged otherwise.
        end_failed(call, attempt, error)
        raise
    attempt.end("success", call.clock())
    return result


def end_failed(call: Call, attempt: Attempt, error: BaseException) -> None:
    """Judge a failed attempt and give back what it held, however the judging goes: `on` is a function of the user's, and may raise."""
    call.given_up = attempt.given_up
    outcome: Outcome = "neutral"
    try:
        outcome = outcome_of(call, error, attempt)
    finally:
        attempt.end(outcome, call.clock())


async def bounded(
    call: Call, fn: Callable[[], Awaitable[T]], attempt: Attempt, limit: float, began: float | None = None
) -> T:
    """Await `fn()` for at most `limit` seconds since `began`, within the deadline; nested calls inherit the sooner of the two."""
    if began is None:
        began = attempt.began
    own = began + limit
    if own > call.open_by:
        own = call.open_by
    # On the attempt, not in variables: a wait for a place further in moves them while `fn` runs.
    attempt.limit = own
    # Not `call.when`, which would look at all scopes around each call. So a wait further in ends with the policy's own timeout, even under a later scope
    # of anyio's.
    attempt.latest = call.own_when
    attempt.outer = call.outer
    # `call.when` looks at all scopes around: only where the deadline is the sooner of the two.
    attempt.when = own if own <= call.own_when else min(own, call.when)
    with cancel_scope(attempt.when, call.task) as scope:
        attempt.scope = scope
        # After the scope: its timer keeps the context in which it was made, and all that is in it, until the event loop turns.
        token = inherited.set(attempt)
        try:
            return await fn()
        finally:
            inherited.reset(token)
    assert scope.cancelled_caught
    # Further in, a call may have waited in a queue of ours: by that much the limit has moved.
    waited, own = attempt.limit - own, attempt.limit
    if own <= call.when:
        raise AttemptTimeout(
            f"{call.dependency} did not answer within {call.clock() - began - waited:.1f} s",
            shortened=own < began + waited + limit,
            attempt=attempt,
        )
    raise call.expired("waiting for the answer")


async def again(call: Call, error: Exception, attempt: Callable[[], Awaitable[T]]) -> T:
    """After a failed attempt: try again if that makes sense, or let the error out as itself."""
    # Before anything else: a caller that is being cancelled must neither wait nor ask again.
    await call.yield_to_cancellation(error)
    retry = call.dependency.retry
    try:
        if retry is None or call.attempts >= retry.attempts or worth_another(call, error) is None:
            raise error
        return await retry.run(attempt, first=error, wait=lambda last: _wait_before_retry(call, last))
    except Exception as last:
        give_up(call, last)
        await call.yield_to_cancellation(last)
        raise


def _wait_before_retry(call: Call, error: Exception) -> float | None:
    """Seconds to wait, or None if another attempt is not allowed, not affordable, or would not fit."""
    dependency, retry = call.dependency, call.dependency.retry
    assert retry is not None
    failure, number = worth_another(call, error), call.attempts
    if failure is None or number >= retry.attempts or call.being_cancelled:
        return None
    wait = retry.wait_before(number, failure.retry_after)
    # Time first: a retry that does not fit must not use up the budget of one that would.
    if call.clock() + wait >= call.begins_by:
        emit("retry.no_time", dependency.name, attempt=number + 1, wait=wait, error=type(error).__name__)
        return None
    if dependency.budget is not None and not dependency.budget.withdraw():
        emit("retry.budget_empty", dependency.name, attempt=number + 1, error=type(error).__name__)
        return None
    dependency.retries += 1
    emit("retry.attempt", dependency.name, attempt=number + 1, wait=wait, error=type(error).__name__)
    return wait
