"""A value that must not be seen: redacted by its type, wherever it goes."""

from __future__ import annotations

from typing import NoReturn, TypeVar
from urllib.parse import urlsplit, urlunsplit

__all__ = ["Secret", "without_credentials", "without_frames"]

E = TypeVar("E", bound=BaseException)


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


def without_credentials(url: str, /) -> str:
    """Return an address for people: a login in it, and the values of its parameters, become "***".

    Example:
        >>> without_credentials("https://me:sk-123@models.example.org/v1?key=sk-123")
        'https://***@models.example.org/v1?***'
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    if "@" not in parts.netloc and not parts.query and not parts.fragment:
        return url
    host = f"***@{parts.netloc.rpartition('@')[2]}" if "@" in parts.netloc else parts.netloc
    return urlunsplit((parts.scheme, host, parts.path, "***" if parts.query else "", ""))


def without_frames(error: E, /) -> E:
    """Return an error without the frames that it has passed, nor those of its causes.

    Tools that show the variables of each frame would show what a driver holds there: the password that it was given.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = None
        left += [one.__cause__, one.__context__]
    return error
