"""A value that must not be seen: redacted by its type, wherever it goes."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["Secret"]


class Secret:
    """A key, a password or a DSN. Its `repr`, `str` and format are "***"; it does not pickle; `reveal()` is the way in.

    Example:
        >>> key = Secret("sk-123")
        >>> key, f"{key}", key.reveal()
        (Secret('***'), '***', 'sk-123')
    """

    __slots__ = ("_value",)

    def __init__(self, value: str, /) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself: for the wire, never for a message."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret does not pickle: make the component in the process that uses it")
