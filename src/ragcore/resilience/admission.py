"""Admission: the breaker's permit and a place in the bulkhead, taken together in one synchronous step.

The breaker is asked before queueing, so that nobody waits in vain, and again when the turn comes, so that nobody is sent to a dependency that
failed meanwhile. Nobody waits for a breaker, or for a pause, while holding a place.
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
    """A place and the breaker's permit, if there is nothing to wait for; None, and nothing taken, if there is.

    Raises:
        CircuitOpen: the breaker refuses.
    """
    dependency = call.dependency
    if call.key is not None:  # by now it may have been isolated by hand
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
    """The same, waiting for its turn.

    Raises:
        CircuitOpen: the breaker refuses, or the dependency wants to be left alone for longer than there is time.
        Overloaded: no place, or none in time.
    """
    dependency, bulkhead = call.dependency, call.dependency.bulkhead
    while True:
        # The pause first: who waits for it must not hold a place that somebody with another key could use.
        await _wait_for_pause(call)
        call.breaker = dependency.breaker_of(call.key)
        if call.breaker is not None:
            call.breaker.check(call.flow)
        place = None if bulkhead is None else bulkhead.take(call.flow) or await _queue(call, bulkhead)
        now = call.clock()
        if dependency.pauses.until(call.key, now) <= now:
            return _attempt(call, bulkhead, place, now)
        if bulkhead is not None and place is not None:  # paused while it queued
            bulkhead.line.give_back(place, None, False, now)


def _attempt(call: Call, bulkhead: Bulkhead | None, place: Flow | None, now: float) -> Attempt:
    """With a place taken: the breaker's permit, or the place is given back."""
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
    """Wait for a place, as long as the time allows for a call, or until the breaker opens. No limit of the dependency's runs meanwhile.

    Raises where the place won't come, or would be in vain.
    """
    dependency = call.dependency
    began = call.clock()
    with in_line():
        call.inherit()  # stopped by `in_line`, an attempt around this call now ends with its caller's deadline
        place_by = math.inf if call.patience is None else call.patience.place_by
        waiter = bulkhead.line.enqueue(call.when, call.flow, by=place_by)
        try:
            while True:
                with Waking(_sleepers(call), waiter.wake, call.flow):
                    if await bulkhead.line.wait(waiter):
                        break
                # Woken without a place: a breaker has opened. Where it was another flow's, the wait goes on, at the same place in the queue.
                call.breaker = dependency.breaker_of(call.key)
                if call.breaker is not None:
                    call.breaker.check(call.flow)
        except BaseException:
            # Also a cancellation in the very step that granted the place: it goes to the next in line.
            bulkhead.line.give_up(waiter)
            raise
    call.inherit()
    call.open_by += call.clock() - began
    return waiter.flow


def _sleepers(call: Call) -> tuple[Sleepers | None, Sleepers | None]:
    """Of the breakers that would end the wait. One that is isolated by hand stands for all its keys."""
    own, general = call.breaker, call.dependency.breaker
    return None if own is None else own.sleepers, None if general is None else general.sleepers


async def _wait_for_pause(call: Call) -> None:
    """A 429 paces everyone: wait, as often as it is extended, or say at once that there is no time to."""
    dependency = call.dependency
    while (until := dependency.pauses.until(call.key, now := call.clock())) > now:
        if until >= call.begins_by:
            raise CircuitOpen(
                f"{dependency} asked to be left alone for another {until - now:.1f} s, which is longer than there is time for",
                dependency=dependency.name,
                retry_after=until - now,
            )
        await anyio.sleep(until - now)
