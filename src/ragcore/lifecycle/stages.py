"""Which stage a call is in, how long each took, and what was embedded: parts report, the client listens; neither needs to know of the other.

Seconds are measured once, by a `Stopwatch`; what a part returns and what the client knows of a call that failed are the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Protocol

import anyio

from ragcore.value import Timings

__all__ = ["Stopwatch", "following"]


class Listener(Protocol):
    """Whose call it is."""

    def on_stage(self, stage: str, seconds: float | None) -> None:
        """A stage has begun, or, with its seconds, ended."""

    def on_embedded(self, tokens: int) -> None:
        """So many tokens have been embedded for it, whatever comes of the call."""


_listener: ContextVar[Listener | None] = ContextVar("ragcore.stages", default=None)


class Stopwatch:
    """Seconds by stage, also of stages that failed."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @staticmethod
    def embedded(tokens: int) -> None:
        """Say how many tokens have been embedded: when they have been, since what comes after may fail."""
        listener = _listener.get()
        if listener is not None:
            listener.on_embedded(tokens)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """The block is a stage: "embed", "search" or "generate". Its beginning and its end are reported."""
        began = anyio.current_time()
        _report(stage, None)
        try:
            yield
        finally:
            self._seconds[stage] = seconds = anyio.current_time() - began
            _report(stage, seconds)

    def timings(self) -> Timings:
        """So far."""
        return Timings(**self._seconds)


class following:  # noqa: N801  # reads as a participle: `with following(listener):`
    """Tell `listener` what happens in the block."""

    __slots__ = ("_listener", "_token")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def __enter__(self) -> None:
        self._token: Token[Listener | None] = _listener.set(self._listener)

    def __exit__(self, *exc: object) -> None:
        _listener.reset(self._token)


def _report(stage: str, seconds: float | None) -> None:
    listener = _listener.get()
    if listener is not None:
        listener.on_stage(stage, seconds)
