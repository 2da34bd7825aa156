"""What an error says: whether it counts against the dependency, and whether another attempt makes sense.

The two differ. A 429 is worth another attempt and says nothing bad about the server; a wrong password counts and will be as wrong the next time.
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

# Where nothing has succeeded lately: seconds of waiting in vain that count against the dependency, though the caller's time ran out.
LONG_WITHOUT_SUCCESS = 1.0
# An event loop may fire a timer this much before its time.
EARLY = 0.001


def outcome_of(call: Call, error: BaseException, attempt: Attempt, began: float | None = None) -> Outcome:
    """Whether the error of an attempt counts against the dependency. A pause that the error asks for begins here.

    Args:
        began: when the wait began that ended so; None: the attempt; the time in the queue is not the dependency's.
    """
    if began is None:
        began = attempt.began
    # A timeout of a policy further in is an error like any other: only the own limit is known to have been the dependency's alone.
    own = isinstance(error, AttemptTimeout) and error.attempt is attempt
    if isinstance(error, AttemptTimeout) and own and not error.shortened:
        return "failure"
    now = call.clock()
    call.inherit()
    # By deadlines of ours alone: in an anyio scope that is being cancelled, all of anyio's are in the past.
    ran_out = (
        own
        or isinstance(error, DeadlineExceeded)
        or (not isinstance(error, Exception) and now >= call.own_when - EARLY)
        or (not isinstance(error, Exception) and call.patience is not None and call.patience.has_run_out(now))
    )
    if ran_out:
        # Too short a time says nothing about the dependency; one in which most successes would have come does.
        typical = 0.0 if call.breaker is None else call.breaker.typical_duration()
        return "failure" if now - began > (typical or LONG_WITHOUT_SUCCESS) else "neutral"
    # Somebody left, or is leaving: whatever the driver made of it, the dependency has done nothing.
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
    """What makes the error worth another attempt; None if nothing does."""
    # Retries don't multiply: what a policy further in has retried and let out is not retried around it.
    if call.given_up is not None and call.given_up in (error, error.__cause__):
        return None
    if isinstance(error, AttemptTimeout) and error.attempt is call.last:
        return Failure()
    failure = judge(call.on, error)
    return failure if failure is not None and failure.retry else None


def give_up(call: Call, error: Exception) -> None:
    """Tell the attempt around this call, if there is one, that its error has been retried."""
    retry = call.dependency.retry
    if call.given_up is None and (retry is None or retry.attempts == 1 or worth_another(call, error) is None):
        return
    bound: Bound | None = call.outer
    while bound is not None and not isinstance(bound, Attempt):
        bound = bound.outer
    if bound is not None:
        bound.given_up = error
