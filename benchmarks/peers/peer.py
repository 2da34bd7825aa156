"""What an adapter is, and what all of them share: the job is the same down to the prompt's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["SYSTEM", "TOP_K", "Job", "Peer", "Row", "prompt"]

TOP_K = 5
SYSTEM = "Answer the question from the passages alone. Say so when they don't hold the answer."


@dataclass(frozen=True, slots=True)
class Job:
    """Where things are.

    Attributes:
        database: DSN of the superuser, whom row-level security doesn't slow down.
        plain_database: DSN of the plain role, which ragcore uses.
        embedding, model: base URLs.
        tenant: whose passages are searched.
        dimension: of the vectors.
        transport: "httpx", or "aiohttp" for those that can choose.
    """

    database: str
    plain_database: str
    embedding: str
    model: str
    tenant: str
    dimension: int
    transport: str = "httpx"


@dataclass(frozen=True, slots=True)
class Row:
    """A stored passage, with the vector that everyone stores."""

    tenant: str
    id: str
    text: str
    vector: Sequence[float]


class Peer(Protocol):
    """One way of doing the job."""

    async def start(self, rows: Sequence[Row]) -> None:
        """Connect, and store the rows where its own kind of table is needed."""

    async def ask(self, question: str, deadline: float) -> str:
        """The answer; what can hold a deadline, holds this one, in seconds."""

    async def close(self) -> None:
        """Let go of everything."""


def prompt(question: str, texts: Sequence[str]) -> str:
    """The user's message, the same for all."""
    passages = "\n\n".join(f'<passage number="{number}">\n{text}\n</passage>' for number, text in enumerate(texts, 1))
    return f"{passages}\n\nQuestion: {question}"


def messages(question: str, texts: Sequence[str]) -> list[Any]:
    """As the chat endpoint wants them."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt(question, texts)}]
