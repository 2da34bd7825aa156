"""Admission: the breaker's permit and a place in the bulkhead, taken together in one synchronous step.

The breaker is checked before a call queues, so that no call waits for a dependency that is down. It is checked again when the call gets a place, because
the dependency may have failed meanwhile. No call holds a place while it waits for a pause to end.
"""

from __future__ import annotations

import math

import anyio

from ragcore.errors import CircuitOpen
from ragcore.resilience.attempt import Attempt
from ragcore.resilience.bulkhead import Bulkhead
from ragcore.resilience.call import Call
from ragcore.resilience.patience import in_line
from ragcore.resilience.waiter import Flow
from ragcore.resilience.waking import Sleepers, Waking

__all__ = ["admit", "admit_at_once"]


def admit_at_once(call: Call) -> Attempt | None:
    """Take a place and the breaker's permit without waiting. Return None, and take neither, if the call would have to wait.

    Raises:
        CircuitOpen: the breaker refuses the call.
    """
    dependency = call.dependency
    # The policy's breaker may have been isolated after the call began. Then it applies to all keys.
    if call.key is not None:
        call.breaker = dependency.breaker_of(call.key)
    now = call.clock()
    if dependency.pauses.any and dependency.pauses.until(call.key, now) > now:
        return None
    bulkhead = dependency.bulkhead
    if bulkhead is None:
        return _attempt(call, None, None, now)
    place = bulkhead.take(call.flow)
    return None if place is None else _attempt(call, bulkhead, place, now)


async def admit(call: Call) -> Attempt:
    """Take a place and the breaker's permit. Wait for the end of a pause and for a place if necessary.

    Raises:
        CircuitOpen: the breaker refuses the call, or the dependency asked for a pause that is longer than the call can wait.
        Overloaded: the queue is full, or no place became free in time.
    """
    dependency, bulkhead = call.dependency, call.dependency.bulkhead
    while True:
        # The pause comes first: a call that waits for it must not hold a place that a call with another key could use.
        await _wait_for_pause(call)
        call.breaker = dependency.breaker_of(call.key)
        if call.breaker is not None:
            call.breaker.check(call.flow)
        place = None if bulkhead is None else bulkhead.take(call.flow) or await _queue(call, bulkhead)
        now = call.clock()
        if dependency.pauses.until(call.key, now) <= now:
            return _attempt(call, bulkhead, place, now)
        if bulkhead is not None and place is not None:  # a pause began while the call was in the queue
            bulkhead.line.give_back(place, None, False, now)


def _attempt(call: Call, bulkhead: Bulkhead | None, place: Flow | None, now: float) -> Attempt:
    """Take the breaker's permit for a call that has a place. If the breaker refuses, give the place back."""
    try:
        attempt = Attempt(call.dependency.name, bulkhead, place, call.breaker, now, call.flow)
    except BaseException:
        if bulkhead is not None and place is not None:
            bulkhead.line.give_back(place, None, False, now)
        raise
    call.attempts += 1
    call.last = attempt
    return attempt


async def _queue(call: Call, bulkhead: Bulkhead) -> Flow:
    """Wait for a place until too little time is left for the call, or until the breaker opens. Meanwhile the dependency's time limits are paused.

    Raises:
        CircuitOpen: the breaker opened.
        Overloaded: the queue is full, or no place became free in time.
    """
    dependency = call.dependency
    began = call.clock()
    with in_line():
        call.inherit()  # `in_line` has paused the limit of an outer attempt. Until the place is granted, only the caller's deadline ends the wait
        place_by = math.inf if call.patience is None else call.patience.place_by
        waiter = bulkhead.line.enqueue(call.when, call.flow, by=place_by)
        try:
            while True:
                with Waking(_sleepers(call), waiter.wake, call.flow):
                    if await bulkhead.line.wait(waiter):
                        break
                # The call was woken without a place, because a breaker has opened. If it is another flow's breaker, the call keeps its position.
                call.breaker = dependency.breaker_of(call.key)
                if call.breaker is not None:
                    call.breaker.check(call.flow)
        except BaseException:
            # A cancellation may come in the same step that granted the place. Then the next waiting call gets the place.
            bulkhead.line.give_up(waiter)
            raise
    call.inherit()
    call.open_by += call.clock() - began
    return waiter.flow


def _sleepers(call: Call) -> tuple[Sleepers | None, Sleepers | None]:
    """Return the sleepers of the key's breaker and of the policy's own breaker. If one of the two breakers opens, the wait ends."""
    own, general = call.breaker, call.dependency.breaker
    return None if own is None else own.sleepers, None if general is None else general.sleepers


async def _wait_for_pause(call: Call) -> None:
    """Wait until the dependency's pause is over, even if the pause is extended meanwhile. Refuse the call at once if it has too little time to wait."""
    dependency = call.dependency
    while (until := dependency.pauses.until(call.key, now := call.clock())) > now:
        if until >= call.begins_by:
            raise CircuitOpen(
                f"{dependency} asked for a pause that lasts another {until - now:.1f} s, longer than this call can wait; try again later",
                dependency=dependency.name,
                retry_after=until - now,
            )
        await anyio.sleep(until - now)
