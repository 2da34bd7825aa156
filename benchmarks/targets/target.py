"""What the drivers ask, and what they get back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

__all__ = ["Question", "Refusal", "Reply", "Target", "TargetError", "read_questions"]

Refusal: TypeAlias = Literal["refused", "timeout", "connection", "http", "protocol"]


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and what a right answer holds.

    Attributes:
        text: as it is asked.
        facts: words each of which a right answer holds; case and white space don't count. Empty: any answer but an apology is right.
    """

    text: str
    facts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        text: all of it.
        degraded: whether the target says that it is not its best.
    """

    text: str
    degraded: bool = False


class TargetError(Exception):
    """A question was not answered.

    Attributes:
        kind: "refused" (told at once that there is no room), "timeout" (told that time ran out), "connection", "http" (any other status), "protocol"
            (what came is not an answer).
        status: of HTTP, where there was one.
    """

    def __init__(self, kind: Refusal, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.kind: Refusal = kind
        self.status = status


class Target(Protocol):
    """What answers questions."""

    @property
    def name(self) -> str:
        """For the report."""

    async def ask(self, question: str, /, *, timeout: float, token: Callable[[], None]) -> Reply:
        """Answer, calling `token` with each piece of a streamed answer.

        Raises:
            TargetError: there is no answer.
        """

    async def health(self) -> Mapping[str, Any] | None:
        """What the target says of itself; None: it has no such thing."""


def read_questions(path: Path) -> list[Question]:
    """Questions from lines of JSON: {"question": "…", "fact": "…"} or "fact": ["…", "…"].

    Raises:
        ValueError: a line that is not such an object.
    """
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text, fact = row["question"], row.get("fact", ())
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f'{path}, line {number}: not like {{"question": "…", "fact": "…"}}') from None
        facts: Sequence[str] = (fact,) if isinstance(fact, str) else fact
        questions.append(Question(str(text), tuple(map(str, facts))))
    if not questions:
        raise ValueError(f"{path} holds no question")
    return questions
