"""Where a redaction runs: a `Redaction` at once, a function of the user's on a thread, so that a slow one holds up nobody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ragcore.redaction import Redact, Redaction, redacted
from ragcore.resilience.threads import Threads

__all__ = ["Redacting"]

T = TypeVar("T")

# Functions that may run at once; one that hangs keeps its thread.
THREADS = 8


class Redacting:
    """Threads for functions of the user's. Their callers wait no longer than their deadlines."""

    def __init__(self) -> None:
        self._threads = Threads(THREADS, name="redacting")

    async def redacted(self, redact: Redact | None, text: str) -> str:
        """As `redaction.redacted`."""
        return await self.run(redact, lambda: redacted(redact, text))

    async def run(self, redact: Redact | None, work: Callable[[], T]) -> T:
        """The result of work that redacts."""
        if redact is None or isinstance(redact, Redaction):
            return work()
        return await self._threads.run(work)
