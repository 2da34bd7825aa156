"""Classifies errors for the retry and the circuit breaker, and translates them into ragcore's errors."""

from __future__ import annotations

import openai

from ragcore.errors import DependencyError, RagcoreError
from ragcore.resilience import Failure, from_status
from ragcore.wire.refusal import NoAnswer, ServerError, Undecodable
from ragcore.wire.unsaid import NOTHING

__all__ = ["judge", "translate"]

TRANSPORTS = ("httpx", "httpx2", "httpcore", "httpcore2", "anyio", "aiohttp", "h11", "h2")


def judge(error: Exception) -> Failure | None:
    """Classify an error for the retry and the breaker. None: the same request would fail again, and the server is not at fault."""
    match error:
        case Undecodable():
            return Failure()
        case ServerError():
            if error.is_too_long or error.is_of_configuration:
                return None
            return Failure() if error.status is None else from_status(error.status, error.headers)
        case openai.APIConnectionError() | OSError():
            return Failure()
        case openai.APIStatusError():  # a hook of the user's client may raise it
            return from_status(error.status_code, error.response.headers)
    # The transport raises its own errors while a body is read.
    return Failure() if type(error).__module__.partition(".")[0] in TRANSPORTS else None


def translate(
    error: Exception,
    kind: type[DependencyError],
    /,
    *,
    dependency: str,
    stage: str,
    attempts: int,
    key_name: str = "OPENAI_API_KEY",
    limits: str = "prompt_tokens or chunk_tokens",
) -> RagcoreError:
    """Return the error to raise: a `RagcoreError` itself, or an error of class `kind` with the server's message and without keys.

    Args:
        key_name, limits: the settings to check if the server refuses the key, or a request that is too long.
    """
    if isinstance(error, RagcoreError):
        error.stage = error.stage or stage
        return error
    status = request_id = retry_after = None
    match error:
        case ServerError():
            status, request_id = error.status, error.request_id
            if error.is_too_long and status not in (400, 413, 422):
                status = 413  # some servers report an oversized request as their own failure
            judged = None if status is None else from_status(status, error.headers)
            retry_after = judged.retry_after if judged else None
            what = _refused(error, status, key_name, limits)
        case openai.APIStatusError():
            status, request_id = error.status_code, error.request_id
            what = f"failed with status {status}"
        case openai.APITimeoutError() | TimeoutError():
            what = f"did not answer in time ({error})" if str(error) else "did not answer in time"
        case openai.APIConnectionError():
            cause = error.__cause__ or error
            what = f"can't be reached ({type(cause).__name__}): check the base URL and that the server runs"
        case NoAnswer():
            what = NOTHING.hide(str(error))
        case Undecodable():
            what = f"returned an invalid response: {NOTHING.hide(str(error))}"
        case _:
            what = f"failed ({type(error).__name__})"
    return kind(
        f"{dependency} {what}",
        dependency=dependency,
        attempts=attempts,
        status=status,
        request_id=request_id,
        of_configuration=isinstance(error, ServerError) and error.is_of_configuration,
        stage=stage,
        retry_after=retry_after,
    )


def _refused(error: ServerError, status: int | None, key_name: str, limits: str) -> str:
    what = _what(error, status, key_name, limits)
    return f"{what}; the server said {error.said!r}" if error.said else what


def _what(error: ServerError, status: int | None, key_name: str, limits: str) -> str:
    """Describe what happened and what to do."""
    number = "" if status is None else f" ({status})"
    if error.is_too_long:
        return f"refused the request{number} because it exceeds the model's token limit: lower {limits}"
    if error.blames_the_model:
        return f"does not know the model{number}: check the model's name and the base URL"
    if error.code.lower() in ("insufficient_quota", "insufficient_balance"):
        return f"reports that the quota is used up{number}: add credit or raise the limit; waiting doesn't help"
    match status:
        case 401 | 403:
            return f"refused the API key ({status}): check {key_name} and its access to this model"
        case 402:
            return "requires payment (402): add credit; waiting doesn't help"
        case 429:
            return "limited the rate of requests (429)"
        case 400 | 413 | 422:
            return f"refused the request ({status})"
    if status is not None and 300 <= status < 400:
        return f"redirected the request ({status}), which contains documents: set base_url to the final address"
    if error.in_answer:
        return f"ended its answer with an error event{number}"
    return f"failed with status {status}"
