"""What all values share: they write themselves as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ["Value"]


def _plain(value: Any) -> Any:
    """A value as JSON-ready data."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [_plain(item) for item in value]
    return value


class Value:
    """What all values share."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values, nested values included."""
        plain: dict[str, Any] = _plain(self)
        return plain
