"""The state of a piece of the machinery at one moment, to show and to serialise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Snapshot"]


class Snapshot:
    """Named values of one moment; nested snapshots for parts. `to_dict()` is JSON-ready."""

    __slots__ = ("_values",)

    def __init__(self, **values: object) -> None:
        self._values: Mapping[str, object] = values

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {name: _plain(value) for name, value in self._values.items()}

    def __repr__(self) -> str:
        return "Snapshot(" + ", ".join(f"{name}={value!r}" for name, value in self._values.items()) + ")"


def _plain(value: object) -> Any:
    if isinstance(value, Snapshot):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
