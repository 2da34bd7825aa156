"""What happens inside, as records: state changes, attempts, rejections, waits, degradations.

The core emits; loggers, metrics and tests listen. Without a listener an event costs one look at an empty tuple.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["Event", "Listener", "emit", "listening", "subscribe"]

logger: logging.Logger = logging.getLogger("ragcore.events")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        name: dotted and stable, for example "breaker.open", "retry.attempt", "bulkhead.rejected"; the reference lists them.
        source: what it happened to, usually the dependency's name.
        data: numbers and short words; never a secret, never a question's or a passage's text.
    """

    name: str
    source: str = ""
    data: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {"name": self.name, "source": self.source, "data": dict(self.data)}


Listener: TypeAlias = Callable[[Event], object]

_listeners: tuple[Listener, ...] = ()


def subscribe(listener: Listener, /) -> Callable[[], None]:
    """Call `listener` with each event from now on, at once and on the thread where it happens, so it must be quick.

    What it raises is logged and goes no further.

    Returns:
        A function that ends the subscription; calling it twice is no error.

    Example:
        >>> seen: list[str] = []
        >>> unsubscribe = subscribe(lambda event: seen.append(event.name))
        >>> emit("breaker.open", "crm", failures=5)
        >>> unsubscribe()
        >>> seen
        ['breaker.open']
    """
    global _listeners
    _listeners = (*_listeners, listener)

    def unsubscribe() -> None:
        global _listeners
        _listeners = tuple(other for other in _listeners if other is not listener)

    return unsubscribe


def listening() -> bool:
    """Whether anyone listens: ask before building expensive data."""
    return bool(_listeners)


def emit(name: str, source: str = "", /, **data: Any) -> None:
    """Hand an event to all listeners, in the order of their subscription."""
    if not _listeners:
        return
    event = Event(name, source, data)
    for listener in _listeners:
        try:
            listener(event)
        except Exception:
            logger.exception("a listener of ragcore's events raised on %r", name)
