"""Events: records of state changes, attempts, refusals, waits and degradations.

The core emits events; loggers, metrics and tests subscribe to them. Without a listener an event costs one check of an empty tuple.
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
    """An event.

    Attributes:
        name: a stable name with dots, for example "breaker.open", "retry.attempt" or "bulkhead.rejected". The reference lists all names.
        source: the object in which the event occurred, usually named like the dependency.
        data: numbers and short words; never a secret, never the text of a question or a passage.
    """

    name: str
    source: str = ""
    data: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the event as JSON-ready values."""
        return {"name": self.name, "source": self.source, "data": dict(self.data)}


Listener: TypeAlias = Callable[[Event], object]

_listeners: tuple[Listener, ...] = ()


def subscribe(listener: Listener, /) -> Callable[[], None]:
    """Call `listener` with each event from now on.

    The call is synchronous, on the thread that emits the event, so the listener must be quick. If it raises an exception, the exception is logged.

    Returns:
        A function that ends the subscription. It is safe to call it twice.

    Examples:
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
    """Return whether there is a listener. Check this before you build expensive data."""
    return bool(_listeners)


def emit(name: str, source: str = "", /, **data: Any) -> None:
    """Pass an event to all listeners, in the order of their subscription."""
    if not _listeners:
        return
    event = Event(name, source, data)
    for listener in _listeners:
        try:
            listener(event)
        except Exception:
            logger.exception("a listener of ragcore's events raised an exception for the event %r", name)
