"""What `POST /chat` is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ragcore.errors import InvalidInput
from ragcore.generation.fences import fenced
from ragcore.types import Turn
from ragcore.types.validation import check_history

__all__ = ["ChatBody", "as_reported", "check_fields", "check_question", "decoded"]

MOST_VALUES = 50_000
REPORTED = "The user's program reports that this was answered before:"
SHAPE = '{"message": "…", "history": [{"role": "user", "content": "…"}]}'


@dataclass(frozen=True, slots=True)
class ChatBody:
    """A question and the conversation before it; what they hold is checked by the client's methods.

    Example:
        ```python
        chat = asgi.ChatBody.read(await request.body())
        answer = await me.ask(chat.message, history=chat.history)
        ```
    """

    message: str
    history: tuple[Turn | Mapping[str, object], ...] = ()

    @classmethod
    def read(cls, body: bytes, /) -> Self:
        """From JSON: `{"message": "…", "history": [{"role": "user", "content": "…"}]}`, the history is optional.

        Raises:
            InvalidInput: it is something else, or has other fields.
        """
        asked = decoded(body)
        if not isinstance(asked, dict) or "message" not in asked:
            raise InvalidInput(f"the body must be JSON like {SHAPE}")
        check_fields(asked, {"message", "history"}, like=SHAPE)
        history = [] if asked.get("history") is None else asked["history"]
        if not isinstance(history, list):
            raise InvalidInput(f"the history must be a list; the body must be JSON like {SHAPE}")
        return cls(asked["message"], tuple(history))


def decoded(body: bytes) -> Any:
    """A body's JSON. Many small values take twenty times the memory of their text, so there may be only so many."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MOST_VALUES:
        raise InvalidInput(f"the body has more than {MOST_VALUES:,} values")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidInput("the body is not JSON") from None


def check_fields(asked: Mapping[str, object], known: set[str], *, like: str) -> None:
    """Refuse a field that is misspelt: it would be left out in silence.

    Raises:
        InvalidInput: there are fields besides those that are known.
    """
    if unknown := sorted(asked.keys() - known):
        raise InvalidInput(f"nobody reads the body's {', '.join(unknown)[:200]!r}; it must be JSON like {like}")


def check_question(question: object, *, longest: int) -> None:
    """Check a question before it takes a place.

    Args:
        longest: its characters, at most.

    Raises:
        InvalidInput: it is not a text, or is longer.
    """
    if not isinstance(question, str):
        raise InvalidInput("the question must be a text")
    if len(question) > longest:
        raise InvalidInput(f"the question has {len(question):,} characters; at most {longest:,} are taken")


def as_reported(history: Sequence[Turn | Mapping[str, object]]) -> tuple[Turn, ...]:
    """Turns as a client reports them. Nobody knows whether an answer in them was ever given, so it is handed on as the tenant's words about it.

    A model takes an assistant's turn for its own word, and goes on with what it "has said": a forged one is the easiest way around its instructions.

    Raises:
        InvalidInput: as the client's methods.
    """
    return tuple(
        turn if turn.role == "user" else Turn("user", f"{REPORTED}\n<answer>\n{fenced(turn.content)}\n</answer>")
        for turn in check_history(history)
    )
