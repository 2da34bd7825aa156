"""The judgement on an error: whether to try again, whether the error counts against the dependency, and how long to wait."""

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

# If a server asks for a longer wait, the attempt is not retried; the openai SDK has the same limit.
LONGEST_RETRY_AFTER = 120.0

# A longer wait than a day comes from a wrong clock or a broken header, and is ignored.
LONGEST_VALID = 86_400.0

COUNTS = frozenset({408, 409, 425, 529})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A judgement on an error.

    Attributes:
        retry: whether another attempt may succeed.
        counts: whether the circuit breaker counts the error against the dependency.
        retry_after: seconds that the dependency asked to wait. With `counts=False`, as for a 429, they pause the dependency for all callers.
    """

    retry: bool = True
    counts: bool = True
    retry_after: float | None = None

    def __post_init__(self) -> None:
        wait = self.retry_after
        if wait is not None and not (isinstance(wait, int | float) and wait >= 0):
            raise ValueError(f"retry_after is {wait!r}: it must be None or a number of seconds, at least 0")


On: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], Failure | None]


def judge(on: On, error: Exception, /) -> Failure | None:
    """Return the judgement of `on` on an error; None: don't retry it and don't count it. A `RagcoreError` is never retried and never counts."""
    if isinstance(error, RagcoreError):
        return None
    try:
        if isinstance(on, type | tuple):
            return Failure() if isinstance(error, on) else None
        failure = on(error)
    except Exception:
        logger.exception(
            "the function passed as on= failed on a %s: the error is treated as not retryable", type(error).__name__
        )
        return None
    if failure is not None and not isinstance(failure, Failure):
        logger.error(
            "the function passed as on= returned %r: the error is treated as not retryable. Return a Failure or None",
            failure,
        )
        return None
    return failure


def from_status(status: int, headers: Mapping[str, str] | None = None, /) -> Failure | None:
    """Return the judgement on an HTTP status; None: not retryable.

    - 408, 409, 425, 529 and all 5xx count against the dependency and may be retried.
    - 429 may be retried and does not count: the server works, but asks for fewer requests.
    - For 400, 401, 403, 404, 413, 422 and all other statuses below 500 the result is None, because the request is at fault.

    The wait comes from the header `retry-after-ms` or `Retry-After` (seconds or an HTTP date). If it is longer than 120 s, the request is not retried.

    Source: RFC 9110 §10.2.3 (Retry-After), RFC 6585 §4 (429).

    Examples:
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
    """Return the seconds that the headers ask to wait; None if they are missing or invalid, for example more than a day.

    An HTTP date is compared with the response's own `Date`, so that a wrong clock does not matter. The wall clock is read only if there is no `Date`.
    """
    seconds = _requested_wait({key.lower(): value for key, value in headers.items()})
    return None if seconds is None or seconds > LONGEST_VALID else seconds


def _requested_wait(lower: Mapping[str, str]) -> float | None:
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
    except (ValueError, OverflowError):  # the header may contain any text
        return None
