"""Deadlines."""

from __future__ import annotations

import anyio
import pytest

from ragcore.resilience import Deadline, DeadlineExceeded, deadline
from ragcore.resilience.deadline import expires_at, inherit

pytestmark = pytest.mark.anyio


async def test_its_own_expiry_is_deadline_exceeded_with_budget_and_elapsed() -> None:
    with pytest.raises(DeadlineExceeded) as caught, deadline(0.01):
        await anyio.sleep_forever()
    assert caught.value.budget == 0.01
    assert caught.value.elapsed >= 0.01
    assert isinstance(caught.value, TimeoutError)


async def test_an_inner_one_can_only_be_sooner() -> None:
    with deadline(1), deadline(100) as inner:
        assert inner.remaining() <= 1
    with deadline(100), deadline(1) as inner:
        assert inner.remaining() <= 1


async def test_an_enclosing_scope_counts_and_passes_through_as_itself() -> None:
    with anyio.move_on_after(0.01) as scope:
        with deadline(5) as inner:
            assert inner.remaining() <= 0.01
            assert expires_at() <= anyio.current_time() + 0.01
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_timeout_from_below_is_another_event() -> None:
    with pytest.raises(TimeoutError) as caught, deadline(5):
        raise TimeoutError("a library's own")
    assert not isinstance(caught.value, DeadlineExceeded)


async def test_it_is_gone_after_the_block() -> None:
    with deadline(5) as outer:
        assert Deadline.current() is outer
    assert Deadline.current() is None
    with inherit(anyio.current_time() + 3):
        current = Deadline.current()
        assert current is not None
        assert 2 < current.remaining() <= 3
    assert Deadline.current() is None


async def test_it_lies_in_the_future_and_is_entered_once() -> None:
    for bad in (0, -1, float("nan")):
        with pytest.raises(ValueError):
            deadline(bad)
    once = deadline(5)
    with once:
        pass
    with pytest.raises(RuntimeError):
        once.__enter__()
