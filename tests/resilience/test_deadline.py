"""Deadlines."""

from __future__ import annotations

import anyio
import pytest

from ragcore.lifecycle.bound import Bound, expires_at, inherit, inherited
from ragcore.resilience import Deadline, DeadlineExceeded, deadline
from ragcore.resilience.deadline import reserve, share

pytestmark = pytest.mark.anyio


async def test_expiry_raises_deadline_exceeded_with_budget_and_elapsed() -> None:
    with pytest.raises(DeadlineExceeded) as caught, deadline(0.01):
        await anyio.sleep_forever()
    assert caught.value.budget == 0.01
    assert caught.value.elapsed >= 0.01
    assert isinstance(caught.value, TimeoutError)


async def test_an_inner_deadline_can_only_be_earlier() -> None:
    with deadline(1), deadline(100) as inner:
        assert inner.remaining() <= 1
    with deadline(100), deadline(1) as inner:
        assert inner.remaining() <= 1


async def test_an_enclosing_scope_applies_and_passes_through_unchanged() -> None:
    with anyio.move_on_after(0.01) as scope:
        with deadline(5) as inner:
            assert inner.remaining() == pytest.approx(0.01)
            assert expires_at() == pytest.approx(anyio.current_time() + 0.01)
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_timeout_error_from_the_block_is_raised_unchanged() -> None:
    with pytest.raises(TimeoutError) as caught, deadline(5):
        raise TimeoutError("a library's own")
    assert not isinstance(caught.value, DeadlineExceeded)


async def test_no_deadline_applies_after_the_block() -> None:
    with deadline(5) as outer:
        assert Deadline.current() is outer
    assert Deadline.current() is None
    with inherit(anyio.current_time() + 3):
        current = Deadline.current()
        assert current is not None
        assert 2 < current.remaining() <= 3
    assert Deadline.current() is None


async def test_a_deadline_must_be_positive_and_can_be_entered_only_once() -> None:
    for bad in (0, -1, float("nan")):
        with pytest.raises(ValueError):
            deadline(bad)
    once = deadline(5)
    with once:
        pass
    with pytest.raises(RuntimeError):
        once.__enter__()


async def test_remaining_is_the_time_until_the_earliest_deadline() -> None:
    with deadline(10) as outer, deadline(20) as inner:
        await anyio.sleep(4)
        assert outer.remaining() == pytest.approx(6)
        assert inner.remaining() == pytest.approx(6)
        assert inner.when == outer.when
        assert expires_at() == pytest.approx(outer.when)
        with anyio.move_on_after(2):
            assert inner.remaining() == pytest.approx(2)
    assert expires_at() == float("inf")
    with inherit(anyio.current_time() - 5):
        current = Deadline.current()
        assert current is not None
        assert current.remaining() == 0
        assert expires_at() == pytest.approx(anyio.current_time() - 5)


async def test_the_message_has_the_allowed_and_the_elapsed_seconds() -> None:
    with (
        pytest.raises(
            DeadlineExceeded, match=r"^deadline exceeded: not finished within 3 s \(stopped after 3\.00 s\)$"
        ) as caught,
        deadline(3),
    ):
        await anyio.sleep_forever()
    assert caught.value.budget == 3
    assert caught.value.elapsed == pytest.approx(3)


async def test_a_deadline_links_to_the_enclosing_one() -> None:
    with deadline(9) as outer, inherit(anyio.current_time() + 5):
        with deadline(3) as inner:
            assert inner.outer is not None
            assert inner.outer.outer is outer
        with inherit(None):
            assert inherited.get() is None
            assert Deadline.current() is None
    assert Bound(1.0).outer is None


async def test_a_reserve_ends_before_the_enclosing_deadline() -> None:
    began = anyio.current_time()
    for around, kept, part, ends in ((10, 0.5, 0.1, 9.5), (2, 0.5, 0.1, 1.8), (10, 3, 1.0, 7)):
        with deadline(around):
            with pytest.raises(DeadlineExceeded) as caught, reserve(kept, share=part):
                await anyio.sleep_forever()
        assert caught.value.budget == pytest.approx(ends)
        assert anyio.current_time() == pytest.approx(began + ends)
        began = anyio.current_time()
    with deadline(10), pytest.raises(DeadlineExceeded), reserve(3):
        await anyio.sleep_forever()
    assert anyio.current_time() == pytest.approx(began + 7)
    with reserve(5) as endless:  # there is no enclosing deadline, so there is no time to reserve
        assert endless.when == float("inf")
        await anyio.sleep(1_000)
    began = anyio.current_time()
    with inherit(began - 1), pytest.raises(DeadlineExceeded), reserve(1):
        await anyio.sleep_forever()
    assert anyio.current_time() == pytest.approx(began)


async def test_a_share_of_the_remaining_time_has_a_maximum() -> None:
    assert share(0.4, most=10) == 10
    with deadline(100):
        assert share(0.4, most=10) == 10
        assert share(0.4, most=50) == pytest.approx(40)
        await anyio.sleep(90)
        assert share(0.4, most=10) == pytest.approx(4)
    with inherit(anyio.current_time() - 1):
        assert share(0.4, most=10) == 0


async def test_an_error_in_the_block_is_raised_unchanged() -> None:
    error = KeyError("x")
    with pytest.raises(KeyError) as caught, deadline(5):
        raise error
    assert caught.value is error
    assert Deadline.current() is None
