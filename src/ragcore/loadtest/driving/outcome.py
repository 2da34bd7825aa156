"""The outcome of one question."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ragcore.loadtest.target import Question, Refusal, Reply

__all__ = ["APOLOGIES", "ERRORS", "Kind", "Outcome", "judge"]

# right: the answer contains the fact. degraded: the target marks the answer as degraded. apology: the text says that the target has no answer.
# wrong: any other answer. late: the answer came after the timeout. hung: there was no answer even long after the timeout.
Kind: TypeAlias = Literal["right", "degraded", "apology", "wrong", "late", "hung"] | Refusal
ERRORS: tuple[Kind, ...] = ("hung", "late", "timeout", "connection", "http", "protocol", "refused")
# An answer with one of these phrases counts as an apology, even if it contains the fact.
FAILURES = ("an error occurred", "something went wrong", "try again", "cannot answer", "can't answer")
APOLOGIES = (*FAILURES, "sorry", "could not find", "couldn't find", "unable to", "no documents")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one question. Times are seconds since the run began.

    Attributes:
        phase: the phase of the scenario, for example "concurrency 5".
        question: the text of the question.
        due: the time at which the question should have been sent.
        started: the time at which it was sent.
        first_token: the time at which the first piece of a streamed answer arrived.
        last_token: the time at which the last piece arrived.
        ended: the time at which the question ended.
        kind: the kind of outcome.
        status: the HTTP status; None without one.
        tokens: number of pieces of a streamed answer.
        longest_pause: the longest time between two pieces, in seconds.
        detail: description of the problem; empty for a right answer.
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
        """Whether the answer is right and not degraded."""
        return self.kind == "right"

    @property
    def seconds(self) -> float:
        """Latency from the moment when the question should have been sent, so that a late driver doesn't hide waiting time."""
        return self.ended - self.due

    @property
    def first_token_seconds(self) -> float | None:
        """Seconds to the first token, from the moment when the question should have been sent."""
        return None if self.first_token is None else self.first_token - self.due

    @property
    def between_tokens(self) -> float | None:
        """Mean seconds from one token to the next."""
        if self.first_token is None or self.last_token is None or self.tokens < 2:
            return None
        return (self.last_token - self.first_token) / (self.tokens - 1)


def judge(question: Question, reply: Reply) -> Kind:
    """Judge an answer by its content, not by its status. An apology or an answer without the fact is not a success."""
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
    """Return whether the text contains the fact as whole words: $400 does not contain $40, and 21,500 and 1,500.75 do not contain 1,500."""
    words = re.escape(" ".join(fact.split()).casefold())
    return re.search(rf"(?<!\w)(?<!\d[.,]){words}(?!\w)(?![.,]\d)", text) is not None
