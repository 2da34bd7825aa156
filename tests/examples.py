"""The number of examples for a property: few in `make check` and `make test`, many in `make test-all`, set by hypothesis's profile."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

__all__ = ["examples"]


def examples(share: float = 1.0, **others: Any) -> settings:
    """Return settings for a property whose examples cost less or more than usual.

    Args:
        share: factor of the profile's number of examples.
        others: further settings.
    """
    in_force = settings.default or settings()
    return settings(max_examples=max(1, round(share * in_force.max_examples)), **others)
