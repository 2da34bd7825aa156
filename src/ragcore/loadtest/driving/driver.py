"""Sends questions at a concurrency or at a rate."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import anyio

from ragcore.loadtest.driving.outcome import Kind, Outcome, judge
from ragcore.loadtest.target import HUNG_AFTER, Aim, Question, Target, TargetError

__all__ = ["Driver", "arrivals"]

PAUSE = 0.02


@dataclass
class Driver:
    """Asks a target and records the outcome of each question. Create it inside an event loop: it reads the loop's clock.

    Args:
        timeout: seconds in which each question must be answered.
        hung_after: seconds after the timeout until a question counts as hung.
        on_outcome: called with each outcome, to show progress.
    """

    target: Target
    questions: Sequence[Question]
    timeout: float = 30.0
    hung_after: float = HUNG_AFTER
    on_outcome: Callable[[Outcome], None] = lambda _: None
    outcomes: list[Outcome] = field(default_factory=list)
    began: float = field(default_factory=anyio.current_time)

    def __post_init__(self) -> None:
        self._next: Iterator[Question] = itertools.cycle(self.questions)

    @classmethod
    def of(cls, aim: Aim, *, on_outcome: Callable[[Outcome], None]) -> Driver:
        """Create a driver for an aim."""
        return cls(aim.target, aim.questions, timeout=aim.timeout, hung_after=aim.hung_after, on_outcome=on_outcome)

    def now(self) -> float:
        """Return seconds since the driver was created."""
        return anyio.current_time() - self.began

    async def at_once(self, concurrency: int, *, each: int, phase: str) -> list[Outcome]:
        """Run `concurrency` users at once; each asks `each` questions, one after the other. This is a closed loop."""
        before = len(self.outcomes)

        async def user() -> None:
            for _ in range(each):
                await self.ask(phase, due=self.now())

        async with anyio.create_task_group() as users:
            for _ in range(concurrency):
                users.start_soon(user)
        return self.outcomes[before:]

    async def users(self, concurrency: int, *, seconds: float, phase: str) -> list[Outcome]:
        """Run `concurrency` users at once for `seconds`. This is a closed loop."""
        before, until = len(self.outcomes), self.now() + seconds

        async def user() -> None:
            while self.now() < until:
                began = self.now()
                await self.ask(phase, due=began)
                # A refused question ends at once. Without a pause, this user would send nothing but questions that are refused.
                if self.now() - began < PAUSE:
                    await anyio.sleep(PAUSE if not self.outcomes[-1].ok else 0)

        async with anyio.create_task_group() as users:
            for _ in range(concurrency):
                users.start_soon(user)
        return self.outcomes[before:]

    async def at_rate(
        self, rate: float, *, seconds: float, phase: str, spacing: Literal["constant", "poisson"], seed: int
    ) -> list[Outcome]:
        """Send `rate` questions per second, whether or not earlier ones have been answered. This is an open loop.

        Latency counts from the moment at which a question should have been sent, even if it was sent later. This avoids coordinated omission, which
        hides waiting time (G. Tene, "How NOT to measure latency").
        """
        before, began = len(self.outcomes), self.now()
        async with anyio.create_task_group() as group:
            for offset in arrivals(rate, seconds=seconds, spacing=spacing, seed=seed):
                wait = began + offset - self.now()
                if wait > 0:
                    await anyio.sleep(wait)
                group.start_soon(self.ask, phase, began + offset)
        return self.outcomes[before:]

    async def ask(self, phase: str, due: float) -> None:
        """Ask the next question and record its outcome. Raises nothing except cancellation."""
        question = next(self._next)
        started = self.now()
        tokens, first, last, pause = 0, math.nan, math.nan, 0.0

        def token() -> None:
            nonlocal tokens, first, last, pause
            now = self.now()
            if tokens == 0:
                first = now
            else:
                pause = max(pause, now - last)
            last = now
            tokens += 1

        kind: Kind = "hung"
        status, detail = None, f"no answer {self.hung_after:g} s after the timeout of {self.timeout:g} s"
        with anyio.move_on_after(self.timeout + self.hung_after):
            try:
                reply = await self.target.ask(question.text, timeout=self.timeout, token=token)
            except TargetError as error:
                kind, status, detail = error.kind, error.status, str(error)
            except Exception as error:  # the run must go on, whatever a response causes
                kind, detail = "protocol", f"{type(error).__name__}: {error}"
            else:
                kind, detail = judge(question, reply), ""
                if kind != "right":
                    detail = f"answered: {reply.text[:200]}"
                if self.now() - started > self.timeout:
                    kind, detail = "late", f"answered after the timeout of {self.timeout:g} s"
        outcome = Outcome(
            phase=phase,
            question=question.text,
            due=due,
            started=started,
            first_token=first if tokens else None,
            last_token=last if tokens else None,
            ended=self.now(),
            kind=kind,
            status=status,
            tokens=tokens,
            longest_pause=pause if tokens > 1 else None,
            detail=detail,
        )
        self.outcomes.append(outcome)
        self.on_outcome(outcome)


def arrivals(
    rate: float, *, seconds: float, spacing: Literal["constant", "poisson"] = "poisson", seed: int = 0
) -> Iterator[float]:
    """Yield the moments at which questions are due, in seconds from the beginning: evenly spaced, or a Poisson process of this rate."""
    draw = random.Random(seed)
    due = 0.0 if spacing == "constant" else draw.expovariate(rate)
    for number in itertools.count(1):
        if due >= seconds:
            return
        yield due
        due = number / rate if spacing == "constant" else due + draw.expovariate(rate)
