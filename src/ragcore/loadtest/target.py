"""Targets of a load test, their questions and their replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from ragcore.errors import InvalidInput, RagcoreError

__all__ = ["HUNG_AFTER", "Aim", "Question", "Refusal", "Reply", "Target", "TargetError", "read_questions", "unchecked"]

# A question without an answer this many seconds after its timeout is hung.
HUNG_AFTER = 5.0
KEYS = {"question", "fact", "id", "tags"}
Refusal: TypeAlias = Literal["refused", "timeout", "connection", "http", "protocol"]


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the facts that a right answer contains.

    Attributes:
        text: the question as it is sent.
        facts: texts that a right answer contains, all of them; case and white space are ignored. Empty: any answer except an apology is right.
    """

    text: str
    facts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        text: the whole text.
        degraded: whether the target marks the answer as degraded.
    """

    text: str
    degraded: bool = False


class TargetError(RagcoreError):
    """A question was not answered.

    Attributes:
        kind: "refused" (refused at once, as with status 429 or 503), "timeout" (the target reported a timeout, as with 408 or 504), "connection",
            "http" (any other status), "protocol" (the response is not an answer).
        status: the HTTP status; None without one.
    """

    def __init__(self, kind: Refusal, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.kind: Refusal = kind
        self.status = status


class Target(Protocol):
    """A service that answers questions."""

    @property
    def name(self) -> str:
        """The target's name in the report."""

    async def ask(self, question: str, /, *, timeout: float, token: Callable[[], None]) -> Reply:
        """Answer, calling `token` with each piece of a streamed answer.

        Raises:
            TargetError: there is no answer.
        """

    async def health(self) -> Mapping[str, Any] | None:
        """Return the target's report of its health; None if it has no such report."""


@dataclass(frozen=True, slots=True)
class Aim:
    """A target that is ready, with its questions and timeouts.

    Attributes:
        questions: the questions. They are asked in this order, and after the last one the first is asked again.
        pid: id of the target's process, if it runs on this machine.
        memory_required: whether a run is invalid if that process's memory can't be measured.
        shared: whether the target runs in the driver's own process.
        timeout: seconds in which a question must be answered.
        hung_after: seconds after the timeout until a question counts as hung.
    """

    target: Target
    questions: Sequence[Question]
    pid: int | None = None
    memory_required: bool = False
    shared: bool = False
    timeout: float = 30.0
    hung_after: float = HUNG_AFTER


def unchecked(questions: Sequence[Question]) -> list[str]:
    """Return a note if some questions have no fact. For a question without a fact, a wrong answer counts as right."""
    without = sum(not question.facts for question in questions)
    return (
        [f"{without} of {len(questions)} questions have no fact: any answer except an apology counts as right"]
        if without
        else []
    )


def read_questions(path: Path) -> list[Question]:
    """Read questions from JSON lines like {"question": "…", "fact": "…"}; "fact" may also be a list of texts.

    Raises:
        InvalidInput: the file contains no question, or a line has another form.
    """
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    questions = [_question(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise InvalidInput(f"{path} contains no question")
    return questions


def _question(line: str, where: str) -> Question:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    shape = 'write {"question": "…", "fact": "…"}'
    if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"].strip():
        raise InvalidInput(f"{where}: {shape}")
    unknown = row.keys() - KEYS
    if unknown:
        raise InvalidInput(f"{where}: unknown keys: {', '.join(sorted(unknown))} (allowed: {', '.join(sorted(KEYS))})")
    given = row.get("fact", [])
    facts = given if isinstance(given, list) else [given]
    if any(
        isinstance(fact, bool) or not isinstance(fact, str | int | float) or not str(fact).strip() for fact in facts
    ):
        raise InvalidInput(f"{where}: a fact must be a text or a list of texts, and none may be empty")
    # A text with half of a surrogate pair can't be encoded and sent, so replace it.
    text = row["question"].encode("utf-8", "replace").decode("utf-8")
    return Question(text, tuple(map(str, facts)))
