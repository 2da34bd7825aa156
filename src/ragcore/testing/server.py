"""An OpenAI-compatible server on loopback: embeddings as float and base64, chat with and without a stream. It needs the extra `testing`."""

from __future__ import annotations

import base64
import html
import json
import math
import re
import zlib
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
import numpy as np

from ragcore.compat.extras import require
from ragcore.generation.extractive import quote
from ragcore.generation.prompt import NOT_FOUND
from ragcore.lifecycle.owner import Owner
from ragcore.protocols import Embedder, Vector
from ragcore.testing.connection import Connection
from ragcore.testing.fakes import embed_words
from ragcore.testing.faults import (
    BadEnd,
    Bomb,
    Broken,
    Corrupt,
    Crumbs,
    Endless,
    Fail,
    Faults,
    Hang,
    Huge,
    Redirect,
    Refuse,
    Reply,
    Silent,
    Slow,
)
from ragcore.testing.reranking import corrupt_results, reranking
from ragcore.text.tokens import estimate_tokens
from ragcore.types import Passage

__all__ = ["OpenAIServer"]

PASSAGE = re.compile(r'<passage number="\d+"(?: title="([^"]*)")?>\n(.*?)\n</passage>', re.DOTALL)
QUESTION = re.compile(r"Question: (.*)\Z", re.DOTALL)
# The number of last requests that are kept, so that memory doesn't grow in a long test.
REMEMBERED = 10_000


