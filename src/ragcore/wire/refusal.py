"""Reads the error messages of servers and classifies them.

Servers send errors in a dozen shapes, some of them with status 200 or in the middle of a stream. This module reads all of them. The text goes into
messages and logs, so it is shortened to one line, without keys and without quotations of the request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ragcore.types.secret import Secret
from ragcore.wire.unsaid import NOTHING, Unsaid

__all__ = ["NoAnswer", "ServerError", "Undecodable", "read_refusal", "request_id_of"]

# The number of characters of a message that are examined.
MOST_READ = 2_400
# HTTP status by error type or code, for errors in a stream or with status 200.
STATUS_OF = {
    "authentication_error": 401,
    "billing_error": 402,
    "content_filter": 400,
    "context_length_exceeded": 400,
    "insufficient_quota": 429,
    "internal_error": 500,
    "internal_server_error": 500,
    "internalservererror": 500,
    "invalid_api_key": 401,
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "model_not_found": 404,
    "not_found_error": 404,
    "notfounderror": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "rate_limit": 429,
    "request_too_large": 413,
    "resource_exhausted": 429,
    "server_error": 500,
    "service_unavailable": 503,
    "timeout_error": 504,
    "too_many_requests": 429,
    "unavailable": 503,
}
# Codes of configuration errors: every request fails the same way, and waiting does not help.
CONFIGURATION = frozenset(
    {
        "account_deactivated",
        "billing_hard_limit_reached",
        "billing_not_active",
        "deploymentnotfound",
        "insufficient_quota",
        "insufficient_balance",
        "invalid_api_key",
        "invalid_model",
        "invalid_model_error",
        "model_not_found",
        "model_not_supported",
        "unknown_parameter",
        "unknown_model",
        "unsupported_parameter",
        "unsupported_value",
        "unsupported_model",
    }
)
TOO_LONG = re.compile(
    r"context[ _-]?(length|window|size)|maximum (context|input|sequence) |too many (input )?tokens|prompt is too long"
    r"|input (is |was )?too (long|large)|(exceeds?|longer than|larger than) [^.]{0,60}(token|context|max_model_len|batch size)"
    r"|must have less than \d+ tokens|reduce the length|exceed_context_size|context_length_exceeded"
    r"|input_?tokens? .{0,20}(exceed|must be)|inputs`? tokens \+",
    re.IGNORECASE,
)
# Does not match messages about a model that is loading or a backend that is down, because those problems are temporary.
UNKNOWN_MODEL = re.compile(
    r"(unknown|invalid|no such|unsupported) model|model[^.]{0,120}(does not exist|doesn't exist|not found|not exist)"
    r"|deployment [^.]{0,60}does not exist|not a valid model",
    re.IGNORECASE,
)
MESSAGE = re.compile(r'"(?:message|detail|error)"\s*:\s*"((?:[^"\\]|\\.){1,600})')


class Undecodable(Exception):
    """The server returned an invalid response. It may be retried, and counts as a failure of the server."""


class NoAnswer(Exception):
    """The model finished without an answer: filtered, refused, or cut off while thinking. It is not retried and not counted as a failure of the server.

    Attributes:
        used_tokens: tokens of the prompt and of the completion, if the server reported them.
    """

    def __init__(self, message: str, /, *, used_tokens: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.used_tokens = used_tokens


class ServerError(Exception):
    """The server reported an error.

    Attributes:
        said: the server's message, on one line, without secrets and without quotations of the request; "" if there was none.
        status: the HTTP status, or the status that the error's type stands for; None if unknown.
        code, parameter: the server's code for the error, and the parameter that the error is about; "" if the server named none.
        headers: the response's headers.
        request_id: the server's own id of the request.
        in_answer: whether the error came with status 200.
    """

    headers: Mapping[str, str] | dict[str, str]

    def __init__(
        self,
        said: str,
        /,
        *,
        whole: str | None = None,
        status: int | None,
        code: str = "",
        parameter: str = "",
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
        in_answer: bool = False,
    ) -> None:
        super().__init__(said)
        self.said = said
        self._whole = Secret(said if whole is None else whole[:MOST_READ])
        self.status = status
        self.code = code
        self.parameter = parameter
        self.headers = headers or {}
        self.request_id = request_id
        self.in_answer = in_answer

    @property
    def whole(self) -> str:
        """The message as the server sent it."""
        return self._whole.reveal()

    @property
    def is_too_long(self) -> bool:
        """Whether the request has more tokens than the model accepts. Repeating it does not help."""
        if self.status in (401, 402, 403, 429) and self.code != "context_length_exceeded":
            return False
        return TOO_LONG.search(f"{self.code} {self.whole}") is not None

    @property
    def blames_the_model(self) -> bool:
        """Whether the server does not know the model."""
        return (
            self.status == 404
            or "model_not_found" in self.code.lower()
            or (self.status in (None, 400, 403, 422) and UNKNOWN_MODEL.search(self.whole) is not None)
        )

    @property
    def is_of_configuration(self) -> bool:
        """Whether every request fails the same way, because of the key, the model, a parameter or the quota."""
        if self.is_too_long:
            return False
        return (
            self.status in (401, 402, 403, 404, 405)
            or self.code.lower() in CONFIGURATION
            or (self.status is not None and 300 <= self.status < 400)
            or self.blames_the_model
        )


def read_refusal(
    body: object,
    /,
    *,
    status: int | None,
    headers: Mapping[str, str] | None = None,
    unsaid: Unsaid = NOTHING,
    in_answer: bool = False,
) -> ServerError | None:
    """Return the error in a body or an event; None if it contains none.

    Args:
        body: decoded JSON, or the raw body as bytes.
        status: the response's status; None for status 200.
        unsaid: hides secrets and quotations in the error's message.
    """
    if isinstance(body, bytes):
        raw = body
        try:
            body = json.loads(body.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            body = _plain(raw)
    try:
        said, code, parameter = _read(body)
    except (TypeError, ValueError, RecursionError, AttributeError):  # the body has an unknown shape
        said, code, parameter = "", "", ""
    if not said and not code and in_answer:
        return None
    number = _number(code) or _number(_inner(body, "status")) or _number(_inner(body, "status_code"))
    kinds = [
        code,
        str(_inner(body, "type") or ""),
        str(_inner(body, "error_type") or ""),
        str(_inner(body, "status") or ""),
    ]
    named = next((STATUS_OF[kind.lower()] for kind in kinds if kind.lower() in STATUS_OF), None)
    if code.isdigit() or not code:
        code = next((kind for kind in kinds[1:] if kind and not kind.isdigit()), code)
    lower = headers or {}
    return ServerError(
        unsaid.hide(said),
        whole=said,
        status=status if status is not None else number or named,
        code=unsaid.hide(code)[:80],
        parameter=parameter[:80],
        headers=lower,
        request_id=request_id_of(lower),
        in_answer=in_answer,
    )


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """Return the server's id of the request, from any of the headers that servers use for it."""
    for name in ("x-request-id", "request-id", "apim-request-id", "x-amzn-requestid"):
        if headers.get(name):
            return str(headers[name])[:200]
    return None


