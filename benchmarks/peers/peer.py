"""The interface of adapters, and the parts that they share. The job is the same for all, including the prompt's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["SYSTEM", "TOP_K", "Job", "Peer", "Row", "prompt"]

TOP_K = 5
SYSTEM = "Answer the question from the passages alone. Say so when they don't hold the answer."


@dataclass(frozen=True, slots=True)
class Job:
    """Addresses and parameters of the job.

    Attributes:
        database: DSN of the superuser, which row-level security does not slow down.
        plain_database: DSN of the plain role, which ragcore uses.
        embedding, model: base URLs.
        tenant: the tenant whose passages are searched.
        dimension: dimension of the vectors.
        transport: "httpx", or "aiohttp" for adapters that support it.
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
    """A stored passage, with the vector that all adapters store."""

    tenant: str
    id: str
    text: str
    vector: Sequence[float]


class Peer(Protocol):
    """An adapter, which does the job with one library."""

    async def start(self, rows: Sequence[Row]) -> None:
        """Connect, and store the rows if the library needs its own table."""

    async def ask(self, question: str, deadline: float) -> str:
        """Return the answer. If the library supports a time limit, use `deadline` in seconds."""

    async def close(self) -> None:
        """Close all resources."""


def prompt(question: str, texts: Sequence[str]) -> str:
    """Return the user's message, the same for all adapters."""
    passages = "\n\n".join(f'<passage number="{number}">\n{text}\n</passage>' for number, text in enumerate(texts, 1))
    return f"{passages}\n\nQuestion: {question}"


def messages(question: str, texts: Sequence[str]) -> list[Any]:
    """Return the messages for the chat endpoint."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt(question, texts)}]
