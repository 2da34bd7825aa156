"""What a task waits for: the chain of coroutines and generators that it awaits."""

from __future__ import annotations

import gc
from types import AsyncGeneratorType, FrameType
from typing import Any

__all__ = ["current_task", "stack_of", "waiting_on"]

# The code of event loops. Each wait ends in it, so it doesn't tell one wait from another.
LOOPS = frozenset({"anyio", "asyncio", "outcome", "trio", "uvloop"})
# A longer chain is cut.
MOST_FRAMES = 200


def current_task() -> Any:
    """Return trio's current task."""
    import trio

    return trio.lowlevel.current_task()


def stack_of(task: Any) -> str:
    """Return the frames that a task awaits, outermost first, one on each line, without source code."""
    return "\n".join(
        f"  {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}" for frame in _frames(task)
    )


def waiting_on(task: Any) -> str:
    """Return the innermost function that a task awaits, outside of the event loop's own code. A task that runs shows where it is."""
    frames = [f"{_module(frame)}.{frame.f_code.co_qualname}:{frame.f_lineno}" for frame in reversed(_frames(task))]
    outside = (frame for frame in frames if frame.partition(".")[0] not in LOOPS)
    return next(outside, frames[0] if frames else "the event loop")


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "?"))


def _frames(task: Any) -> list[FrameType]:
    """Return the frames that a task awaits, outermost first. `Task.get_stack()` shows only the outermost one."""
    waiter = None if task is None else task.get_coro() if hasattr(task, "get_coro") else task.coro
    frames: list[FrameType] = []
    for _ in range(MOST_FRAMES):
        if waiter is None:
            break
        frame = _first(waiter, "cr_frame", "ag_frame", "gi_frame")
        if frame is not None:
            frames.append(frame)
        inner = _first(waiter, "cr_await", "ag_await", "gi_yieldfrom")
        if inner is None and frame is None:
            # The step of an async generator (`__anext__`, `aclose`) and the wrapper of `__await__` hide what they run.
            hidden = (one for one in gc.get_referents(waiter) if _runs(one))
            inner = next(hidden, None)
        waiter = inner
    return frames


def _runs(one: object) -> bool:
    return isinstance(one, AsyncGeneratorType) or _first(one, "cr_frame", "gi_frame") is not None


def _first(one: object, *names: str) -> Any:
    return next((value for name in names if (value := getattr(one, name, None)) is not None), None)
