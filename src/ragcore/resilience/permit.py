"""The leave for one call that a circuit breaker gives."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

from ragcore.resilience.clock import clock

__all__ = ["Outcome", "Permit"]

Outcome: TypeAlias = Literal["success", "failure", "neutral"]


class Judge(Protocol):
    """Who hears how calls end: a circuit breaker."""

    def end(self, generation: int, began: float, outcome: Outcome, now: float, flow: str = "") -> None:
        """How a call ended."""

    def fail_after_success(self, generation: int, now: float, flow: str = "") -> None:
        """It had ended well, and failed after all."""


class Permit:
    """The leave for one call. Its end is reported once; what is reported after a change of state is ignored.

    Invariant: of a permit the breaker hears exactly once, or a probe's slot would be counted twice, or never come back.
    """

    __slots__ = ("_breaker", "_flow", "_reported", "began", "generation")

    generation: int
    began: float

    def __init__(self, breaker: Judge, generation: int, began: float, flow: str = "") -> None:
        self._breaker = breaker
        self._flow = flow
        self._reported = False
        self.generation = generation
        self.began = began

    def report(self, outcome: Outcome) -> None:
        """How the call ended; only the first report counts.

        Args:
            outcome: "success": the dependency answered. "failure": it failed. "neutral": nothing can be said of it: the caller gave up, or was
                at fault itself.
        """
        if not self._reported:
            self._reported = True
            self._breaker.end(self.generation, self.began, outcome, clock()(), self._flow)

    def success(self) -> None:
        """The dependency answered."""
        self.report("success")

    def failure(self) -> None:
        """The dependency failed."""
        self.report("failure")

    def neutral(self) -> None:
        """Nothing can be said of the dependency: the caller gave up, or was at fault itself."""
        self.report("neutral")

    def failure_after_success(self) -> None:
        """The dependency failed after it had answered well at first: a stream that broke. Decides no probe, opens a closed breaker."""
        if self._reported:
            self._breaker.fail_after_success(self.generation, clock()(), self._flow)
