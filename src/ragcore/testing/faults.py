"""What goes wrong, and when."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import anyio
import anyio.lowlevel

from ragcore.resilience import Failure, from_status

__all__ = [
    "BadEnd",
    "Bomb",
    "Broken",
    "Corrupt",
    "Crumbs",
    "Deaf",
    "Drip",
    "Endless",
    "Fail",
    "FakeFailure",
    "Fault",
    "Faults",
    "HalfClose",
    "Hang",
    "Huge",
    "Redirect",
    "Refuse",
    "Reply",
    "Reset",
    "Silent",
    "Slow",
    "Stall",
    "judge",
]


@dataclass(frozen=True, slots=True)
class Fail:
    """The call fails: with this error, or with this HTTP status. Headers are an HTTP server's, for example `{"retry-after": "2"}`."""

    error: Exception | int
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Slow:
    """The call takes this many seconds longer."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hang:
    """The call never ends by itself: a black hole that accepts and never answers."""


@dataclass(frozen=True, slots=True)
class Reset:
    """On the wire: the connection is reset (RST) when it is made, when the first bytes of a request come, or after so many bytes of the answer."""

    at: Literal["connect", "request", "answer"] = "connect"
    after: int = 1


@dataclass(frozen=True, slots=True)
class Stall:
    """On the wire: after so many bytes of the answer nothing comes any more, and nobody hangs up."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class Drip:
    """On the wire: the answer comes byte by byte, one every `interval` seconds."""

    interval: float = 1.0


@dataclass(frozen=True, slots=True)
class HalfClose:
    """On the wire: after so many bytes of the answer the server's side is closed, while it goes on reading."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class Deaf:
    """On the wire: all is well until the client says goodbye; that is swallowed and never answered."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Of an HTTP server: this answer, whatever was asked."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Silent:
    """Of an HTTP server: the headers, and then silence."""


@dataclass(frozen=True, slots=True)
class Huge:
    """Of an HTTP server: a body of so many bytes."""

    size: int = 100 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bomb:
    """Of an HTTP server: a small body that unpacks to so many bytes, all of them newlines."""

    status: int = 200
    encoding: Literal["gzip", "deflate"] = "gzip"
    size: int = 200 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Endless:
    """Of an HTTP server: a body that never ends."""

    status: int = 500


@dataclass(frozen=True, slots=True)
class Crumbs:
    """Of an HTTP server: a stream of so many newlines, each as a chunk of its own."""

    count: int = 200_000


@dataclass(frozen=True, slots=True)
class Redirect:
    """Of an HTTP server: a redirect; "": to the same address, for ever."""

    to: str = ""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Of an HTTP server: requests with this parameter are refused with status 400; None: whatever its value is."""

    parameter: str
    value: object = None


@dataclass(frozen=True, slots=True)
class BadEnd:
    """Of a stream: the answer comes whole, and then the connection ends badly, after the finish reason or after "[DONE]"."""

    how: Literal["reset", "close"] = "reset"
    after: Literal["finish", "done"] = "finish"


@dataclass(frozen=True, slots=True)
class Corrupt:
    """Of an HTTP server: vectors that are none: of another dimension, not finite, all zero, not base64, or not as many as texts."""

    what: Literal["dimension", "nan", "zero", "base64", "count"]


@dataclass(frozen=True, slots=True)
class Broken:
    """Of a stream: after so many tokens it is cut off, or ends cleanly without a finish reason, or stays silent, or never ends."""

    after: int = 1
    how: Literal["reset", "clean", "idle", "endless"] = "reset"


Fault: TypeAlias = (
    Fail
    | Slow
    | Hang
    | Reset
    | Stall
    | Drip
    | HalfClose
    | Deaf
    | Reply
    | Silent
    | Huge
    | Bomb
    | Endless
    | Crumbs
    | Redirect
    | Refuse
    | Corrupt
    | Broken
    | BadEnd
)


class FakeFailure(Exception):
    """What a fake's dependency fails with: stands for an HTTP status."""

    headers: Mapping[str, str] | dict[str, str]

    def __init__(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.headers = headers or {}


def judge(error: Exception) -> Failure | None:
    """What a fake's failure means to retry and breaker."""
    if isinstance(error, FakeFailure):
        return from_status(error.status, error.headers)
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

    async def strike(self) -> Fault | None:
        """Let the next fault happen to the current call, of those that can happen to a call; others are returned for whoever knows them."""
        fault = self.take()
        match fault:
            case Slow(seconds):
                await anyio.sleep(seconds)
            case Hang():
                await anyio.sleep_forever()
            case Fail(int() as status, headers):
                raise FakeFailure(status, headers)
            case Fail(Exception() as error):
                raise error
            case _:
                await anyio.lowlevel.checkpoint()
        return fault
