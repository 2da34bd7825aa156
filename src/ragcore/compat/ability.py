"""What a part of a user's can do beside what it must."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard, TypeVar

__all__ = ["offers"]

P = TypeVar("P")


def offers(part: object, ability: Callable[..., P], /) -> TypeGuard[P]:
    """Whether a part has all members of a Protocol, its own or those that it hands on by `__getattr__`, as a reranker around a store may do.

    Not `isinstance`: from Python 3.12 on it doesn't see what `__getattr__` hands on, so such a store would never be started.
    """
    return all(hasattr(part, name) for name in vars(ability) if not name.startswith("_"))
