"""The base class of all values, and `Timings`, which both errors and answers contain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

__all__ = ["Timings", "Value", "mapping"]


def _plain(value: Any) -> Any:
    """Return a value as JSON-ready data."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if (dump := getattr(value, "model_dump", None)) is not None and not isinstance(value, type):  # a model of pydantic
        return dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [_plain(item) for item in value]
    return value


class Value:
    """The base class of all values."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the value as JSON-ready data, with all nested values."""
        plain: dict[str, Any] = _plain(self)
        return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings(Value):
    """Seconds by stage; None for a stage that did not run."""

    rewrite: float | None = None
    embed: float | None = None
    search: float | None = None
    rerank: float | None = None
    generate: float | None = None
    first_token: float | None = None
    total: float | None = None


def mapping() -> Any:
    """Return a dataclass field for a mapping: empty by default, and not part of the value's hash."""
    return field(default_factory=dict, hash=False)
