"""Which stage a call is in: parts report, the client listens; nobody else needs to know of the other."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import TypeAlias

__all__ = ["following", "report"]

Listener: TypeAlias = Callable[[str, float | None], None]

_listener: ContextVar[Listener | None] = ContextVar("ragcore.stages", default=None)


def report(stage: str, seconds: float | None = None, /) -> None:
    """A stage has begun, or, with its seconds, ended."""
    listener = _listener.get()
    if listener is not None:
        listener(stage, seconds)


class following:  # noqa: N801  # reads as a participle: `with following(listener):`
    """Call `listener` with what is reported in the block."""

    __slots__ = ("_listener", "_token")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def __enter__(self) -> None:
        self._token: Token[Listener | None] = _listener.set(self._listener)

    def __exit__(self, *exc: object) -> None:
        _listener.reset(self._token)
