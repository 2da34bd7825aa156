"""Cancellation at every await: the first, the second, … the last of a run, in each of the ways in which a task is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio
from anyio.lowlevel import checkpoint, current_token

__all__ = ["cancel_everywhere"]

# Runs that never end at some point are bugs of their own.
MOST_CHECKPOINTS = 10_000


async def cancel_everywhere(
    fn: Callable[[], Awaitable[object]], /, *, check: Callable[[], object] | None = None
) -> int:
    """Run `fn` to its end once, then again and again, cancelled at its first, second, … last await.

    On asyncio each point is tried in three ways: by an anyio scope, by one `Task.cancel()`, by `asyncio.timeout`; on trio by a scope.

    Args:
        fn: makes a fresh run; its errors are let through.
        check: called after each run; what it returns must not be False, and it may assert itself.

    Returns:
        How many awaits a whole run has.

    Raises:
        AssertionError: `check` returned False; the message says where the run was cancelled and how.
    """
    whole = _Run(fn, stop_at=None)
    await whole
    _verify(check, "a whole run")
    ways: list[Callable[[_Run], Awaitable[None]]] = [_by_scope]
    if not current_token().backend_class.__module__.endswith("_trio"):
        ways += [_by_task_cancel, _by_timeout]
    for point in range(1, whole.checkpoints + 1):
        for way in ways:
            await way(_Run(fn, stop_at=point))
            await checkpoint()
            _verify(check, f"a run cancelled at await {point} of {whole.checkpoints}{way.__name__.replace('_', ' ')}")
    return whole.checkpoints


def _verify(check: Callable[[], object] | None, after: str) -> None:
    if check is not None and check() is False:
        raise AssertionError(f"something is left behind after {after}")


class _Run:
    """Drives a coroutine and counts how often it waits; at `stop_at` it calls `stop`."""

    def __init__(self, fn: Callable[[], Awaitable[object]], *, stop_at: int | None) -> None:
        self._fn = fn
        self._stop_at = stop_at
        self.stop: Callable[[], object] = lambda: None
        self.checkpoints = 0

    def __await__(self) -> Generator[Any, Any, object]:
        inner = self._fn().__await__()
        send: Callable[[], Any] = lambda: next(inner)  # noqa: E731
        while True:
            try:
                waiting = send()
            except StopIteration as end:
                return end.value
            self.checkpoints += 1
            if self.checkpoints > MOST_CHECKPOINTS:
                raise AssertionError(f"more than {MOST_CHECKPOINTS:,} awaits: does it ever end?")
            if self.checkpoints == self._stop_at:
                self.stop()
            try:
                value = yield waiting
            except BaseException as error:  # handed on to the coroutine, which decides
                send = lambda error=error: inner.throw(error)  # type: ignore[misc]  # noqa: E731
            else:
                send = lambda value=value: inner.send(value)  # type: ignore[misc]  # noqa: E731


async def _by_scope(run: _Run) -> None:
    with anyio.CancelScope() as scope:
        run.stop = scope.cancel
        await run


async def _by_task_cancel(run: _Run) -> None:
    async def body() -> None:
        await run

    task = asyncio.ensure_future(body())
    run.stop = task.cancel
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is not None:
        raise task.exception() or AssertionError


async def _by_timeout(run: _Run) -> None:
    async def body() -> None:
        try:
            async with asyncio.timeout(None) as timeout:
                run.stop = lambda: timeout.reschedule(0)
                await run
        except TimeoutError:
            if not timeout.expired():
                raise

    task = asyncio.ensure_future(body())
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is not None:
        raise task.exception() or AssertionError
