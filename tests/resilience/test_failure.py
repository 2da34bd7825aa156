"""The judgement on statuses and errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from ragcore import InvalidInput
from ragcore.resilience import Failure, from_status
from ragcore.resilience.failure import judge, retry_after


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 418, 200])
def test_statuses_for_request_errors_are_not_retryable(status: int) -> None:
    assert from_status(status) is None


@pytest.mark.parametrize("status", [408, 409, 425, 500, 502, 503, 504, 529])
def test_statuses_for_server_errors_count_and_are_retryable(status: int) -> None:
    assert from_status(status) == Failure()


def test_429_is_retryable_and_does_not_count() -> None:
    assert from_status(429, {"Retry-After": "7"}) == Failure(counts=False, retry_after=7.0)
    assert from_status(429) == Failure(counts=False)


def test_a_request_with_a_too_long_retry_after_is_not_retried() -> None:
    assert from_status(503, {"retry-after": "120"}) == Failure(retry=True, retry_after=120.0)
    assert from_status(503, {"retry-after": "121"}) == Failure(retry=False, retry_after=121.0)
    assert from_status(429, {"retry-after": "121"}) == Failure(retry=False, counts=False, retry_after=121.0)
    assert from_status(503, {"retry-after": "86400"}) == Failure(retry=False, retry_after=86400.0)


@pytest.mark.parametrize(
    "nonsense",
    [
        "Tue, 01 Jan 2069 00:00:00 GMT",
        "86401",
        "",
        "soon",
        "-5",
        "nan",
        "inf",
        "Mon, 99 Foo",
        "Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
    ],
)
def test_invalid_values_of_retry_after_are_ignored(nonsense: str) -> None:
    assert retry_after({"retry-after": nonsense}) is None


def test_milliseconds_seconds_and_dates_are_read() -> None:
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    now = datetime.now(UTC).replace(microsecond=0)
    headers = {
        "Date": format_datetime(now, usegmt=True),
        "Retry-After": format_datetime(now + timedelta(seconds=20), usegmt=True),
    }
    assert retry_after(headers) == 20.0
    past = format_datetime(now - timedelta(hours=1), usegmt=True)
    assert retry_after({"retry-after": past}) == 0.0


def test_only_errors_that_the_rule_names_are_retryable() -> None:
    assert judge(OSError, ConnectionResetError()) == Failure()
    assert judge((OSError, KeyError), KeyError()) == Failure()
    assert judge(OSError, ValueError()) is None
    assert judge(Exception, InvalidInput("x")) is None


def test_a_retry_after_of_zero_is_a_wait_of_zero() -> None:
    assert retry_after({"retry-after": "0"}) == 0.0
    assert retry_after({"retry-after": "0.5"}) == 0.5
    assert retry_after({}) is None


def test_a_date_may_have_another_time_zone_or_none() -> None:
    headers = {"date": "Mon, 01 Jan 2024 12:00:00 GMT", "retry-after": "Mon, 01 Jan 2024 13:00:10 +0100"}
    assert retry_after(headers) == 10.0
    assert retry_after({**headers, "retry-after": "Mon, 01 Jan 2024 12:00:10 -0000"}) == 10.0
    soon = datetime.now(UTC) + timedelta(seconds=30)
    wait = retry_after({"retry-after": format_datetime(soon, usegmt=True)})
    assert wait is not None
    assert 25 < wait <= 30


def test_a_broken_on_function_is_logged_and_the_error_is_not_retryable(caplog: pytest.LogCaptureFixture) -> None:
    def broken(error: Exception) -> Failure | None:
        raise ZeroDivisionError

    assert judge(broken, ConnectionResetError()) is None
    assert "failed on a ConnectionResetError: the error is treated as not retryable" in caplog.text
    assert judge(lambda error: "yes", OSError()) is None  # type: ignore[arg-type,return-value]
    assert "returned 'yes': the error is treated as not retryable" in caplog.text
    assert judge(lambda error: Failure(retry=False), OSError()) == Failure(retry=False)
