"""The optional abilities of a user's component."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard, TypeVar

__all__ = ["offers"]

P = TypeVar("P")


def offers(part: object, ability: Callable[..., P], /) -> TypeGuard[P]:
    """Return whether a component has all members of a Protocol, including those that `__getattr__` provides, as in a reranker around a store.

    This does not use `isinstance`, which from Python 3.12 on ignores members that `__getattr__` provides, so that such a store would never be started.
    """
    return all(hasattr(part, name) for name in vars(ability) if not name.startswith("_"))
