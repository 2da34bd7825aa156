"""The result of reading a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["Parsed", "Reader"]


@dataclass(frozen=True, slots=True)
class Parsed:
    """The text of a file.

    Attributes:
        text: the whole text; a form feed separates pages, and headings start with "#".
        title: the title in the file; "" if it has none. Then the file's name becomes the document's title.
        metadata: from front matter and document properties; its values can be written as JSON.
        warnings: sentences for the user about doubtful text, for example a guessed encoding.
    """

    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


# Takes the contents of a file and returns its text. It may raise any exception; the message of an InvalidInput becomes the reason of the Unreadable.
Reader: TypeAlias = Callable[[bytes], Parsed]
