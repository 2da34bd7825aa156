"""The edge to OpenAI-compatible servers: one client, bounded bodies, every foreign error translated.

Not only `openai.*` errors come out of the SDK: broken JSON, an HTML page or a wrong shape come out as all sorts of exceptions, or as none. So
responses are read here, as bytes, within a bound, and their shape is checked by whoever asked. No type of httpx crosses this edge.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Protocol

import anyio
import openai

from ragcore.errors import ConfigurationError, DependencyError, RagcoreError
from ragcore.resilience import Failure, from_status
from ragcore.resilience.owner import CLEAN_UP, cleaning_up
from ragcore.secret import Secret

__all__ = ["OpenAIClient", "RawResponse", "Undecodable", "judge", "read_events", "read_json", "translate"]

# 2,048 vectors of 3,072 dimensions in base64 are 34 MB; nothing that we ask for is larger.
MAX_BODY = 64 * 1024 * 1024
MAX_EVENT = 1024 * 1024


class Undecodable(Exception):
    """The server answered with something that is not what it should be. Counts against it, and may pass."""


class RawResponse(Protocol):
    """What is used of the SDK's streamed responses."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The response's headers."""

    def iter_bytes(self, chunk_size: int | None = None) -> AsyncGenerator[bytes, None]:
        """The body, decompressed, in pieces."""
        ...


class OpenAIClient:
    """Opens and closes the SDK's client; a client of the user's is never closed, its own retries and timeout are overruled.

    Args:
        api_key, base_url: None: as the SDK finds them.
        client: the user's own, with its headers, proxy and certificates.
    """

    def __init__(
        self, *, api_key: str | Secret | None, base_url: str | None, client: openai.AsyncOpenAI | None
    ) -> None:
        self._given = client
        self._api_key = _checked_key(api_key)
        self._base_url = base_url
        self._sdk: openai.AsyncOpenAI | None = None
        if client is None:
            self._make()  # now, so that a missing key is known where the component is made

    @property
    def sdk(self) -> openai.AsyncOpenAI:
        """The SDK's client; `open` comes first."""
        assert self._sdk is not None
        return self._sdk

    def open(self) -> None:
        """Ready for requests on this event loop; connects to nothing."""
        self._sdk = self._make()

    async def close(self) -> None:
        """Close what was opened here, within the bound of a clean-up."""
        sdk, self._sdk = self._sdk, None
        if sdk is not None and self._given is None:
            with cleaning_up():
                await sdk.close()

    def _make(self) -> openai.AsyncOpenAI:
        if self._given is not None:
            return self._given.with_options(max_retries=0, timeout=None)
        try:
            made = openai.AsyncOpenAI(api_key=self._api_key, base_url=self._base_url, max_retries=0, timeout=None)
        except openai.OpenAIError as error:
            raise ConfigurationError(
                "no API key: pass api_key=, or set OPENAI_API_KEY ('none' for a server that wants no key)"
            ) from error
        _close_what_is_cancelled(made)
        return made


def _close_what_is_cancelled(client: openai.AsyncOpenAI) -> None:
    """Let connections whose TLS handshake is cancelled be closed: httpcore2 2.16 closes them after an error, but not after a cancellation.

    It has no public way in, so where it has changed this does nothing.
    """
    http = getattr(client, "_client", None)
    for transport in (getattr(http, "_transport", None), *(getattr(http, "_mounts", None) or {}).values()):
        pool = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if pool is not None and backend is not None and not isinstance(backend, _Backend):
            pool._network_backend = _Backend(backend)


