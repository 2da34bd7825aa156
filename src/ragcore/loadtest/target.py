"""What the drivers ask, and what they get back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from ragcore.errors import InvalidInput, RagcoreError

__all__ = ["HUNG_AFTER", "Aim", "Question", "Refusal", "Reply", "Target", "TargetError", "read_questions", "unchecked"]

# A question that is not back so many seconds after its time is hung.
HUNG_AFTER = 5.0
KEYS = {"question", "fact", "id", "tags"}
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


class TargetError(RagcoreError):
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


@dataclass(frozen=True, slots=True)
class Aim:
    """A target that is ready, and how it is asked.

    Attributes:
        questions: asked in turn, from the beginning again after the last.
        pid: of the target's process, where it is on this machine.
        memory_required: whether a run that can't measure that process's memory should not be believed.
        shared: whether that process is the driver's own.
        timeout: seconds that a question has.
        hung_after: seconds past it after which a question is given up as hung.
    """

    target: Target
    questions: Sequence[Question]
    pid: int | None = None
    memory_required: bool = False
    shared: bool = False
    timeout: float = 30.0
    hung_after: float = HUNG_AFTER


def unchecked(questions: Sequence[Question]) -> list[str]:
    """A note where right and wrong can't be told apart."""
    without = sum(not question.facts for question in questions)
    return (
        [f"{without} of {len(questions)} questions have no fact: any answer but an apology counts as right"]
        if without
        else []
    )


def read_questions(path: Path) -> list[Question]:
    """Questions from lines of JSON: {"question": "…", "fact": "…"} or "fact": ["…", "…"].

    Raises:
        InvalidInput: the file holds no question, or a line is not such an object.
    """
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    questions = [_question(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise InvalidInput(f"{path} holds no question")
    return questions


def _question(line: str, where: str) -> Question:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    shape = 'not like {"question": "…", "fact": "…"}'
    if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"].strip():
        raise InvalidInput(f"{where}: {shape}")
    unknown = row.keys() - KEYS
    if unknown:
        raise InvalidInput(f"{where}: {', '.join(sorted(unknown))}? there are {', '.join(sorted(KEYS))}")
    given = row.get("fact", [])
    facts = given if isinstance(given, list) else [given]
    if any(
        isinstance(fact, bool) or not isinstance(fact, str | int | float) or not str(fact).strip() for fact in facts
    ):
        raise InvalidInput(f"{where}: a fact is a text, or a list of texts, none of them empty")
    # A lone half of a surrogate pair can't be sent.
    text = row["question"].encode("utf-8", "replace").decode("utf-8")
    return Question(text, tuple(map(str, facts)))
