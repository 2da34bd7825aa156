"""What an error means: whether another try makes sense, whether it blames the dependency, and when it may pass."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeAlias

from ragcore.errors import RagcoreError

__all__ = ["Failure", "On", "from_status", "judge", "retry_after"]

logger: logging.Logger = logging.getLogger("ragcore")

# A server that asks for more than this is down for a caller's purposes: retrying is not for us to plan (as the openai SDK holds it).
LONGEST_RETRY_AFTER = 120.0

# More than a day is a broken clock, or a broken header: nothing can be learned from it.
NONSENSE = 86_400.0

COUNTS = frozenset({408, 409, 425, 529})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A judgement on an error.

    Attributes:
        retry: another attempt may succeed.
        counts: the circuit breaker counts it against the dependency.
        retry_after: seconds that the dependency asked to wait. With `counts=False` it pauses the dependency for all callers (a 429).
    """

    retry: bool = True
    counts: bool = True
    retry_after: float | None = None

    def __post_init__(self) -> None:
        wait = self.retry_after
        if wait is not None and not (isinstance(wait, int | float) and wait >= 0):
            raise ValueError(f"retry_after is {wait!r}: it must be seconds, at least 0, or None")


On: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], Failure | None]


def judge(on: On, error: Exception, /) -> Failure | None:
    """What `on` says of an error; None: it is the caller's affair. A `RagcoreError` is never retried and never counts."""
    if isinstance(error, RagcoreError):
        return None
    try:
        if isinstance(on, type | tuple):
            return Failure() if isinstance(error, on) else None
        failure = on(error)
    except Exception:
        logger.exception(
            "the function given as on= raised on a %s: the error is taken as the caller's affair", type(error).__name__
        )
        return None
    if failure is not None and not isinstance(failure, Failure):
        logger.error("the function given as on= returned %r, neither a Failure nor None", failure)
        return None
    return failure


def from_status(status: int, headers: Mapping[str, str] | None = None, /) -> Failure | None:
    """What an HTTP status means.

    400, 401, 403, 404, 413 and 422 blame the request: None. 408, 409, 425, 529 and all of 5xx count and may pass. 429 may pass but
    doesn't count: it paces. Other statuses below 500: None. `retry-after-ms` and `Retry-After` (seconds or an HTTP date) are read; a wait
    over 120 s is not worth planning for, so it isn't retried.

    Source: RFC 9110 §10.2.3 (Retry-After), RFC 6585 §4 (429).

    Example:
        >>> from_status(429, {"retry-after": "2"})
        Failure(retry=True, counts=False, retry_after=2.0)
        >>> from_status(404) is None
        True
    """
    wait = retry_after(headers or {})
    soon = wait is None or wait <= LONGEST_RETRY_AFTER
    if status == 429:
        return Failure(retry=soon, counts=False, retry_after=wait)
    if status >= 500 or status in COUNTS:
        return Failure(retry=soon, retry_after=wait)
    return None


def retry_after(headers: Mapping[str, str], /) -> float | None:
    """Seconds that the headers ask to wait; None if they don't say, or nonsense, such as more than a day.

    The HTTP date is the one place where the core looks at the wall clock; against the response's own Date where it has one, so that two
    clocks that disagree don't matter.
    """
    seconds = _asked({key.lower(): value for key, value in headers.items()})
    return None if seconds is None or seconds > NONSENSE else seconds


def _asked(lower: Mapping[str, str]) -> float | None:
    milliseconds = _number(lower.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = lower.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    when = _date(text)
    if when is None:
        return None
    now = _date(lower.get("date")) or datetime.now(UTC)
    return max(0.0, (when - now).total_seconds())


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _date(text: str | None) -> datetime | None:
    try:
        when = parsedate_to_datetime(text or "")
        return when if when.tzinfo else when.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # a server may write anything
        return None
