"""What became of one question."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ragcore.loadtest.target import Question, Refusal, Reply

__all__ = ["APOLOGIES", "ERRORS", "Kind", "Outcome", "judge"]

# right: the answer holds the fact. degraded: it says itself that it is not the best. apology: an answer that says there is none.
# wrong: any other answer. late: an answer, after its time. hung: not back long after its time.
Kind: TypeAlias = Literal["right", "degraded", "apology", "wrong", "late", "hung"] | Refusal
ERRORS: tuple[Kind, ...] = ("hung", "late", "timeout", "connection", "http", "protocol", "refused")
# In these words an error speaks, whatever else is in the answer.
FAILURES = ("an error occurred", "something went wrong", "try again", "cannot answer", "can't answer")
APOLOGIES = (*FAILURES, "sorry", "could not find", "couldn't find", "unable to", "no documents")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question's fate; times are seconds since the run began.

    Attributes:
        phase: of the scenario: "concurrency 5".
        question: its text.
        due: when it should have been sent.
        started: when it was.
        first_token: when the first piece of a streamed answer came.
        last_token: when the last one did.
        ended: when it was over.
        kind: what became of it.
        status: of HTTP.
        tokens: pieces of a streamed answer.
        longest_pause: seconds between two of them, at most.
        detail: what went wrong, in words.
    """

    phase: str
    question: str
    due: float
    started: float
    first_token: float | None
    last_token: float | None
    ended: float
    kind: Kind
    status: int | None = None
    tokens: int = 0
    longest_pause: float | None = None
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was answered, rightly and in full."""
        return self.kind == "right"

    @property
    def seconds(self) -> float:
        """From the moment when it should have been sent: a driver that is late itself doesn't hide what a user would have waited."""
        return self.ended - self.due

    @property
    def first_token_seconds(self) -> float | None:
        """From the moment when it should have been sent."""
        return None if self.first_token is None else self.first_token - self.due

    @property
    def between_tokens(self) -> float | None:
        """Seconds from one token to the next, on average."""
        if self.first_token is None or self.last_token is None or self.tokens < 2:
            return None
        return (self.last_token - self.first_token) / (self.tokens - 1)


def judge(question: Question, reply: Reply) -> Kind:
    """By the content, not by the status: an apology is no success, nor is an answer without its fact."""
    text = " ".join(reply.text.split()).casefold()
    if any(failure in text for failure in FAILURES):
        return "apology"
    if question.facts and all(_holds(text, fact) for fact in question.facts):
        return "degraded" if reply.degraded else "right"
    if not text or any(apology in text for apology in APOLOGIES):
        return "apology"
    if question.facts:
        return "wrong"
    return "degraded" if reply.degraded else "right"


def _holds(text: str, fact: str) -> bool:
    """As words of their own: $40 is not in $400, nor 1,500 in 21,500 or 1,500.75."""
    words = re.escape(" ".join(fact.split()).casefold())
    return re.search(rf"(?<!\w)(?<!\d[.,]){words}(?!\w)(?![.,]\d)", text) is not None
