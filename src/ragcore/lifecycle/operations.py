"""Operations: units of work with a beginning and an end, for tracing. A call is one, and so is each stage of it that asks an embedder, a store or a model.

An event is a point in time, so a trace can't be made of events alone. Components begin and end operations; an observer, such as `contrib.otel.Telemetry`,
turns them into spans. Without an observer, an operation costs one check of an empty tuple, and no object is made.

The operation under way is kept in a context variable. It is set only while a step of the operation runs, never across a `yield` to the user, so the steps of
a stream may run in different tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Protocol, Self

import anyio

from ragcore.lifecycle.bound import inherited

__all__ = ["UNOBSERVED", "Observer", "Operation", "begin", "current", "observe"]

logger: logging.Logger = logging.getLogger("ragcore")

# An event loop may fire a timer this many seconds early.
EARLY = 0.001


class Observer(Protocol):
    """The receiver of operations. Its methods must be quick, and an exception of theirs is logged."""

    def begin(self, operation: Operation, /) -> object:
        """Handle the beginning. Return the observer's own state of this operation; None: the operation is not observed."""

    def enter(self, state: Any, /) -> object:
        """Handle the beginning of a step, in the context in which the step runs. Return a token for `leave`."""

    def leave(self, token: Any, /) -> None:
        """Handle the end of a step, in the context of its beginning."""

    def end(self, operation: Operation, state: Any, /) -> None:
        """Handle the end. It comes once for each operation, in any context."""


_observers: tuple[Observer, ...] = ()


def observe(observer: Observer, /) -> Callable[[], None]:
    """Report all operations that begin from now on to `observer`.

    Returns:
        A function that ends this. It is safe to call it twice. Operations under way are still reported to their end.
    """
    global _observers
    _observers = (*_observers, observer)

    def stop() -> None:
        global _observers
        _observers = tuple(other for other in _observers if other is not observer)

    return stop


class Operation:
    """One operation. As a context manager it runs as one step and ends with the block.

    Invariant: each observer that returned a state in `begin` gets one `end`, however the operation ends. Further calls of `end` do nothing.

    Attributes:
        kind: "call", "embed", "search", "rerank" or "generate".
        about: what is known at the beginning: the component, the model, the method. It may hold texts: an observer decides what it shows.
        found: what is known at the end: tokens, the finish reason, the number of passages.
        callers: the operations that share this one; () if it belongs to one caller only.
        error: the class name of the error that ended it; "cancelled" for a cancellation; None for a success.
        status: the HTTP status of that error, if it has one.
    """

    __slots__ = ("_states", "_step", "about", "callers", "error", "found", "kind", "status")

    kind: str
    about: Mapping[str, Any]
    callers: tuple[Operation, ...]
    error: str | None
    status: int | None

    def __init__(self, kind: str, about: Mapping[str, Any], callers: tuple[Operation, ...] = ()) -> None:
        self.kind = kind
        self.about = about
        self.callers = callers
        self.found: dict[str, Any] = {}
        self.error = None
        self.status = None
        self._states: tuple[tuple[Observer, Any], ...] = ()
        self._step: _Step | None = None

    @property
    def observed(self) -> bool:
        """Whether an observer waits for its end."""
        return bool(self._states)

    def state_of(self, observer: Observer) -> Any:
        """Return the state of an observer; None if it doesn't observe this operation."""
        return next((state for other, state in self._states if other is observer), None)

    def note(self, **found: Any) -> None:
        """Add to what is known at the end."""
        if self._states:
            self.found.update(found)

    def failed(self, error: BaseException | str) -> None:
        """Record the error that ends the operation. The first one counts."""
        if not self._states or self.error is not None:
            return
        if isinstance(error, str):
            self.error = error
        elif isinstance(error, Exception):
            self.error = type(error).__name__
            status = getattr(error, "status", None)
            self.status = status if isinstance(status, int) else None
        else:
            self.cut_off()

    def cut_off(self) -> None:
        """Record that the operation was cancelled: by its caller, or because the deadline passed. The deadline's error is raised further out."""
        if self._states and self.error is None:
            bound = inherited.get()
            late = bound is not None and bound.when <= anyio.current_time() + EARLY
            self.error = "DeadlineExceeded" if late else "cancelled"

    def active(self) -> _Step:
        """Return a context manager for a step: the operation is the current one in its block."""
        return _Step(self)

    def end(self) -> None:
        """End the operation. Idempotent."""
        states, self._states = self._states, ()
        for observer, state in states:
            try:
                observer.end(self, state)
            except Exception:
                logger.exception("an observer of ragcore's operations raised an exception at the end of %r", self.kind)

    def _begin(self, observers: Sequence[Observer]) -> Self:
        states = []
        for observer in observers:
            try:
                state = observer.begin(self)
            except Exception:
                logger.exception(
                    "an observer of ragcore's operations raised an exception at the start of %r", self.kind
                )
                continue
            if state is not None:
                states.append((observer, state))
        self._states = tuple(states)
        return self

    def __enter__(self) -> Self:
        if self._states:
            self._step = self.active()
            self._step.__enter__()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        step, self._step = self._step, None
        if step is None:
            return
        step.__exit__()
        if exc is not None:
            self.failed(exc)
        self.end()


# Stands for an operation without an observer. All its methods do nothing.
UNOBSERVED = Operation("", {})

_current: ContextVar[Operation] = ContextVar("ragcore.operation", default=UNOBSERVED)


def begin(kind: str, /, *, callers: Sequence[Operation] = (), **about: Any) -> Operation:
    """Begin an operation, as a part of the one under way in this context.

    Args:
        kind: as `Operation.kind`.
        callers: the operations that share it, if the work is done for several callers.
        about: what is known about it now.
    """
    if not _observers:
        return UNOBSERVED
    return Operation(kind, about, tuple(callers))._begin(_observers)


def current() -> Operation:
    """Return the operation under way in this context; `UNOBSERVED` if there is none."""
    return _current.get()


class _Step:
    """A step of an operation, in one context."""

    __slots__ = ("_operation", "_token", "_tokens")

    _token: Token[Operation] | None
    _tokens: list[tuple[Observer, Any]]

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._token = None

    def __enter__(self) -> None:
        operation = self._operation
        if not operation.observed:
            return
        self._token = _current.set(operation)
        self._tokens = []
        for observer, state in operation._states:
            try:
                self._tokens.append((observer, observer.enter(state)))
            except Exception:
                logger.exception("an observer of ragcore's operations raised an exception in a step")

    def __exit__(self, *exc: object) -> None:
        if self._token is None:
            return
        for observer, token in reversed(self._tokens):
            try:
                observer.leave(token)
            except Exception:
                logger.exception("an observer of ragcore's operations raised an exception after a step")
        _current.reset(self._token)
        self._token = None
