"""What a reader makes of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["Parsed", "Reader"]


@dataclass(frozen=True, slots=True)
class Parsed:
    """The text of a file.

    Attributes:
        text: all of it; pages are separated by a form feed, headings start with "#".
        title: "" if the file names none; then the file's name is used.
        metadata: JSON-ready, from front matter and document properties.
        warnings: doubts about the text, for people.
    """

    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


# The contents of a file in, its text out. May raise anything; an InvalidInput's message is shown as the reason.
Reader: TypeAlias = Callable[[bytes], Parsed]
