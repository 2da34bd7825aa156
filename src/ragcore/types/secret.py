"""A type for secrets that never shows its value, and helpers that keep secrets out of messages."""

from __future__ import annotations

from typing import NoReturn, TypeVar
from urllib.parse import urlsplit, urlunsplit

__all__ = ["Secret", "without_credentials", "without_frames"]

E = TypeVar("E", bound=BaseException)


class Secret:
    """A key, a password or a DSN. `repr`, `str` and `format` show "***" instead of the value. It can't be pickled. `reveal()` returns the value.
    Examples:
        >>> key = Secret("sk-123")
        >>> key, f"{key}", key.reveal()
        (Secret('***'), '***', 'sk-123')
    """

    __slots__ = ("_value",)

    def __init__(self, value: str, /) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value, to send it to a dependency. Never put it into a message."""
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
        raise TypeError("a Secret can't be pickled: create the component in the process that uses it")


def without_credentials(url: str, /) -> str:
    """Return a URL that may be shown. "***" replaces the login and all parameters of the query.

    Examples:
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
    """Remove the traceback of an error and of its causes; return the error.

    The frames of a driver hold the password in a variable, and some tools show the variables of each frame of a traceback.
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
