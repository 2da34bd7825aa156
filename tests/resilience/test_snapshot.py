"""Snapshots."""

from __future__ import annotations

import json

import pytest

from ragcore.resilience import Bulkhead, CircuitBreaker, Policy, RetryBudget, SingleFlight, Snapshot


@pytest.mark.anyio
async def test_every_part_has_a_serialisable_snapshot() -> None:
    for part in (Bulkhead(2, name="b"), CircuitBreaker(name="c"), Policy("p"), RetryBudget(), SingleFlight(name="f")):
        snapshot = part.snapshot()
        assert json.loads(json.dumps(snapshot.to_dict())) == snapshot.to_dict()
        assert repr(snapshot).startswith(type(snapshot).__name__)
        assert isinstance(snapshot, Snapshot)
    nested = Policy("p").snapshot()
    assert nested.bulkhead is not None
    assert nested.bulkhead.limit == nested["bulkhead"]["limit"] == 64
    assert nested.to_dict()["breaker"]["state"] == "closed"
    assert Policy(breaker=False, bulkhead=False, retry=False).snapshot().breaker is None


def test_outside_an_event_loop_values_that_depend_on_the_time_are_none() -> None:
    policy = Policy("p")
    assert policy.snapshot().paused_for is None
    breaker = policy.breaker()
    assert breaker is not None
    breaker.isolate()
    assert (breaker.snapshot()["state"], breaker.snapshot()["retry_after"]) == ("isolated", None)
