"""Anything that answers questions over HTTP, as JSON or as server-sent events. Needs nothing but httpx."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.targets.target import Reply, TargetError

__all__ = ["HttpOptions", "HttpTarget", "bare", "http_target"]

# Where answers commonly are; the first path that leads to a text is taken.
ANSWER_PATHS = ("answer", "text", "response", "message", "content", "choices.0.message.content", "data.answer")
DELTA_PATHS = ("text", "delta", "content", "choices.0.delta.content", "token")
MOST_BODY = 8 * 1024 * 1024
LOGIN_SECONDS = 30.0
HEALTH_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """Where to ask and how.

    Attributes:
        url: the questions go here by POST.
        body: JSON in which "{question}" stands where the question goes.
        headers: names and values.
        accept: of the answer: "text/event-stream" to be streamed to.
        answer_path: where the text is in a JSON answer, with dots between: "choices.0.message.content"; None: where it commonly is.
        delta_path: where a piece is in the data of an event; None: where it commonly is.
        degraded_path: where the target says that an answer is not its best.
        login_url: where a token is got by POST, before the first question.
        login_body: what is sent there.
        token_path: where the token is in the JSON that comes back.
        token: a bearer token that is there already.
        health_url: what the target says of itself.
        verify: whether certificates are checked.
    """

    url: str
    body: str = '{"message": "{question}"}'
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    accept: str = "application/json"
    answer_path: str | None = None
    delta_path: str | None = None
    degraded_path: str = "degraded"
    login_url: str | None = None
    login_body: str = field(default="{}", repr=False)
    token_path: str = "access_token"  # a place, not a token
    token: str | None = field(default=None, repr=False)
    health_url: str | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        if "{question}" not in self.body:
            raise ValueError('the body has no "{question}" in it: where should the question go?')
        for name, text in (("body", self.body), ("login body", self.login_body)):
            try:
                json.loads(text)
            except ValueError as error:
                raise ValueError(f"the {name} is not JSON: {error}") from None

    @staticmethod
    def secret(*, file: Path | None, variable: str | None) -> str | None:
        """A token from a file or an environment variable: never from a command line, which every process of the machine can read.

        Raises:
            ValueError: it isn't there.
        """
        if file is not None:
            try:
                return file.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ValueError(f"the token's file can't be read: {error}") from None
        if variable is not None:
            value = os.environ.get(variable)
            if not value:
                raise ValueError(f"the environment variable {variable}, which should hold the token, is not set")
            return value
        return None


class HttpTarget:
    """Asks by POST."""

    def __init__(self, client: httpx.AsyncClient, options: HttpOptions) -> None:
        self._client = client
        self._options = options
        self.name = bare(options.url)

    async def login(self) -> None:
        """Get a token, where one has to be got.

        Raises:
            TargetError: there is none to be had.
        """
        options = self._options
        token = options.token
        if options.login_url is not None:
            response = await self._request(
                "POST", options.login_url, json=json.loads(options.login_body), timeout=LOGIN_SECONDS
            )
            if not response.is_success:
                raise TargetError("http", f"the login answered {response.status_code}", status=response.status_code)
            token = _at(_decoded(response.content), options.token_path)
            if not isinstance(token, str):
                raise TargetError("protocol", f"the login's answer has no text at {options.token_path!r}")
        if token:
            self._client.headers["authorization"] = f"Bearer {token}"

    async def ask(self, question: str, /, *, timeout: float, token: Callable[[], None]) -> Reply:
        """Ask, and read the answer whole; what is not back in time is left to the driver, which waits a little longer."""
        body = _filled(json.loads(self._options.body), question)
        headers = {"accept": self._options.accept}
        try:
            async with self._client.stream(
                "POST", self._options.url, json=body, headers=headers, timeout=None
            ) as response:
                if not response.is_success:
                    await _read(response)
                    raise _refusal(response.status_code)
                if "text/event-stream" in response.headers.get("content-type", ""):
                    return await self._events(response, token)
                answer = _decoded(await _read(response))
        except httpx.TimeoutException as error:
            raise TargetError("timeout", _named(error)) from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise TargetError("connection", _named(error)) from error
        text = _text(answer, self._options.answer_path, ANSWER_PATHS)
        if text is None:
            where = self._options.answer_path or " or ".join(ANSWER_PATHS)
            raise TargetError("protocol", f"no text at {where} in the answer", status=response.status_code)
        return Reply(text, degraded=bool(_at(answer, self._options.degraded_path)))

    async def health(self) -> Mapping[str, Any] | None:
        """What is at the health URL, if it is JSON."""
        if self._options.health_url is None:
            return None
        try:
            response = await self._request("GET", self._options.health_url, timeout=HEALTH_SECONDS)
            found = json.loads(response.content)
        except (TargetError, ValueError) as error:
            return {"status": "unknown", "error": str(error)}
        return found if isinstance(found, dict) else {"status": str(found)}

    async def _request(self, method: str, url: str, **options: Any) -> httpx.Response:
        try:
            return await self._client.request(method, url, **options)
        except httpx.HTTPError as error:
            raise TargetError("connection", f"{url}: {_named(error)}") from error

    async def _events(self, response: httpx.Response, token: Callable[[], None]) -> Reply:
        pieces: list[str] = []
        whole, degraded, ended = None, False, False
        async for name, data in _events(response):
            if data == "[DONE]" or name in ("done", "end"):
                ended = True
            if name == "error":
                raise TargetError("protocol", f"the stream ended with an error: {data[:200]}")
            try:
                event = json.loads(data)
            except ValueError:
                event = data if data != "[DONE]" else None
            if isinstance(event, str):
                piece = event
            elif name in ("done", "end"):
                whole = _text(event, self._options.answer_path, ("answer.text", *ANSWER_PATHS)) or whole
                degraded = degraded or any(
                    bool(_at(event, path))
                    for path in (self._options.degraded_path, f"answer.{self._options.degraded_path}")
                )
                continue
            else:
                piece = _text(event, self._options.delta_path, DELTA_PATHS) or ""
            if piece:
                token()
                pieces.append(piece)
        if not ended and not pieces:
            raise TargetError("protocol", "the stream ended without a word")
        return Reply(whole or "".join(pieces), degraded=degraded)


@asynccontextmanager
async def http_target(options: HttpOptions) -> AsyncIterator[HttpTarget]:
    """A target for the block, logged in."""
    # Without limits: a pool that makes questions wait would be measured as the target's slowness.
    # Idle connections go before common servers close theirs (after 5 s): a question sent at that moment would be lost.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=2.0)
    async with httpx.AsyncClient(limits=limits, headers=dict(options.headers), verify=options.verify) as client:
        target = HttpTarget(client, options)
        await target.login()
        yield target


def bare(url: str) -> str:
    """An address for a report: without what may be a secret, which is a user, a query and a fragment."""
    return str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None))


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MOST_BODY:
            raise TargetError("protocol", f"the answer is larger than {MOST_BODY} bytes", status=response.status_code)
    return bytes(body)


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    """(name, data) of each server-sent event (WHATWG HTML, section 9.2)."""
    name, data = "message", list[str]()
    async for line in response.aiter_lines():
        match line.partition(":"):
            case ["", "", ""]:
                if data:
                    yield name, "\n".join(data)
                name, data = "message", []
            case ["event", _, value]:
                name = value.strip()
            case ["data", _, value]:
                data.append(value.removeprefix(" "))
    if data:
        yield name, "\n".join(data)


def _refusal(status: int) -> TargetError:
    match status:
        case 408 | 504:
            return TargetError("timeout", f"answered {status}", status=status)
        case 429 | 503:
            return TargetError("refused", f"answered {status}", status=status)
    return TargetError("http", f"answered {status}", status=status)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")


def _filled(template: Any, question: str) -> Any:
    """The question in its place: set into the values, not into the text, which its quotation marks would break."""
    match template:
        case str():
            return template.replace("{question}", question)
        case list():
            return [_filled(one, question) for one in template]
        case dict():
            return {key: _filled(one, question) for key, one in template.items()}
    return template


def _at(value: Any, path: str) -> Any:
    for step in path.split("."):
        if isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict):
            value = value.get(step)
        else:
            return None
    return value


def _text(value: Any, path: str | None, usual: Sequence[str]) -> str | None:
    if isinstance(value, str):
        return value
    for one in (path,) if path else usual:
        found = _at(value, one)
        if isinstance(found, str):
            return found
    return None
