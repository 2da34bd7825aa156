"""Cancels a run at each of its awaits, in each of the ways in which a task can be cancelled."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, Protocol

import anyio
from anyio.lowlevel import checkpoint, current_token

from ragcore.resilience import Snapshot

__all__ = ["at_rest", "cancel_everywhere", "tasks"]

# A run with more awaits is reported as a run that may never end.
MOST_CHECKPOINTS = 10_000
# After a cancellation, background work must end within this many turns of the loop, and a clean-up must end within this many seconds.
SETTLING_TURNS = 20
SETTLING_SECONDS = 2.0

# Keys of snapshots with the number of places, probes, flights or connections in use; at rest they are 0.
IN_USE = ("inside", "waiting", "probes_out", "flying", "in_use")


class HasSnapshot(Protocol):
    """An object with a snapshot: a policy, a breaker, a bulkhead, a single flight or a store."""

    def snapshot(self) -> Snapshot:
        """Return the current state."""


def at_rest(*parts: HasSnapshot) -> Callable[[], None]:
    """Return a check for `cancel_everywhere`: these parts have no place, queue place, probe, flight or connection in use.

    Raises:
        AssertionError: raised by the returned function; it names what is still in use.
    """

    def check() -> None:
        for part in parts:
            out = list(_in_use(part.snapshot().to_dict()))
            assert not out, f"{type(part).__name__} is not at rest: {', '.join(out)}"

    return check


def _in_use(snapshot: Mapping[str, Any], path: str = "") -> Generator[str, None, None]:
    for name, value in snapshot.items():
        if isinstance(value, Mapping):
            yield from _in_use(value, f"{path}{name}.")
        elif name in IN_USE and value:
            yield f"{path}{name}={value}"


async def cancel_everywhere(
    fn: Callable[[], Awaitable[object]], /, *, check: Callable[[], object] | None = None
) -> int:
    """Run `fn` once to its end. Then, for each of its awaits, run `fn` again and cancel it at that await.

    On asyncio each await is cancelled in three ways: by an anyio scope, by one `Task.cancel()` and by `asyncio.timeout`; on trio by a scope.
    After each run it checks that the cancellation was not swallowed, that all context variables have their old values, and that no task
    is left.

    Args:
        fn: starts a new run. Its errors are raised unchanged.
        check: called after each run for further checks, for example `at_rest(policy)`. It fails by returning False or raising
            AssertionError.

    Returns:
        The number of awaits of a whole run.

    Raises:
        AssertionError: something is left behind, or a cancellation was swallowed. The message says where and how the run was cancelled.
    """
    before = tasks()
    whole = _Run(fn, stop_at=None)
    await whole
    await _verify(whole, before, check, "a whole run")
    ways: list[Callable[[_Run], Awaitable[None]]] = [_by_scope]
    if not _on_trio():
        ways += [_by_task_cancel, _by_timeout]
    for point in range(1, whole.checkpoints + 1):
        for way in ways:
            run = _Run(fn, stop_at=point)
            try:
                await way(run)
            except Exception:
                if run.swallowed is None:
                    raise
            where = f"a run cancelled at await {point} of {whole.checkpoints}{way.__name__.replace('_', ' ')}"
            await _verify(run, before, check, where)
    return whole.checkpoints


async def _verify(run: _Run, before: set[object], check: Callable[[], object] | None, after: str) -> None:
    await _settle(before)
    assert run.swallowed is None, f"{after} swallowed the cancellation: it {run.swallowed}"
    assert not run.changed, f"context variables differ after {after}: {', '.join(run.changed)}"
    left = [str(task) for task in tasks() - before]
    assert not left, f"tasks are left after {after}: {', '.join(left)}"
    try:
        fine = check is None or check() is not False
    except AssertionError as error:
        raise AssertionError(f"something is left behind after {after}: {error}") from error
    assert fine, f"something is left behind after {after}"


async def _settle(before: set[object]) -> None:
    for _ in range(SETTLING_TURNS):
        await checkpoint()
    with anyio.move_on_after(SETTLING_SECONDS):
        while tasks() - before:  # noqa: ASYNC110  # there is no event to wait for
            await anyio.sleep(0.001)


def _on_trio() -> bool:
    return current_token().backend_class.__module__.endswith("_trio")


def tasks() -> set[object]:
    """Return all tasks of this event loop except the current one."""
    if not _on_trio():
        return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    import trio

    found: set[object] = set()
    pending: list[trio.lowlevel.Task | None] = [trio.lowlevel.current_root_task()]
    while pending:
        task = pending.pop()
        if task is not None:
            found.add(task)
            pending.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
    return found - {trio.lowlevel.current_task()}


class _Run:
    """Drives a coroutine and counts its awaits. At await number `stop_at` it calls `stop`."""

    def __init__(self, fn: Callable[[], Awaitable[object]], *, stop_at: int | None) -> None:
        self._fn = fn
        self._stop_at = stop_at
        self.stop: Callable[[], object] = lambda: None
        self.checkpoints = 0
        self.changed: list[str] = []
        self.swallowed: str | None = None
        self._was_cancelled = False

    def __await__(self) -> Generator[Any, Any, object]:
        before = contextvars.copy_context()
        try:
            value = yield from self._drive()
        except Exception as error:
            self._end(before, f"raised {error!r}")
            raise
        except BaseException:
            self._end(before, None)
            raise
        self._end(before, f"returned {value!r}")
        return value

    def _end(self, before: contextvars.Context, instead: str | None) -> None:
        if self._was_cancelled:
            self.swallowed = instead
        after = contextvars.copy_context()
        missing = object()
        self.changed = [
            variable.name
            for variable in {*before, *after}
            if before.get(variable, missing) is not after.get(variable, missing)
        ]

    def _drive(self) -> Generator[Any, Any, object]:
        cancelled = anyio.get_cancelled_exc_class()
        inner = self._fn().__await__()
        send: Callable[[], Any] = lambda: next(inner)  # noqa: E731
        while True:
            try:
                waiting = send()
            except StopIteration as end:
                return end.value
            self.checkpoints += 1
            if self.checkpoints > MOST_CHECKPOINTS:
                raise AssertionError(f"the run has more than {MOST_CHECKPOINTS:,} awaits and may never end")
            stopped = self._stop_at is not None and self.checkpoints >= self._stop_at
            if self.checkpoints == self._stop_at:
                self.stop()
            try:
                value = yield waiting
            except BaseException as error:  # pass it on to the coroutine, which handles it
                self._was_cancelled = self._was_cancelled or (stopped and isinstance(error, cancelled))
                send = lambda error=error: inner.throw(error)  # type: ignore[misc]  # noqa: E731
            else:
                sent = getattr(value, "error", None)  # trio sends an object that holds the error to raise
                self._was_cancelled = self._was_cancelled or (stopped and isinstance(sent, cancelled))
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
    if not task.cancelled():
        task.result()


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
    if not task.cancelled():
        task.result()
