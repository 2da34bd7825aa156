"""Errors as HTTP responses."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ragcore.contrib.asgi.public import has_internal_details, public_message
from ragcore.errors import (
    CircuitOpen,
    DeadlineExceeded,
    DependencyError,
    InvalidInput,
    NotOpen,
    Overloaded,
    RagcoreError,
)

__all__ = ["Problem", "Refused", "problem"]

logger: logging.Logger = logging.getLogger("ragcore.asgi")


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as an HTTP response.

    Attributes:
        status: 400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503 or 504.
        headers: additional headers, such as Retry-After.
        body: {"error", "message", "stage", "call_id"}.
    """

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


class Refused(Exception):
    """A request is refused. `problem` is the response."""

    problem: Problem

    def __init__(self, status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.problem = Problem(
            status, dict(headers or {}), {"error": error, "message": message, "stage": None, "call_id": None}
        )


def problem(error: RagcoreError, /, *, whole: bool = False) -> Problem:
    """Return the HTTP response for an error.

    The response has a general message, without internal details such as an address, a role or a provider's message. The error's own message is logged as a
    warning of the logger "ragcore.asgi", with the call's id.

    Args:
        whole: True: include operator-only details in the response, and log nothing.
    """
    if not whole and has_internal_details(error):
        logger.warning("call %s failed in %s: %s: %s", error.call_id, error.stage, type(error).__name__, error)
    message = str(error) if whole else public_message(error)
    headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
    name = "InvalidInput" if isinstance(error, InvalidInput) else type(error).__name__
    body = {"error": name, "message": message, "stage": error.stage, "call_id": error.call_id}
    return Problem(_status(error), headers, body)


def _status(error: RagcoreError) -> int:
    match error:
        case InvalidInput():
            return 400
        case Overloaded():
            return 429
        case DeadlineExceeded():
            return 504
        case CircuitOpen() | DependencyError() | NotOpen():
            return 503
    return 500
