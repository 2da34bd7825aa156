"""The event loop's clock, looked up once per call. All times in this package come from it, so that tests can use a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import anyio

__all__ = ["Clock", "cancel_scope", "clock", "now_if_any", "running"]

Clock: TypeAlias = Callable[[], float]


def clock() -> Clock:
    """Return `anyio.current_time`. On asyncio, return the function that it would call, because calling it directly takes an eighth of the time."""
    return running()[1]


_asyncio_scope: type[anyio.CancelScope] | None = None


def cancel_scope(deadline: float, task: asyncio.Task[Any] | None) -> anyio.CancelScope:
    """Return `anyio.CancelScope(deadline=deadline)`, without the search for the event loop if `task` runs on asyncio.

    `anyio.CancelScope` searches for the running backend and returns an object of the backend's class. This module keeps that class, which saves 0.5 µs
    per call.
    """
    global _asyncio_scope
    if task is None:
        return anyio.CancelScope(deadline=deadline)
    if _asyncio_scope is None:
        _asyncio_scope = type(anyio.CancelScope())
    return _asyncio_scope(deadline=deadline)


def now_if_any() -> float | None:
    """Return the current time; None outside an event loop, for example when a snapshot is made there."""
    try:
        return clock()()
    except anyio.NoEventLoopError:
        return None


def running() -> tuple[asyncio.Task[Any] | None, Clock]:
    """Return the current task and the clock together, because the search for the event loop is the expensive part."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None, anyio.current_time
    task = asyncio.current_task(loop)
    if task is not None:
        return task, loop.time
    try:
        anyio.current_time()
    except anyio.NoEventLoopError:  # a callback of asyncio
        return None, loop.time
    return None, anyio.current_time  # trio as a guest on an asyncio loop has its own clock
