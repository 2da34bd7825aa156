"""The pipeline of a call: admission, time limit, judgement and retry.

The order, outermost first: deadline → retry → admission (breaker and bulkhead together) → attempt timeout → call. So a call holds no place while it waits
before a retry. A successful first attempt opens one cancel scope and does not use tenacity.

Source: Polly's resilience pipeline (strategies listed outermost first).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ragcore.events import emit
from ragcore.lifecycle.bound import inherited
from ragcore.lifecycle.stages import retried
from ragcore.resilience.admission import admit, admit_at_once
from ragcore.resilience.attempt import Attempt, AttemptTimeout
from ragcore.resilience.call import Call
from ragcore.resilience.clock import cancel_scope
from ragcore.resilience.permit import Outcome
from ragcore.resilience.verdict import give_up, outcome_of, worth_another

__all__ = ["again", "bounded", "end_failed", "try_once"]

T = TypeVar("T")


async def try_once(call: Call, fn: Callable[[], Awaitable[T]]) -> T:
    """Make one attempt: admission, time limit, judgement. At the end, give back its place and its permit."""
    attempt = admit_at_once(call) or await admit(call)
    try:
        result = await bounded(call, fn, attempt, call.dependency.attempt_timeout)
    except BaseException as error:
        # Every error and every cancellation ends the attempt here. There is no `finally`, because a success is judged differently.
        end_failed(call, attempt, error)
        raise
    attempt.end("success", call.clock())
    return result


def end_failed(call: Call, attempt: Attempt, error: BaseException) -> None:
    """Judge a failed attempt and give back its place and permit, even if the judgement raises: `on` is the user's function."""
    call.given_up = attempt.given_up
    outcome: Outcome = "neutral"
    try:
        outcome = outcome_of(call, error, attempt)
    finally:
        attempt.end(outcome, call.clock())


async def bounded(
    call: Call, fn: Callable[[], Awaitable[T]], attempt: Attempt, limit: float, began: float | None = None
) -> T:
    """Await `fn()` until `limit` seconds after `began`, or until the deadline if that is earlier. Nested calls inherit the earlier of the two."""
    if began is None:
        began = attempt.began
    own = began + limit
    if own > call.open_by:
        own = call.open_by
    # The limits are stored on the attempt, because a nested call that waits for a place moves them while `fn` runs.
    attempt.limit = own
    # Use `own_when` here: `when` checks all enclosing scopes, which costs too much to do for each call. As a result, a nested wait ends at the policy's own
    # timeout, even in an anyio scope with a later deadline.
    attempt.latest = call.own_when
    attempt.outer = call.outer
    # Read `call.when`, which checks all enclosing scopes, only if the deadline is the earlier of the two.
    attempt.when = own if own <= call.own_when else min(own, call.when)
    with cancel_scope(attempt.when, call.task) as scope:
        attempt.scope = scope
        # Set this after the scope is open: the scope's timer copies the current context, and that copy would keep the attempt in memory too long.
        token = inherited.set(attempt)
        try:
            return await fn()
        finally:
            inherited.reset(token)
    assert scope.cancelled_caught
    # Nested calls may have waited in ragcore's queues. Their waits have moved the limit.
    waited, own = attempt.limit - own, attempt.limit
    if own <= call.when:
        emit("attempt.timeout", call.dependency.name, seconds=call.clock() - began - waited)
        raise AttemptTimeout(
            f"{call.dependency} did not answer within {call.clock() - began - waited:.1f} s",
            shortened=own < began + waited + limit,
            attempt=attempt,
        )
    raise call.expired("waiting for the answer")


async def again(call: Call, error: Exception, attempt: Callable[[], Awaitable[T]]) -> T:
    """Retry after a failed attempt if that makes sense; else raise the error unchanged."""
    # This comes first: a caller that is being cancelled must neither wait nor make another attempt.
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
    """Return the seconds to wait; None if there is no further attempt, no retry budget or not enough time."""
    dependency, retry = call.dependency, call.dependency.retry
    assert retry is not None
    failure, number = worth_another(call, error), call.attempts
    if failure is None or number >= retry.attempts or call.being_cancelled:
        return None
    wait = retry.wait_before(number, failure.retry_after)
    # Check the time first: a retry without enough time must not use up the retry budget.
    if call.clock() + wait >= call.begins_by:
        emit("retry.no_time", dependency.name, attempt=number + 1, wait=wait, error=type(error).__name__)
        return None
    if dependency.budget is not None and not dependency.budget.withdraw():
        emit("retry.budget_empty", dependency.name, attempt=number + 1, error=type(error).__name__)
        return None
    dependency.retries += 1
    retried()
    emit("retry.attempt", dependency.name, attempt=number + 1, wait=wait, error=type(error).__name__)
    return wait
