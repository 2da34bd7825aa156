"""Checks that the reasons in answers and errors are true: compares their statements about queues and dependencies with the events of the simulation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ragcore.errors import Overloaded, RagcoreError
from ragcore.types import Answer

if TYPE_CHECKING:
    from ragcore.testing.simulation import World

__all__ = ["check_answer", "check_error"]

WAITED = re.compile(r"no place within ([\d.]+) s; (\d+) callers? w(?:as|ere) waiting( and the queue was full)?")
LEFT = re.compile(r"recent calls took ([\d.]+) s and only ([\d.]+) s are left, .* \((\d+) running, (\d+) waiting\)")
FULL = re.compile(r"concurrency limit and queue are full \((\d+) running, (\d+) waiting\)")
SILENT = re.compile(r"did not (?:begin to )?answer within ([\d.]+) s")
OPEN = re.compile(r"the circuit breaker of (\w+)(?: for this flow)? is")
# Messages round numbers to a tenth.
ROUNDING = 0.051


def check_answer(answer: Answer, world: World, tenant: str, began: float, now: float) -> None:
    """Check each reason for a degradation in the answer to a call of `tenant` that began at `began` and ended at `now`."""
    for part in answer.degraded:
        _check(part.reason, world, part.stage, tenant, began, now)


def check_error(error: RagcoreError, world: World, tenant: str, began: float, now: float) -> None:
    """Check the reason that an error gives."""
    if isinstance(error, Overloaded):
        assert any(pattern.search(str(error)) for pattern in (WAITED, LEFT, FULL)), (
            f"the error gives no known reason for the overload: {error}"
        )
    _check(str(error), world, error.stage or "", tenant, began, now)


def _check(reason: str, world: World, stage: str, tenant: str, began: float, now: float) -> None:
    elapsed = now - began
    limits = {policy.name: policy.bulkhead for policy in world.policies}
    bulkhead = limits.get(reason.partition(" is overloaded")[0].rpartition(" ")[2])
    if found := WAITED.search(reason):
        assert float(found[1]) <= elapsed + ROUNDING, f"the stated wait is longer than the call: {reason}"
        assert bulkhead is not None, f"the reason names no policy of the world: {reason}"
        assert 1 <= int(found[2]) <= bulkhead.queue, f"the stated number of waiting callers exceeds the queue: {reason}"
        assert not found[3] or int(found[2]) == bulkhead.queue, f"the queue was not full: {reason}"
    if found := LEFT.search(reason):
        assert bulkhead is not None, f"the reason names no policy of the world: {reason}"
        assert float(found[2]) <= float(found[1]) + ROUNDING, f"there was enough time: {reason}"
        assert int(found[3]) >= bulkhead.limit or int(found[4]) > 0, f"a place was free: {reason}"
    if found := FULL.search(reason):
        assert bulkhead is not None, f"the reason names no policy of the world: {reason}"
        assert int(found[2]) == bulkhead.queue, f"the queue was not full: {reason}"
        assert int(found[1]) >= bulkhead.limit or int(found[2]), f"a place was free: {reason}"
    if found := SILENT.search(reason):
        part = {"embed": "embedding", "generate": "generation"}.get(stage, "database")
        asked = [at for at, flow in world.asked(part) if flow == tenant and began <= at <= now]
        assert asked, f"the dependency was never asked: {reason}"
        assert float(found[1]) <= elapsed + ROUNDING, f"the stated silence is longer than the call: {reason}"
    if found := OPEN.search(reason):
        assert found[1] in world.opened, f"the breaker never opened: {reason}"
