"""The optional abilities of a user's component."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard, TypeVar

__all__ = ["offers"]

P = TypeVar("P")


def offers(part: object, ability: Callable[..., P], /) -> TypeGuard[P]:
    """Return whether a component has all members of a Protocol, including those that its `__getattr__` passes on from another component.

    For example, a reranker passes on the members of its store. `isinstance` is not used: from Python 3.12 on it ignores such members, so the store would
    never be started.
    """
    return all(hasattr(part, name) for name in vars(ability) if not name.startswith("_"))
