"""`POST /v1/chat/completions`: ragcore to a program that speaks OpenAI's chat protocol.

The last message is the question, those before it the history; system messages are instructions. What the documents gave stands under "ragcore" beside
what the protocol knows. Source: OpenAI API reference, chat completions, 2026.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ragcore.contrib.asgi.exchange import encoded
from ragcore.contrib.asgi.problem import Problem, problem
from ragcore.contrib.asgi.public import public
from ragcore.contrib.asgi.sse import PING, Step
from ragcore.errors import InvalidInput, RagcoreError
from ragcore.types import Answer, Delta, Done, Turn

__all__ = ["MODEL", "ChatRequest", "as_error", "chunks", "completion"]

MODEL = "ragcore"
SHAPE = '{"messages": [{"role": "user", "content": "…"}]}'


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What was asked.

    Attributes:
        question: the last message.
        history: the turns before it.
        instructions: of system messages; None: the client's own.
        stream: whether the answer is wanted in pieces.
        usage: whether a last piece with the tokens is wanted.
    """

    question: str
    history: tuple[Turn, ...]
    instructions: str | None
    stream: bool
    usage: bool

    @classmethod
    def read(cls, body: Any) -> ChatRequest:
        """From the decoded body.

        Raises:
            InvalidInput: it is not such a request, or asks for what a retrieval can't give.
        """
        if not isinstance(body, Mapping) or not isinstance(body.get("messages"), list) or not body["messages"]:
            raise InvalidInput(f"the body must be JSON like {SHAPE}")
        if body.get("n") not in (None, 1):
            raise InvalidInput("n must be 1: a question has one answer")
        messages = [_message(message) for message in body["messages"]]
        role, question = messages.pop()
        if role != "user":
            raise InvalidInput("the last message must be the user's: it is the question")
        system = [text for role, text in messages if role == "system"]
        options = body.get("stream_options")
        return cls(
            question=question,
            history=tuple(Turn(role, text) for role, text in messages if role in ("user", "assistant")),  # type: ignore[arg-type]
            instructions="\n\n".join(system) or None,
            stream=body.get("stream") is True,
            usage=isinstance(options, Mapping) and options.get("include_usage") is True,
        )


def completion(answer: Answer) -> dict[str, Any]:
    """A whole answer."""
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(answer)}
    return {
        **_frame("chat.completion", answer),
        "choices": [choice],
        "usage": _usage(answer),
        "ragcore": _extra(answer),
    }


async def chunks(steps: AsyncIterator[Step], *, usage: bool) -> AsyncGenerator[bytes, None]:
    """A streamed answer, as server-sent events ending with [DONE]."""
    frame = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": _now(),
        "model": MODEL,
    }
    yield _event({**frame, "choices": [_choice({"role": "assistant", "content": ""})]})
    async for step in steps:
        match step:
            case None:
                yield PING
            case Delta(text):
                yield _event({**frame, "choices": [_choice({"content": text})]})
            case Done(answer):
                last = {**frame, "choices": [_choice({}, _finish(answer))], "ragcore": _extra(answer)}
                yield _event(last)
                if usage:
                    yield _event({**frame, "choices": [], "usage": _usage(answer)})
                yield b"data: [DONE]\n\n"
            case RagcoreError():
                yield _event(as_error(problem(step)))


def as_error(refused: Problem) -> dict[str, Any]:
    """An error as the protocol has it."""
    body = refused.body
    return {"error": {"message": body["message"], "type": body["error"], "param": None, "code": body.get("stage")}}


def _message(message: Any) -> tuple[str, str]:
    if not isinstance(message, Mapping) or message.get("role") not in ("system", "developer", "user", "assistant"):
        raise InvalidInput("each message must have a role (system, developer, user or assistant) and content")
    role = "system" if message["role"] == "developer" else message["role"]
    content = message.get("content")
    if isinstance(content, str):
        return role, content
    if isinstance(content, list) and all(_is_text(part) for part in content):
        return role, "\n".join(part["text"] for part in content)
    raise InvalidInput("content must be a text, or parts of type text: documents are searched by words alone")


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _frame(kind: str, answer: Answer) -> dict[str, Any]:
    return {"id": f"chatcmpl-{answer.call_id}", "object": kind, "created": _now(), "model": MODEL}


def _choice(delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _finish(answer: Answer) -> str:
    return answer.finish_reason if answer.finish_reason in ("stop", "length", "content_filter") else "stop"


def _usage(answer: Answer) -> dict[str, int]:
    prompt, written = answer.usage.prompt_tokens or 0, answer.usage.completion_tokens or 0
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _extra(answer: Answer) -> dict[str, Any]:
    shown = public(answer)
    return {
        "found": answer.found,
        "model": answer.model,
        "call_id": answer.call_id,
        "citations": shown["citations"],
        "degraded": shown["degraded"],
    }


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: %s\n\n" % encoded(data)


def _now() -> int:
    return int(datetime.now(UTC).timestamp())
