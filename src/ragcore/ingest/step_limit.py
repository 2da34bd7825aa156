"""The time that the steps of a batch may take."""

from __future__ import annotations

from collections.abc import Awaitable

from ragcore.errors import DeadlineExceeded
from ragcore.protocols import Vectors
from ragcore.resilience.deadline import Deadline, deadline
from ragcore.resilience.patience import Patience

__all__ = ["StepLimit"]

# A step may wait for a place for so many times its own time.
MOST_WAITS = 10


class StepLimit:
    """The time of a batch's steps: each has so many seconds, whatever the others took."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def step(self, steps: int = 1) -> Deadline:
        """A deadline for the next step, or for several that can't be told apart."""
        return deadline(self._seconds * steps)

    def is_own(self, error: DeadlineExceeded) -> bool:
        """Whether a step took all of its time, rather than the caller's time having run out."""
        return error.budget >= self._seconds

    async def embedding(self, vectors: Awaitable[Vectors]) -> Vectors:
        """The step of embedding, whose time stands still while it waits for a place behind the questions of others."""
        with deadline(MOST_WAITS * self._seconds), Patience(self._seconds) as patience:
            return await vectors
        assert patience.ran_out
        raise DeadlineExceeded(
            f"a batch was not embedded within {self._seconds:g} s",
            budget=self._seconds,
            elapsed=self._seconds + patience.waited,
        )
