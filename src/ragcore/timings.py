"""Seconds by stage."""

from __future__ import annotations

from dataclasses import dataclass

from ragcore.value import Value

__all__ = ["Timings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings(Value):
    """Seconds by stage; None for what did not run."""

    embed: float | None = None
    search: float | None = None
    generate: float | None = None
    first_token: float | None = None
    total: float | None = None