class _Backend:
    """A network backend whose streams are closed whenever their handshake does not come to its end."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> _Stream:
        return _Stream(await self._backend.connect_tcp(*args, **kwargs))


class _Stream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def start_tls(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await self._stream.start_tls(*args, **kwargs)
        except BaseException:
            with cleaning_up():
                await self._stream.aclose()
            raise


def _checked_key(api_key: str | Secret | None) -> str | None:
    """The key without the white space that files end in; the transport would show one that is no header value in its error."""
    if api_key is None:
        return None
    key = (api_key.reveal() if isinstance(api_key, Secret) else api_key).strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigurationError(
            "the API key (not shown) is empty, or holds characters that no key holds: check OPENAI_API_KEY"
        )
    return key


async def read_json(opening: AbstractAsyncContextManager[RawResponse], /) -> tuple[dict[str, Any], str | None]:
    """The answer's JSON object and its request id, read within a bound.

    Raises:
        Undecodable: too large, not JSON, not an object.
    """
    async with opening as response:
        body = bytearray()
        async for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MAX_BODY:
                raise Undecodable(f"its answer is larger than {MAX_BODY // 1024 // 1024} MB")
        request_id = response.headers.get("x-request-id")
    try:
        answer = json.loads(body)
    except ValueError:
        raise Undecodable(f"its answer is not JSON: it begins {bytes(body[:40])!r}") from None
    if not isinstance(answer, dict):
        raise Undecodable(f"its answer is {type(answer).__name__}, not an object")
    return answer, request_id


async def read_events(response: RawResponse, /) -> AsyncGenerator[dict[str, Any], None]:
    """The data of each server-sent event, to "[DONE]" or the end; each event within a bound.

    Source: WHATWG HTML, server-sent events: "data:" lines, an empty line ends an event.

    Raises:
        Undecodable: an event that is too large or not a JSON object, or one that says that the server failed.
    """
    pending = bytearray()
    async with aclosing(response.iter_bytes()) as chunks:
        async for chunk in chunks:
            pending += chunk
            *lines, rest = pending.replace(b"\r\n", b"\n").split(b"\n")
            pending = bytearray(rest)
            if len(pending) > MAX_EVENT:
                raise Undecodable("an event of its stream is larger than 1 MB")
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    with anyio.move_on_after(CLEAN_UP):  # to the end of the body, or its connection can't be used again
                        async for _ in chunks:
                            pass
                    return
                yield _event(bytes(data))


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        raise Undecodable("an event of its stream is not JSON") from None
    if not isinstance(event, dict):
        raise Undecodable("an event of its stream is not an object")
    if event.get("error"):
        raise Undecodable("its stream ended with an error event")
    return event


def judge(error: Exception) -> Failure | None:
    """What an error of the SDK's means to retry and breaker."""
    match error:
        case Undecodable():
            return Failure()
        case openai.APIStatusError():
            if _code(error) == "insufficient_quota":
                return None  # a matter of configuration: it doesn't pass by waiting
            return from_status(error.status_code, error.response.headers)
        case openai.APIConnectionError() | OSError():
            return Failure()
    # The transport's errors while a body is read come out as they are, httpx2's among them.
    return (
        Failure()
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "anyio")
        else None
    )


def translate(
    error: Exception, kind: type[DependencyError], /, *, dependency: str, stage: str, attempts: int
) -> RagcoreError:
    """The error to raise in place of a foreign one, as `kind`. Never shows a key; shows what the server said of the request itself."""
    if isinstance(error, RagcoreError):
        error.stage = error.stage or stage
        return error
    status = request_id = retry_after = None
    match error:
        case openai.APIStatusError():
            status, request_id = error.status_code, error.request_id
            judged = from_status(status, error.response.headers)
            retry_after = judged.retry_after if judged else None
            what = _status(error)
        case openai.APITimeoutError() | TimeoutError():
            what = f"did not answer in time ({error})" if str(error) else "did not answer in time"
        case openai.APIConnectionError():
            cause = error.__cause__ or error
            what = f"can't be reached ({type(cause).__name__}): is the base URL right, and the server up?"
        case Undecodable():
            what = f"answered nonsense: {error}"
        case _:
            what = f"failed ({type(error).__name__})"
    return kind(
        f"{dependency} {what}",
        dependency=dependency,
        attempts=attempts,
        status=status,
        request_id=request_id,
        stage=stage,
        retry_after=retry_after,
    )


def _status(error: openai.APIStatusError) -> str:
    status = error.status_code
    match status:
        case 401 | 403:
            return f"refused the API key ({status}): check OPENAI_API_KEY, and that it may use this model"
        case 404:
            return "answered 404: check the model's name and the base URL"
        case 429 if _code(error) == "insufficient_quota":
            return "says that the quota is used up (429 insufficient_quota): add credit or raise the limit; waiting doesn't help"
        case 429:
            return "asked to slow down (429)"
        case 400 | 413 | 422:
            return f"refused the request ({status}): {_said(error)}"
    return f"failed with status {status}"


def _said(error: openai.APIStatusError) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(message or "no reason given").split())[:200]


def _code(error: openai.APIStatusError) -> str | None:
    return str(error.code) if error.code else error.type
