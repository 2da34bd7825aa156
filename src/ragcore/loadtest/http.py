"""A target for any service that answers questions over HTTP, as JSON or as server-sent events. Needs httpx only."""

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

# Common paths to the text in an answer. The first path that leads to a text is used.
ANSWER_PATHS = ("answer", "text", "response", "message", "content", "choices.0.message.content", "data.answer")
DELTA_PATHS = ("text", "delta", "content", "choices.0.delta.content", "token")
# Names of server-sent events that contain a piece of the text, and of events that end the text. Other events (sources, pings) are ignored.
PIECE_EVENTS = ("message", "delta", "token", "chunk", "text", "answer", "content")
END_EVENTS = ("done", "end", "complete")
LINE_END = re.compile("\r\n|\n|\r(?!\\Z)")
TOKEN_PATH = "access_token"  # noqa: S105  (a path, not a token)
SHORTEST_SECRET = 6
MOST_BODY = 8 * 1024 * 1024
LOGIN_SECONDS = 30.0
HEALTH_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """How to send questions and read answers.

    Attributes:
        url: URL to which questions are sent by POST.
        body: JSON body in which "{question}" stands for the question.
        headers: names and values of additional headers.
        accept: the Accept header; "text/event-stream" requests a stream.
        answer_path: path of the text in a JSON answer, with dots: "choices.0.message.content"; None: the common paths.
        delta_path: path of the text in the data of an event; None: the common paths.
        degraded_path: path of the value that marks a degraded answer: true, or a list that isn't empty; None: "degraded", next to the text, at the
            top level, or in any event.
        end_marker: whether a stream must end with [DONE], an event "done" or a finish reason. A stream without one may have been cut off.
        login_url: URL that returns a token for a POST request, before the first question.
        login_body: JSON body of the login request.
        token_path: path of the token in the login's JSON answer.
        token: a bearer token.
        health_url: URL of the target's health.
        verify: whether TLS certificates are verified.
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
                # The address is not shown: the part before an @ may be a password.
                raise InvalidInput(f"the {name} is not a valid URL: it must begin with http:// or https:// and a host")
        for secret in (self.token, *self.headers.values()):
            if secret and not secret.isprintable():
                raise InvalidInput("a token or a header contains a line break or another control character: remove it")
        if "{question}" not in self.body:
            raise InvalidInput('the body does not contain "{question}": put it where the question goes')
        for name, text in (("body", self.body), ("login body", self.login_body)):
            try:
                json.loads(text)
            except ValueError as error:
                raise InvalidInput(f"the {name} is not JSON: {error}") from None

    @staticmethod
    def secret(*, file: Path | None, variable: str | None) -> str | None:
        """Read a token from a file or an environment variable. It never comes from the command line, which every process of the machine can read.

        Raises:
            InvalidInput: the file can't be read, or the variable is not set.
        """
        if file is not None:
            try:
                return file.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise InvalidInput(f"cannot read the token file: {error}") from None
        if variable is not None:
            value = os.environ.get(variable, "").strip()
            if not value:
                raise InvalidInput(f"environment variable {variable} is not set: set it to the token")
            return value
        return None


class HttpTarget:
    """Sends questions by POST."""

    def __init__(self, client: httpx.AsyncClient, options: HttpOptions) -> None:
        self._client = client
        self._options = options
        # A shorter text is no secret: the name of a tenant such as "40" occurs in answers.
        given = [*options.headers.values(), *_texts(json.loads(options.login_body))]
        given += [value.partition(" ")[2] for name, value in options.headers.items() if name.lower() == "authorization"]
        self._secrets = {*filter(None, [options.token]), *(text for text in given if len(text) >= SHORTEST_SECRET)}
        self.name = bare(options.url)

    async def login(self) -> None:
        """Log in if there is a login URL, and send the token with all questions.

        Raises:
            TargetError: the login failed, or its response has no token.
        """
        options = self._options
        token = options.token
        if options.login_url is not None:
            response = await self._request(
                "POST", options.login_url, json=json.loads(options.login_body), seconds=LOGIN_SECONDS
            )
            if not response.is_success:
                raise TargetError("http", f"login failed: status {response.status_code}", status=response.status_code)
            token = _at(_decoded(response.content), options.token_path)
            if not isinstance(token, str):
                raise TargetError(
                    "protocol", f"the login's answer has no token at {options.token_path!r}: set --token-path"
                )
        if token:
            self._secrets.add(token)
            self._client.headers["authorization"] = f"Bearer {token}"
        # Cookies of the login are kept. Cookies of answers are not, because they would put all questions into one session.
        self._client.cookies.jar.set_policy(_NoNewCookies())

    async def ask(self, question: str, /, *, timeout: float, token: Callable[[], None]) -> Reply:
        """Ask, and read the whole answer. The driver enforces the timeout, because it waits a little longer to find hung questions."""
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
                    raise TargetError("protocol", f"wrong content type {kind or 'none'}", status=response.status_code)
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
            raise TargetError("protocol", f"no text at {wanted}: set --answer-path", status=response.status_code)
        return Reply(text, degraded=self._is_degraded(answer, where))

    def _clean(self, text: str) -> str:
        """Remove secrets, which an answer or an error may repeat, so that the report never contains them."""
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        return text

    def _is_degraded(self, answer: Any, where: str) -> bool:
        if self._options.degraded_path is not None:
            return _is_marked(_at(answer, self._options.degraded_path))
        neighbours = _at(answer, where.rpartition(".")[0]) if "." in where else answer
        return any(_is_marked(_at(one, "degraded")) for one in (answer, neighbours))

    async def health(self) -> Mapping[str, Any] | None:
        """Return the JSON at the health URL, or the error if it can't be read; None without such a URL."""
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
            # httpx's own timeouts apply to each read. They would never end a response that sends a few bytes at a time.
            with anyio.fail_after(seconds):
                async with self._client.stream(method, url, timeout=seconds, **options) as response:
                    return httpx.Response(response.status_code, content=await _read(response))
        except TimeoutError as error:
            raise TargetError("timeout", f"{bare(url)}: no answer within {seconds:g} s") from error
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
                piece = data  # the data is not a JSON object or list: use it as text
            if piece:
                token()
                pieces.append(piece)
        if not ended and self._options.end_marker:
            raise TargetError(
                "protocol",
                "the stream ended without [DONE], an event done or a finish reason; if this is normal for the service, pass --no-end-marker",
            )
        text = whole or "".join(pieces)
        if not text:
            raise TargetError("protocol", "the stream ended without text")
        return Reply(text, degraded=degraded)


