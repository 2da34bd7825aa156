"""Anything that answers questions over HTTP, as JSON or as server-sent events. Needs nothing but httpx."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any

import anyio
import httpx

from ragcore.errors import InvalidInput
from ragcore.loadtest.target import Reply, TargetError

__all__ = ["TOKEN_PATH", "HttpOptions", "HttpTarget", "bare", "http_target"]

# Where answers commonly are; the first path that leads to a text is taken.
ANSWER_PATHS = ("answer", "text", "response", "message", "content", "choices.0.message.content", "data.answer")
DELTA_PATHS = ("text", "delta", "content", "choices.0.delta.content", "token")
# Of server-sent events: those that hold a piece of the text, and those that end it; others (sources, pings) are not the answer.
PIECE_EVENTS = ("message", "delta", "token", "chunk", "text", "answer", "content")
END_EVENTS = ("done", "end", "complete")
LINE_END = re.compile("\r\n|\n|\r(?!\\Z)")
TOKEN_PATH = "access_token"  # noqa: S105  (a place, not a token)
SHORTEST_SECRET = 6
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
        degraded_path: where the target says that an answer is not its best: true, or a list that isn't empty; None: "degraded", beside the text, at the
            top, or in any event.
        end_marker: whether a stream must say that it is at its end: [DONE], an event "done", a finish reason. One that doesn't may have been cut off.
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
    degraded_path: str | None = None
    end_marker: bool = True
    login_url: str | None = None
    login_body: str = field(default="{}", repr=False)
    token_path: str = TOKEN_PATH
    token: str | None = field(default=None, repr=False)
    health_url: str | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        for name in ("url", "login_url", "health_url"):
            address = getattr(self, name)
            if address is not None and not _is_address(address):
                # Not shown: what is in front of an @ may be a password.
                raise InvalidInput(f"the {name} is no address: it must begin with http:// or https:// and a host")
        for secret in (self.token, *self.headers.values()):
            if secret and not secret.isprintable():
                raise InvalidInput("a token or a header has a line break or another control character in it")
        if "{question}" not in self.body:
            raise InvalidInput('the body has no "{question}" in it: where should the question go?')
        for name, text in (("body", self.body), ("login body", self.login_body)):
            try:
                json.loads(text)
            except ValueError as error:
                raise InvalidInput(f"the {name} is not JSON: {error}") from None

    @staticmethod
    def secret(*, file: Path | None, variable: str | None) -> str | None:
        """A token from a file or an environment variable: never from a command line, which every process of the machine can read.

        Raises:
            InvalidInput: it isn't there.
        """
        if file is not None:
            try:
                return file.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise InvalidInput(f"the token's file can't be read: {error}") from None
        if variable is not None:
            value = os.environ.get(variable, "").strip()
            if not value:
                raise InvalidInput(f"the environment variable {variable}, which should hold the token, is not set")
            return value
        return None


class HttpTarget:
    """Asks by POST."""

    def __init__(self, client: httpx.AsyncClient, options: HttpOptions) -> None:
        self._client = client
        self._options = options
        self._secrets = {
            *filter(None, (options.token, *options.headers.values())),
            *(text for text in _texts(json.loads(options.login_body)) if len(text) >= SHORTEST_SECRET),
        }
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
                "POST", options.login_url, json=json.loads(options.login_body), seconds=LOGIN_SECONDS
            )
            if not response.is_success:
                raise TargetError("http", f"the login answered {response.status_code}", status=response.status_code)
            token = _at(_decoded(response.content), options.token_path)
            if not isinstance(token, str):
                raise TargetError("protocol", f"the login's answer has no text at {options.token_path!r}")
        if token:
            self._secrets.add(token)
            self._client.headers["authorization"] = f"Bearer {token}"
        # Cookies of the login are kept; those that answers set are not, or all would be one user's session.
        self._client.cookies.jar.set_policy(_NoNewCookies())

    async def ask(self, question: str, /, *, timeout: float, token: Callable[[], None]) -> Reply:
        """Ask, and read the answer whole; what is not back in time is left to the driver, which waits a little longer."""
        try:
            reply = await self._ask(question, token)
        except TargetError as error:
            raise TargetError(error.kind, self._clean(str(error)), status=error.status) from error
        return Reply(self._clean(reply.text), degraded=reply.degraded)

    async def _ask(self, question: str, token: Callable[[], None]) -> Reply:
        body = _filled(json.loads(self._options.body), question)
        headers = {"accept": self._options.accept}
        try:
            async with self._client.stream(
                "POST", self._options.url, json=body, headers=headers, timeout=None
            ) as response:
                if not response.is_success:
                    raise _refusal(response.status_code)
                kind = response.headers.get("content-type", "").partition(";")[0].strip()
                if kind == "text/event-stream":
                    return await self._events(response, token)
                if kind == "text/html" or "text/event-stream" in self._options.accept:
                    raise TargetError("protocol", f"answered {kind or 'something'}", status=response.status_code)
                answer = _decoded(await _read(response))
        except httpx.TimeoutException as error:
            raise TargetError("timeout", _named(error)) from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise TargetError("connection", _named(error)) from error
        if isinstance(answer, str) and self._options.answer_path is None:
            return Reply(answer)
        text, where = _text(answer, self._options.answer_path, ANSWER_PATHS)
        if text is None:
            wanted = self._options.answer_path or " or ".join(ANSWER_PATHS)
            raise TargetError("protocol", f"no text at {wanted} in the answer", status=response.status_code)
        return Reply(text, degraded=self._is_degraded(answer, where))

    def _clean(self, text: str) -> str:
        """Without what must not be in a report, should an answer or an error repeat it."""
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        return text

    def _is_degraded(self, answer: Any, where: str) -> bool:
        if self._options.degraded_path is not None:
            return _says_so(_at(answer, self._options.degraded_path))
        beside = _at(answer, where.rpartition(".")[0]) if "." in where else answer
        return any(_says_so(_at(one, "degraded")) for one in (answer, beside))

    async def health(self) -> Mapping[str, Any] | None:
        """What is at the health URL, if it is JSON."""
        if self._options.health_url is None:
            return None
        try:
            response = await self._request("GET", self._options.health_url, seconds=HEALTH_SECONDS)
            found = json.loads(response.content)
        except (TargetError, ValueError) as error:
            return {"status": "unknown", "error": str(error)}
        return found if isinstance(found, dict) else {"status": str(found)}

    async def _request(self, method: str, url: str, *, seconds: float, **options: Any) -> httpx.Response:
        try:
            # httpx's own timeouts are for each read: an answer that drips has time for ever.
            with anyio.fail_after(seconds):
                async with self._client.stream(method, url, timeout=seconds, **options) as response:
                    return httpx.Response(response.status_code, content=await _read(response))
        except TimeoutError as error:
            raise TargetError("timeout", f"{bare(url)}: nothing within {seconds:g} s") from error
        except httpx.HTTPError as error:
            raise TargetError("connection", self._clean(f"{bare(url)}: {_named(error)}")) from error

    async def _events(self, response: httpx.Response, token: Callable[[], None]) -> Reply:
        pieces: list[str] = []
        whole: str | None = None
        degraded = ended = False
        async for name, data in _events(response):
            event = data if data == "[DONE]" else _decoded(data.encode())
            if name == "error" or _at(event, "error"):
                raise TargetError("protocol", f"the stream ended with an error: {data[:200]}")
            if data == "[DONE]":
                ended = True
                break
            if isinstance(event, dict | list):
                degraded = degraded or self._is_degraded(event, "")
            if name in END_EVENTS:
                whole, where = _text(event, self._options.answer_path, ("answer.text", *ANSWER_PATHS))
                degraded = degraded or self._is_degraded(event, where)
                ended = True
                break
            if name not in PIECE_EVENTS:
                continue
            piece = event if isinstance(event, str) else None
            if isinstance(event, dict | list):
                piece, _ = _text(event, self._options.delta_path, DELTA_PATHS)
                ended = ended or bool(_at(event, "choices.0.finish_reason")) or _at(event, "done") is True
            elif piece is None:
                piece = data  # a number is a piece like another
            if piece:
                token()
                pieces.append(piece)
        if not ended and self._options.end_marker:
            raise TargetError(
                "protocol",
                "the stream broke off: it ended without [DONE], an event done, or a finish reason (--no-end-marker takes it for whole)",
            )
        text = whole or "".join(pieces)
        if not text:
            raise TargetError("protocol", "the stream ended without a word")
        return Reply(text, degraded=degraded)


class _NoNewCookies(DefaultCookiePolicy):
    def set_ok(self, cookie: Any, request: Any) -> bool:
        return False


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
    if not _is_address(url):
        return "not an address"
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
    async for line in _lines(response):
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


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """Ended by CR, LF or both, and by nothing else, which is why not httpx's own."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest, size = "", 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > MOST_BODY:
            raise TargetError("protocol", f"the stream is longer than {MOST_BODY} bytes")
        *whole, rest = LINE_END.split(rest + decoder.decode(chunk))
        for line in whole:
            yield line
    if rest:
        yield rest


def _refusal(status: int) -> TargetError:
    match status:
        case 408 | 504:
            return TargetError("timeout", f"answered {status}", status=status)
        case 429:
            told = "answered 429: the service limits what one caller may ask; raise its limits for this run"
            return TargetError("refused", told, status=status)
        case 503:
            return TargetError("refused", f"answered {status}", status=status)
    return TargetError("http", f"answered {status}", status=status)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
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


def _text(value: Any, path: str | None, usual: Sequence[str]) -> tuple[str | None, str]:
    """The text, and the path to it."""
    for one in (path,) if path else usual:
        found = _at(value, one)
        if isinstance(found, str):
            return found, one
    return None, ""


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for one in value:
                yield from _texts(one)
        case dict():
            for one in value.values():
                yield from _texts(one)


def _says_so(value: Any) -> bool:
    return value is True or (isinstance(value, list) and bool(value))


def _is_address(text: str) -> bool:
    try:
        address = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        return False
    return address.scheme in ("http", "https") and bool(address.host)
