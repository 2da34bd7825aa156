"""The body of `POST /chat`, and checks of request bodies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ragcore.errors import InvalidInput
from ragcore.generation.fences import fenced
from ragcore.text.follow_up import REPORTED
from ragcore.types import Turn
from ragcore.types.validation import check_history

__all__ = ["ChatBody", "as_reported", "check_fields", "check_question", "decoded", "threshold_of"]

MOST_VALUES = 50_000
SHAPE = '{"message": "…", "history": [{"role": "user", "content": "…"}]}'


@dataclass(frozen=True, slots=True)
class ChatBody:
    """A question and the conversation before it. The methods of `RAG` check their contents.

    Examples:
        ```python
        chat = asgi.ChatBody.read(await request.body())
        answer = await me.ask(chat.message, history=chat.history)
        ```
    """

    message: str
    history: tuple[Turn | Mapping[str, object], ...] = ()

    @classmethod
    def read(cls, body: bytes, /) -> Self:
        """Read the JSON `{"message": "…", "history": [{"role": "user", "content": "…"}]}`. The history is optional.

        Raises:
            InvalidInput: the body has another shape, or unknown fields.
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
    """Decode a JSON body. The number of values is limited, since many small values need twenty times the memory of their JSON text."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MOST_VALUES:
        raise InvalidInput(f"the body has more than {MOST_VALUES:,} values")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidInput("the body is not JSON") from None


def check_fields(asked: Mapping[str, object], known: set[str], *, like: str) -> None:
    """Refuse unknown fields. Otherwise a misspelt field would be ignored and the sender would not notice it.

    Raises:
        InvalidInput: the body has unknown fields.
    """
    if unknown := sorted(asked.keys() - known):
        raise InvalidInput(f"the body has unknown fields: {', '.join(unknown)[:200]!r}; it must be JSON like {like}")


def threshold_of(asked: Mapping[str, Any]) -> float | None:
    """Return the threshold of a body; None if it has none. `RAG` checks the range.

    Raises:
        InvalidInput: it is true or false, which Python would take for 1 or 0.
    """
    threshold: float | None = asked.get("threshold")
    if isinstance(threshold, bool):
        raise InvalidInput(f"threshold is {threshold}: it must be a number from -1 to 1")
    return threshold


def check_question(question: object, *, longest: int) -> None:
    """Check a question. This is done before its call waits for a place.

    Args:
        longest: largest number of characters.

    Raises:
        InvalidInput: the question is not a text, or is too long.
    """
    if not isinstance(question, str):
        raise InvalidInput("the question must be a text")
    if len(question) > longest:
        raise InvalidInput(f"the question has {len(question):,} characters: it must have at most {longest:,}")


def as_reported(history: Sequence[Turn | Mapping[str, object]]) -> tuple[Turn, ...]:
    """Mark the answers in a client's history as text from the tenant, since the client may have invented them.

    A model treats an assistant's turn as its own words and stays consistent with them. So with a forged turn, a client could easily make the model ignore its
    instructions.

    Raises:
        InvalidInput: a turn is invalid.
    """
    return tuple(
        turn if turn.role == "user" else Turn("user", f"{REPORTED}\n<answer>\n{fenced(turn.content)}\n</answer>")
        for turn in check_history(history)
    )
