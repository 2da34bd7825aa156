"""The stages of a call: the current stage, the duration of each, and the number of embedded tokens.

Components report stages and the client listens, so a component does not import the client. A `Stopwatch` measures each stage once. So the result of a
component and the client's record of a failed call have the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Protocol

import anyio

from ragcore.value import Timings

__all__ = ["Listener", "Stopwatch", "following", "following_all", "listener", "retried"]


class Listener(Protocol):
    """The receiver of a call's reports."""

    def on_stage(self, stage: str, seconds: float | None) -> None:
        """Record that a stage began (`seconds` is None), or that it ended after `seconds`."""

    def on_embedded(self, tokens: int) -> None:
        """Record that `tokens` tokens were embedded for the call. They count even if the call fails later."""

    def on_retry(self) -> None:
        """Record that a request for the call is repeated."""


_listener: ContextVar[Listener | None] = ContextVar("ragcore.stages", default=None)


class Stopwatch:
    """Measures the seconds of each stage, also of stages that failed.

    A stage may run within another one, measured by another component. Its time is not part of the outer stage, and both stopwatches have it.
    """

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @staticmethod
    def embedded(tokens: int) -> None:
        """Report the number of embedded tokens. Report it right after embedding, because a later step may fail."""
        listener = _listener.get()
        if listener is not None:
            listener.on_embedded(tokens)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Measure the block as a stage ("rewrite", "embed", "search", "rerank" or "generate") and report its start and its end."""
        outer = _measuring.get()
        own = _Measuring(self, stage)
        token = _measuring.set(own)
        began = anyio.current_time()
        _report(stage, None)
        failed = True
        try:
            yield
            failed = False
        finally:
            _measuring.reset(token)
            whole = anyio.current_time() - began
            self._seconds[stage] = seconds = whole - own.inner
            _report(stage, seconds)
            if outer is not None:
                outer.inner += whole
                outer.watch._seconds[stage] = seconds
                if not failed:  # after a failure, the failed stage stays the current one
                    _report(outer.stage, None)

    def timings(self) -> Timings:
        """Return the timings so far."""
        return Timings(**self._seconds)


class _Measuring:
    """A stage that is being measured, and the seconds of the stages within it."""

    __slots__ = ("inner", "stage", "watch")

    def __init__(self, watch: Stopwatch, stage: str) -> None:
        self.watch = watch
        self.stage = stage
        self.inner = 0.0


_measuring: ContextVar[_Measuring | None] = ContextVar("ragcore.measuring", default=None)


class following:  # noqa: N801  # reads as a participle: `with following(listener):`
    """Report all stages of the block to `listener`."""

    __slots__ = ("_listener", "_token")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def __enter__(self) -> None:
        self._token: Token[Listener | None] = _listener.set(self._listener)

    def __exit__(self, *exc: object) -> None:
        _listener.reset(self._token)


class _Several:
    """Passes the reports of work for several calls on to all of them. Such work is a part of a stage, so it reports only what is repeated."""

    def __init__(self, listeners: Iterable[Listener]) -> None:
        self._listeners = tuple(dict.fromkeys(listeners))

    def on_stage(self, stage: str, seconds: float | None) -> None:
        """Do nothing: each call measures its own stage."""

    def on_embedded(self, tokens: int) -> None:
        """Do nothing: each call counts its own tokens."""

    def on_retry(self) -> None:
        for one in self._listeners:
            one.on_retry()


def listener() -> Listener | None:
    """Return the listener of this context; None if there is none."""
    return _listener.get()


def following_all(listeners: Iterable[Listener | None]) -> following:
    """Report repeated requests of the block to all these listeners."""
    return following(_Several(one for one in listeners if one is not None))


def retried() -> None:
    """Report that a request is repeated."""
    own = _listener.get()
    if own is not None:
        own.on_retry()


def _report(stage: str, seconds: float | None) -> None:
    listener = _listener.get()
    if listener is not None:
        listener.on_stage(stage, seconds)
