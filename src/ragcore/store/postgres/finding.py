"""`Finding`: a problem of a database, and its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ragcore.value import Value

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True)
class Finding(Value):
    """A problem and its remedy.

    Attributes:
        severity: "error" if ragcore can't work or tenants aren't isolated; otherwise "warning".
        message: the problem, and the command that solves it.
    """

    severity: Literal["error", "warning"]
    message: str
