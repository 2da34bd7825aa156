"""What goes wrong, and when."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

import anyio
import anyio.lowlevel

from ragcore.resilience import Failure, from_status

__all__ = ["Fail", "FakeFailure", "Fault", "Faults", "Hang", "Slow"]


@dataclass(frozen=True, slots=True)
class Fail:
    """The call fails: with this error, or with this HTTP status."""

    error: Exception | int


@dataclass(frozen=True, slots=True)
class Slow:
    """The call takes this many seconds longer."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hang:
    """The call never ends by itself."""


Fault: TypeAlias = Fail | Slow | Hang


class FakeFailure(Exception):
    """What a fake's dependency fails with: stands for an HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def judge(error: Exception) -> Failure | None:
    """What a fake's failure means to retry and breaker."""
    if isinstance(error, FakeFailure):
        return from_status(error.status)
    return Failure() if isinstance(error, OSError) else None


class Faults:
    """Which fault each call meets.

    Example:
        ```python
        generator.faults.next(Hang(), Fail(503), None)  # the first call hangs, the second fails, the third is well
        store.faults.always(Slow(0.2))                  # and all others are slow
        ```
    """

    def __init__(self) -> None:
        self._next: deque[Fault | None] = deque()
        self._always: Fault | None = None

    def next(self, *faults: Fault | None) -> None:
        """For the coming calls, one each, in order; None: none."""
        self._next.extend(faults)

    def always(self, fault: Fault | None) -> None:
        """For all calls that `next` says nothing of; None: none."""
        self._always = fault

    def take(self) -> Fault | None:
        """The fault of a call that begins now."""
        return self._next.popleft() if self._next else self._always

    async def strike(self) -> None:
        """Let the next fault happen to the current call."""
        match self.take():
            case Slow(seconds):
                await anyio.sleep(seconds)
            case Hang():
                await anyio.sleep_forever()
            case Fail(int() as status):
                raise FakeFailure(status)
            case Fail(Exception() as error):
                raise error
            case _:
                await anyio.lowlevel.checkpoint()
