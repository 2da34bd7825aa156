"""The permit that a circuit breaker gives for one call."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

from ragcore.resilience.clock import clock

__all__ = ["Outcome", "Permit"]

Outcome: TypeAlias = Literal["success", "failure", "neutral"]


class Judge(Protocol):
    """The receiver of outcomes: a circuit breaker."""

    def end(self, generation: int, began: float, outcome: Outcome, now: float, flow: str = "") -> None:
        """Report the outcome of a call."""

    def fail_after_success(self, generation: int, now: float, flow: str = "") -> None:
        """Report that a call failed after its success was reported."""


class Permit:
    """The permission for one call. Report the call's outcome once. If the breaker's state has changed since, the breaker ignores the report.

    Invariant: a permit reports to the breaker exactly once. Otherwise a probe's slot would be given back twice or never.
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
        """Report the outcome of the call. Only the first report counts.

        Args:
            outcome: "success": the dependency answered. "failure": it failed. "neutral": the call shows nothing about the dependency, because the
                caller cancelled it or was at fault.
        """
        if not self._reported:
            self._reported = True
            self._breaker.end(self.generation, self.began, outcome, clock()(), self._flow)

    def success(self) -> None:
        """Report that the dependency answered."""
        self.report("success")

    def failure(self) -> None:
        """Report that the dependency failed."""
        self.report("failure")

    def neutral(self) -> None:
        """Report that the call shows nothing about the dependency, because the caller cancelled it or was at fault."""
        self.report("neutral")

    def failure_after_success(self) -> None:
        """Report that the dependency failed after a success: a stream broke. The failure can open a closed breaker but does not decide a probe."""
        if self._reported:
            self._breaker.fail_after_success(self.generation, clock()(), self._flow)