def _read(body: object) -> tuple[str, str, str]:
    """Return (message, code, parameter) for the shapes in use: OpenAI, FastAPI, TGI, Gemini's list, problem details (RFC 9457), plain text."""
    if isinstance(body, list):
        found = [_read(part) for part in body[:5]]
        return next((one for one in found if one[0] or one[1]), ("", "", ""))
    if isinstance(body, str):
        return body, "", ""
    if not isinstance(body, Mapping):
        return "", "", ""
    error = body.get("error")
    if isinstance(error, Mapping):
        said, code, parameter = _read_object(error)
        # OpenRouter and LiteLLM put the upstream provider's message here.
        metadata = error.get("metadata")
        raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
        if isinstance(raw, str) and raw and raw not in said:
            said = f"{said}: {raw}" if said else raw
        return said, code or _text(body.get("code")), parameter
    if isinstance(error, str) and error:
        further = _text(body.get("message")) or _text(body.get("error_description"))
        return (f"{error}: {further}" if further and further != error else error), _text(body.get("code")), ""
    if isinstance(error, list) and error:
        return _read(error)
    detail = body.get("detail")
    if isinstance(detail, str | list | Mapping) and detail:
        return _read_detail(detail)
    if isinstance(body.get("errors"), list) and body["errors"]:
        return _read(body["errors"])
    base = body.get("base_resp")  # MiniMax
    if isinstance(base, Mapping) and base.get("status_msg"):
        return _text(base["status_msg"]), str(base.get("status_code") or ""), ""
    if body.get("object") == "error" or not body.get("choices"):
        return _read_object(body)
    return "", "", ""


def _read_object(error: Mapping[Any, Any]) -> tuple[str, str, str]:
    said = (
        _text(error.get("message"))
        or _text(error.get("msg"))
        or _text(error.get("detail"))
        or _text(error.get("title"))
    )
    if not said and isinstance(error.get("message"), list | Mapping):
        said, _, _ = _read_detail(error["message"])
    code = error.get("code")
    inner = error.get("innererror")
    if isinstance(inner, Mapping) and not said:
        said = _text(inner.get("message"))
    return said, str(code) if isinstance(code, str | int) else _text(error.get("type")), _text(error.get("param"))


def _read_detail(detail: object) -> tuple[str, str, str]:
    """Read FastAPI's `detail`: a text, or a list of validation errors. Their `input` repeats the request, so it is left out."""
    if isinstance(detail, str):
        return detail, "", ""
    if isinstance(detail, Mapping):
        if isinstance(detail.get("detail"), str | list):
            return _read_detail(detail["detail"])
        return _read_object(detail)
    parts, parameter = [], ""
    for item in detail[:5] if isinstance(detail, list) else []:
        if isinstance(item, Mapping):
            steps = item.get("loc")
            where = [str(step) for step in steps if step != "body"] if isinstance(steps, list) else []
            parameter = parameter or (where[0] if where else "")
            parts.append(": ".join(part for part in (".".join(where), _text(item.get("msg"))) if part))
        elif isinstance(item, str):
            parts.append(item)
    return "; ".join(parts), "", parameter


def _plain(body: bytes) -> str:
    """Return a text, or the title of an HTML page."""
    text = body.decode("utf-8", "replace")
    title = re.search(r"<title[^>]{0,200}>([^<]{0,400})", text, re.IGNORECASE)
    if title is not None:
        return title[1]
    cut_off = MESSAGE.search(text) if text.lstrip()[:1] in ("{", "[") else None
    if cut_off is not None:  # the body is JSON that was cut off
        return cut_off[1]
    return "" if text.lstrip()[:1] == "<" else text


def _inner(body: object, name: str) -> object:
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, Mapping):
        return None
    error = body.get("error")
    value = error.get(name) if isinstance(error, Mapping) else None
    return body.get(name) if value is None else value


def _number(value: object) -> int | None:
    """Return a status that is given as a number or as digits."""
    try:
        number = int(str(value))
    except ValueError:
        return None
    return number if 300 <= number <= 599 else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
