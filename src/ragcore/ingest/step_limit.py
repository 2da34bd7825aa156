"""Limits the time for each step of a batch."""

from __future__ import annotations

from collections.abc import Awaitable

from ragcore.errors import DeadlineExceeded
from ragcore.protocols import Vectors
from ragcore.resilience.deadline import Deadline, deadline
from ragcore.resilience.patience import Patience

__all__ = ["StepLimit"]

# A step and its waits for a place may together take this many times the step's limit.
MOST_WAITS = 10


class StepLimit:
    """Gives each step of a batch the same number of seconds, however long the other steps took."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def step(self, steps: int = 1) -> Deadline:
        """Return a deadline for the next step, or for several steps that are measured together."""
        return deadline(self._seconds * steps)

    def is_own(self, error: DeadlineExceeded) -> bool:
        """Return whether the step reached its own limit, and not the caller's deadline."""
        return error.budget >= self._seconds

    async def embedding(self, vectors: Awaitable[Vectors]) -> Vectors:
        """Embed within the limit. The time in a queue does not count: questions of other callers go first."""
        with deadline(MOST_WAITS * self._seconds), Patience(self._seconds) as patience:
            return await vectors
        assert patience.ran_out
        raise DeadlineExceeded(
            f"a batch was not embedded within {self._seconds:g} s",
            budget=self._seconds,
            elapsed=self._seconds + patience.waited,
        )