class _NoNewCookies(DefaultCookiePolicy):
    def set_ok(self, cookie: Any, request: Any) -> bool:
        return False


@asynccontextmanager
async def http_target(options: HttpOptions) -> AsyncIterator[HttpTarget]:
    """Open a target and log in."""
    # Don't limit connections: if a question waited for the connection pool, this wait would count as latency of the target.
    # Many servers close idle connections after 5 s, and a question sent at that moment would be lost. So this client closes them earlier.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=2.0)
    async with httpx.AsyncClient(limits=limits, headers=dict(options.headers), verify=options.verify) as client:
        target = HttpTarget(client, options)
        await target.login()
        yield target


def bare(url: str) -> str:
    """Return the URL for a report, without user, query and fragment, which may be secrets."""
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
    """Yield (name, data) of each server-sent event (WHATWG HTML, section 9.2)."""
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
    """Yield lines that end with CR, LF or both. httpx's own iterator also splits at other characters."""
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
            message = "answered 429: the service limits the requests of one caller; raise its limits for this run"
            return TargetError("refused", message, status=status)
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
    """Put the question into the values of the template. In the JSON text, quotation marks of the question would break the JSON."""
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
    """Return the text at `path`, or at the first of the `usual` paths that leads to a text, and that path."""
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


def _is_marked(value: Any) -> bool:
    return value is True or (isinstance(value, list) and bool(value))


def _is_address(text: str) -> bool:
    try:
        address = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        return False
    return address.scheme in ("http", "https") and bool(address.host)
