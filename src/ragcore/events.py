"""Events: records of state changes, attempts, refusals, waits and degradations.

The core emits events; loggers, metrics and tests subscribe to them. Without a listener an event costs one look-up in a dictionary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
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

# The subscriptions, in their order: a listener, and the names of the events that it gets; None: all of them.
_subscriptions: tuple[tuple[Listener, frozenset[str] | None], ...] = ()
# What `emit` reads, made of the subscriptions: the listeners of each event that a subscription names, and the listeners of all other events.
_named: Mapping[str, tuple[Listener, ...]] = {}
_others: tuple[Listener, ...] = ()


def subscribe(listener: Listener, /, *, names: Collection[str] | None = None) -> Callable[[], None]:
    """Call `listener` with each event from now on.

    The call is synchronous, on the thread that emits the event, so the listener must be quick. If it raises an exception, the exception is logged.

    Args:
        names: the events to listen to; None: all. An event without a listener is not made.

    Returns:
        A function that ends the subscription. It is safe to call it twice.

    Examples:
        >>> seen: list[str] = []
        >>> unsubscribe = subscribe(lambda event: seen.append(event.name), names=["breaker.open"])
        >>> emit("breaker.open", "crm", failures=5)
        >>> emit("breaker.closed", "crm")
        >>> unsubscribe()
        >>> seen
        ['breaker.open']
    """
    subscription = (listener, None if names is None else frozenset(names))
    _set((*_subscriptions, subscription))
    return lambda: _set(tuple(other for other in _subscriptions if other is not subscription))


def _set(subscriptions: tuple[tuple[Listener, frozenset[str] | None], ...]) -> None:
    global _subscriptions, _named, _others
    _subscriptions = subscriptions
    named = frozenset().union(*(names for _, names in subscriptions if names is not None))
    _named = {
        name: tuple(listener for listener, names in subscriptions if names is None or name in names) for name in named
    }
    _others = tuple(listener for listener, names in subscriptions if names is None)


def listening(name: str | None = None, /) -> bool:
    """Return whether there is a listener. Check this before you build expensive data.

    Args:
        name: the event; None: any event.
    """
    return bool(_subscriptions if name is None else _named.get(name, _others))


def emit(name: str, source: str = "", /, **data: Any) -> None:
    """Pass an event to all listeners, in the order of their subscription."""
    listeners = _named.get(name, _others)
    if not listeners:
        return
    event = Event(name, source, data)
    for listener in listeners:
        try:
            listener(event)
        except Exception:
            logger.exception("a listener of ragcore's events raised an exception for the event %r", name)