class OpenAIServer:
    """Answers `/v1/embeddings`, `/v1/chat/completions`, `/v1/rerank` and `/v1/models`.

    Embeddings come from `embedder`, or from hashed words. Chat answers with `text`, or quotes the passages in ragcore's prompts, so that tests can
    distinguish right answers from wrong ones. Reranking has the shape of Jina and vLLM, and counts common words. Each request takes the next fault from
    `faults`: `Fail(status)` answers with that status, `Fail(error)` drops the connection, `Slow` waits before it answers, and `Hang` never answers.
    `Reply`, `Silent`, `Huge`, `Bomb`, `Endless`, `Crumbs`, `Redirect`, `Refuse`, `Corrupt`, `Broken` and `BadEnd` behave as their docstrings describe.
    For faults on the wire, put a `FaultProxy` in front.

    Args:
        embedder: a started embedder; None: words are hashed to vectors.
        dimension: dimension of the hashed vectors.
        text: the answer to every question; None: a quotation.
        embedding_latency: seconds for a request of embeddings.
        first_token_latency: seconds to the first token.
        token_latency: seconds for each further token.
        slots: the number of chats that are answered at once; the others wait, as in a model server. None: no limit.

    Attributes:
        length: number of tokens of a streamed answer, each in its own event. If the text has more tokens, the last event has the rest. None: no limit.

    Examples:
        ```python
        async with OpenAIServer() as server:
            embedder = ragcore.OpenAIEmbedder("fake", dimension=64, base_url=server.base_url, api_key="none")
        ```
    """

    faults: Faults
    port: Any
    base_url: str
    active: int

    def __init__(
        self,
        *,
        embedder: Embedder | None = None,
        dimension: int = 64,
        text: str | None = None,
        embedding_latency: float = 0.0,
        first_token_latency: float = 0.0,
        token_latency: float = 0.0,
        slots: int | None = None,
    ) -> None:
        self._h11 = require("h11", extra="testing", purpose="ragcore.testing.OpenAIServer")
        self._embedder = embedder
        self._dimension = dimension
        self.text = text
        self.embedding_latency = embedding_latency
        self.first_token_latency = first_token_latency
        self.token_latency = token_latency
        self.length: int | None = None
        self._slots = anyio.CapacityLimiter(math.inf if slots is None else slots)
        self.faults = Faults()
        self.requests: deque[tuple[str, dict[str, Any]]] = deque(maxlen=REMEMBERED)
        self.headers: deque[dict[str, str]] = deque(maxlen=REMEMBERED)
        self.active = 0
        self.base_url = ""
        self.port = 0
        self._owner = Owner("OpenAIServer")
        self._listener: Any = None

    @property
    def slots(self) -> float:
        """Number of chats that are answered at once. Set it only while no request runs."""
        return self._slots.total_tokens

    @slots.setter
    def slots(self, slots: float) -> None:
        self._slots.total_tokens = slots

    async def __aenter__(self) -> Self:
        self._listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        self.port = self._listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610  # anyio, not Django
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        await self._owner.start()
        self._owner.spawn(lambda: self._listener.serve(self._serve), name="listener")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        await self._owner.stop()
        await self._listener.aclose()

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        connection = Connection(self._h11, stream)
        try:
            while (request := await connection.receive()) is not None:
                self.active += 1
                try:
                    await self._answer_until_gone(connection, *request)
                finally:
                    self.active -= 1
                if not connection.next():
                    break
        except (
            anyio.BrokenResourceError,
            anyio.ClosedResourceError,
            anyio.EndOfStream,
            self._h11.ProtocolError,
            OSError,
        ):
            pass
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)

    async def _answer_until_gone(self, connection: Connection, path: str, headers: dict[str, str], body: bytes) -> None:
        """Answer. If the client closes the connection, end the request and free its slot, as a real server does."""
        broken: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(connection.wait_until_gone, group.cancel_scope.cancel)
            try:
                await self._answer(connection, path, headers, body)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, self._h11.LocalProtocolError) as error:
                broken = error
            group.cancel_scope.cancel()
        if broken is not None:
            raise broken

    async def _answer(self, connection: Connection, path: str, headers: dict[str, str], body: bytes) -> None:
        fault = self.faults.take()
        match fault:
            case Fail(int() as status, extra, code):
                message = f"injected fault: status {status}"
                await connection.send_json(
                    status, {"error": {"message": message, "type": "fault", "code": code}}, headers=extra
                )
                return
            case Fail():
                raise anyio.BrokenResourceError
            case Hang():
                await anyio.sleep_forever()
            case Slow(seconds):
                await anyio.sleep(seconds)
            case Reply(status, reply, extra):
                await connection.send(status, extra.get("content-type", "application/json"), reply, headers=extra)
                return
            case Redirect(to):
                await connection.send(307, "text/plain", b"", headers={"location": to or path})
                return
            case Bomb(status, encoding, size):
                kind = "text/event-stream" if path.endswith("completions") and status < 300 else "application/json"
                await connection.send(status, kind, _bomb(encoding, size), headers={"content-encoding": encoding})
                return
            case Endless(status):
                await connection.send_endless(status)
                return
            case Crumbs(count):
                await connection.send_crumbs(count)
                return
            case Silent():
                await connection.send_head(200, "application/json")
                await anyio.sleep_forever()
            case Huge(size):
                await connection.send_huge(size)
                return
        try:
            asked = json.loads(body or b"{}")
        except ValueError:
            await connection.send_json(
                400, {"error": {"message": "the body is not JSON", "type": "invalid_request_error", "code": None}}
            )
            return
        self.requests.append((path, asked))
        self.headers.append(headers)
        match fault:
            case Refuse(parameter, value) if parameter in asked and value in (None, asked[parameter]):
                message = f"Unsupported parameter: '{parameter}' is not supported with this model."
                error = {"message": message, "type": "invalid_request_error", "param": parameter, "code": None}
                await connection.send_json(400, {"error": error})
                return
        match path:
            case "/v1/embeddings":
                await anyio.sleep(self.embedding_latency)
                answer = await self._embeddings(asked)
                if isinstance(fault, Corrupt):
                    _corrupt(answer["data"], fault.what)
                await connection.send_json(200, answer)
            case "/v1/chat/completions" if asked.get("stream"):
                async with self._slots:
                    await anyio.sleep(self.first_token_latency)
                    events = self._events(asked, fault if isinstance(fault, Broken) else None)
                    match fault:
                        case BadEnd(how, after):
                            await connection.send_events(events, done=after == "done", end=False)
                            await connection.end_badly(how)
                            raise anyio.BrokenResourceError
                        case Broken(how="clean"):
                            await connection.send_events(events, done=False)
                        case _:
                            await connection.send_events(events)
            case "/v1/chat/completions":
                text = self._reply(asked)
                async with self._slots:
                    await anyio.sleep(self.first_token_latency + self.token_latency * len(_tokens(text)))
                await connection.send_json(200, _completion(asked, text))
            case "/v1/rerank":
                answer = reranking(asked)
                if isinstance(fault, Corrupt):
                    corrupt_results(answer["results"], fault.what)
                await connection.send_json(200, answer)
            case "/v1/models":
                await connection.send_json(200, {"object": "list", "data": [{"id": "fake", "object": "model"}]})
            case _:
                await connection.send_json(
                    404, {"error": {"message": f"no such path: {path}", "type": "invalid_request_error", "code": None}}
                )

    async def _embeddings(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
        vectors = await self._vectors(texts)
        as_base64 = asked.get("encoding_format") == "base64"
        tokens = sum(map(estimate_tokens, texts))
        return {
            "object": "list",
            "model": asked.get("model", ""),
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
                    if as_base64
                    else vector.tolist(),
                }
                for index, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    async def _vectors(self, texts: Sequence[str]) -> Vector:
        if self._embedder is not None:
            return np.asarray(await self._embedder.embed(texts, kind="document"), dtype=np.float32)
        return np.stack([embed_words(text, self._dimension) for text in texts])

    async def _events(self, asked: Mapping[str, Any], fault: Broken | None) -> AsyncIterator[dict[str, Any]]:
        tokens = _tokens(self._reply(asked))
        if self.length is not None:
            more = max(0, self.length - len(tokens))
            tokens = [*tokens[: self.length - 1], "".join(tokens[self.length - 1 :]), *[" and"] * more][: self.length]
        frame = {
            "id": "chatcmpl-fake",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": asked.get("model", ""),
        }
        yield {**frame, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
        for number, token in enumerate(tokens):
            if fault is not None and number == fault.after:
                break
            if number:
                await anyio.sleep(self.token_latency)
            yield {**frame, "choices": [{"index": 0, "delta": {"content": token}, "finish_reason": None}]}
        if fault is not None:
            match fault.how:
                case "reset":
                    raise anyio.BrokenResourceError
                case "clean":
                    return
                case "idle":
                    await anyio.sleep_forever()
                case "endless":
                    while True:
                        await anyio.sleep(max(self.token_latency, 0.01))
                        yield {**frame, "choices": [{"index": 0, "delta": {"content": " and"}, "finish_reason": None}]}
        yield {**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        if (asked.get("stream_options") or {}).get("include_usage"):
            yield {**frame, "choices": [], "usage": _usage(asked, len(tokens))}

    def _reply(self, asked: Mapping[str, Any]) -> str:
        if self.text is not None:
            return self.text
        content = str(asked["messages"][-1].get("content") or "")
        passages = [
            Passage(str(number), "", html.unescape(text), title=html.unescape(title))
            for number, (title, text) in enumerate(PASSAGE.findall(content))
        ]
        question = QUESTION.search(content)
        return quote(question[1] if question else content, passages) or NOT_FOUND


@lru_cache
def _bomb(encoding: str, size: int) -> bytes:
    compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16 if encoding == "gzip" else zlib.MAX_WBITS)
    piece = b"\n" * 1024 * 1024
    packed = [compressor.compress(piece) for _ in range(size // len(piece))]
    return b"".join([*packed, compressor.flush()])


def _corrupt(data: list[dict[str, Any]], what: str) -> None:
    """Make at least one of the vectors invalid."""
    if what == "count":
        data.append({**data[0], "index": len(data)})
        return
    given = data[0]["embedding"]
    vector = (
        np.frombuffer(base64.b64decode(given), dtype="<f4").copy()
        if isinstance(given, str)
        else np.array(given, dtype="<f4")
    )
    match what:
        case "dimension":
            vector = vector[:-1]
        case "nan":
            vector[0] = np.nan
        case "zero":
            vector[:] = 0
    if what == "base64":
        data[0]["embedding"] = "not base64!"
    elif isinstance(given, str):
        data[0]["embedding"] = base64.b64encode(vector.tobytes()).decode()
    else:
        data[0]["embedding"] = vector.tolist()


def _tokens(text: str) -> list[str]:
    return re.findall(r"\s*\S+", text)


def _usage(asked: Mapping[str, Any], completion: int) -> dict[str, int]:
    prompt = sum(estimate_tokens(str(message.get("content", ""))) for message in asked.get("messages", []))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _completion(asked: Mapping[str, Any], text: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": 0,
        "model": asked.get("model", ""),
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": _usage(asked, len(_tokens(text))),
    }
