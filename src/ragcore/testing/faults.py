"""Faults for the fakes, the test server and the proxy."""

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
    """The call fails with this error or HTTP status. Only an HTTP server sends the headers, for example `{"retry-after": "2"}`."""

    error: Exception | int
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Slow:
    """The call takes this many seconds longer."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hang:
    """The dependency accepts the call and never answers it."""


@dataclass(frozen=True, slots=True)
class Reset:
    """On the wire: the connection is reset (RST) when it is made, when a request begins, or after `after` bytes of the answer."""

    at: Literal["connect", "request", "answer"] = "connect"
    after: int = 1


@dataclass(frozen=True, slots=True)
class Stall:
    """On the wire: the answer stops after `after` bytes, and the connection stays open."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class Drip:
    """On the wire: the answer comes byte by byte, with `interval` seconds between two bytes."""

    interval: float = 1.0


@dataclass(frozen=True, slots=True)
class HalfClose:
    """On the wire: after `after` bytes of the answer the server closes its sending side, but continues to read."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class Deaf:
    """On the wire: the connection works until the client ends it. The proxy does not pass the end on, so the server never closes its side."""


@dataclass(frozen=True, slots=True)
class Reply:
    """HTTP server: every request gets this response."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Silent:
    """HTTP server: the response has headers, but no body ever follows."""


@dataclass(frozen=True, slots=True)
class Huge:
    """HTTP server: the body has `size` bytes."""

    size: int = 100 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bomb:
    """HTTP server: a small compressed body that unpacks to `size` newlines."""

    status: int = 200
    encoding: Literal["gzip", "deflate"] = "gzip"
    size: int = 200 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Endless:
    """HTTP server: a body that never ends."""

    status: int = 500


@dataclass(frozen=True, slots=True)
class Crumbs:
    """HTTP server: a stream of `count` newlines, each in a separate chunk."""

    count: int = 200_000


@dataclass(frozen=True, slots=True)
class Redirect:
    """HTTP server: a redirect to `to`; "" redirects to the same address."""

    to: str = ""


@dataclass(frozen=True, slots=True)
class Refuse:
    """HTTP server: requests with this parameter and value are refused with status 400. Value None: any value."""

    parameter: str
    value: object = None


@dataclass(frozen=True, slots=True)
class BadEnd:
    """Stream: the whole answer comes, and the connection breaks after the finish reason or after "[DONE]"."""

    how: Literal["reset", "close"] = "reset"
    after: Literal["finish", "done"] = "finish"


@dataclass(frozen=True, slots=True)
class Corrupt:
    """HTTP server: the vectors are invalid. They have a wrong dimension, are NaN, all zero or not base64, or there is one too many.

    In a reranking, in the same order: an index that does not exist, NaN, an index twice, a text instead of a score, or one result too few.
    """

    what: Literal["dimension", "nan", "zero", "base64", "count"]


@dataclass(frozen=True, slots=True)
class Broken:
    """Stream: after `after` tokens the stream is reset, ends cleanly without a finish reason, stays silent, or never ends."""

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
    """The error of a fake's dependency; it stands for an HTTP status."""

    headers: Mapping[str, str] | dict[str, str]

    def __init__(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.headers = headers or {}


def judge(error: Exception) -> Failure | None:
    """Classify a fake's error for retry and breaker."""
    if isinstance(error, FakeFailure):
        return from_status(error.status, error.headers)
    return Failure() if isinstance(error, OSError) else None


class Faults:
    """The faults that are applied to calls.

    Examples:
        ```python
        generator.faults.next(Hang(), Fail(503), None)  # the first call hangs, the second fails, the third succeeds
        store.faults.always(Slow(0.2))                  # all other calls are slow
        ```
    """

    def __init__(self) -> None:
        self._next: deque[Fault | None] = deque()
        self._always: Fault | None = None

    def next(self, *faults: Fault | None) -> None:
        """Set faults for the next calls, one for each call, in order. None means no fault."""
        self._next.extend(faults)

    def always(self, fault: Fault | None) -> None:
        """Set the fault for all calls without a fault from `next`. None means no fault."""
        self._always = fault

    def take(self) -> Fault | None:
        """Return the fault for a call that begins now, and remove it from the queue."""
        return self._next.popleft() if self._next else self._always

    async def strike(self) -> Fault | None:
        """Apply the next fault to the current call, and return it. The caller must apply the faults that this method can't, such as `Broken`."""
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
