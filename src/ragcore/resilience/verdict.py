"""Judges the errors of attempts: whether an error counts against the dependency, and whether another attempt makes sense.

These are two questions. A 429 may be retried and does not count, because the server works. A wrong password counts but another attempt would fail as well.
"""

from __future__ import annotations

from ragcore.errors import DeadlineExceeded
from ragcore.events import emit
from ragcore.lifecycle.bound import Bound
from ragcore.resilience.attempt import Attempt, AttemptTimeout
from ragcore.resilience.call import Call
from ragcore.resilience.failure import Failure, judge
from ragcore.resilience.permit import Outcome

__all__ = ["give_up", "outcome_of", "worth_another"]

# Applies if no call has succeeded recently: a wait that ended at the caller's deadline counts as a failure if it took more seconds than this.
LONG_WITHOUT_SUCCESS = 1.0
# An event loop may fire a timer this many seconds early.
EARLY = 0.001


def outcome_of(call: Call, error: BaseException, attempt: Attempt, began: float | None = None) -> Outcome:
    """Return whether the error of an attempt counts against the dependency. Also begin a pause that the error asks for.

    Args:
        call: the call.
        error: the error of the attempt, or its cancellation.
        attempt: the attempt.
        began: the start of the wait that failed, without the time in the queue; None: the start of the attempt.
    """
    if began is None:
        began = attempt.began
    # The timeout of a nested policy is an ordinary error. Only this attempt's own timeout shows that the dependency used all of the time.
    own = isinstance(error, AttemptTimeout) and error.attempt is attempt
    if isinstance(error, AttemptTimeout) and own and not error.shortened:
        return "failure"
    now = call.clock()
    call.inherit()
    # Only ragcore's own deadlines count here: in an anyio scope that is being cancelled, all deadlines of anyio are in the past.
    ran_out = (
        own
        or isinstance(error, DeadlineExceeded)
        or (not isinstance(error, Exception) and now >= call.own_when - EARLY)
        or (not isinstance(error, Exception) and call.patience is not None and call.patience.has_run_out(now))
    )
    if ran_out:
        # The wait counts as a failure only if most successful calls took less time than this wait.
        typical = 0.0 if call.breaker is None else call.breaker.typical_duration()
        return "failure" if now - began > (typical or LONG_WITHOUT_SUCCESS) else "neutral"
    # A cancellation, also one that a driver converted into its own error, does not count against the dependency.
    if not isinstance(error, Exception) or call.being_cancelled:
        return "neutral"
    failure = judge(call.on, error)
    if failure is None:
        return "neutral"
    if failure.retry_after and not failure.counts:
        call.dependency.pauses.add(call.key, failure.retry_after, now)
        emit("policy.paused", call.dependency.name, seconds=failure.retry_after)
    return "failure" if failure.counts else "neutral"


def worth_another(call: Call, error: Exception) -> Failure | None:
    """Return the judgement on an error that may be retried; None if it may not be."""
    # Retries don't multiply: an error that a nested policy has raised after its own retries is not retried again.
    if call.given_up is not None and call.given_up in (error, error.__cause__):
        return None
    if isinstance(error, AttemptTimeout) and error.attempt is call.last:
        return Failure()
    failure = judge(call.on, error)
    return failure if failure is not None and failure.retry else None


def give_up(call: Call, error: Exception) -> None:
    """Record on the enclosing attempt, if there is one, that this error was already retried and must not be retried again."""
    retry = call.dependency.retry
    if call.given_up is None and (retry is None or retry.attempts == 1 or worth_another(call, error) is None):
        return
    bound: Bound | None = call.outer
    while bound is not None and not isinstance(bound, Attempt):
        bound = bound.outer
    if bound is not None:
        bound.given_up = error
