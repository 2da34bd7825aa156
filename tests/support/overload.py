"""Asks more questions than a model can answer, in virtual time. Each cell of a grid is compared with a scheduler that knows the future."""

from __future__ import annotations

import gc
import heapq
import math
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import anyio

from ragcore import ExtractiveGenerator, FallbackGenerator, Generation, Overloaded, Passage, Prompt, RagcoreError
from ragcore.client.answering import RESERVE_SECONDS, RESERVE_SHARE
from ragcore.lifecycle.part import Part
from ragcore.resilience import Bulkhead, Policy, deadline, flow
from ragcore.resilience.deadline import reserve
from ragcore.resilience.fair_queue import FairQueue
from ragcore.resilience.waiter import Flow, Waiter
from ragcore.testing.virtual import VirtualLoop

__all__ = ["BACK_AFTER", "Asked", "Cell", "Model", "Outcome", "clairvoyant", "grid", "is_false", "run_cell"]

Loop: TypeAlias = Literal["open", "closed"]
Order: TypeAlias = Literal["adaptive", "deadline"]
Ending: TypeAlias = Literal["good", "shed", "other"]

SLOTS = (1, 4, 16, 64)
SERVICES = (0.1, 0.5, 3.0)
LONG_QUEUE = 256
TIMEOUTS = (5.0, 30.0)
LOADS = (0.5, 1.0, 2.0, 4.0, 10.0, 50.0)
# The first token comes after this share of the service time. In the row FIRST_AT_ONCE (slots, service time) it comes at the end of the service time.
FIRST_SHARE = 0.1
FIRST_AT_ONCE = (4, 0.5)
# A first token may take at most this many seconds, and this share of the remaining time.
FIRST_TIMEOUT, FIRST_TIMEOUT_SHARE = 10.0, 0.4
# Seconds that a refused caller in a closed loop waits before it asks again.
BACK_AFTER = 0.1
# A cell lasts for at least this many service times and this many answers, and until the callers in the queue have changed this many times.
LEAST_SERVICES, LEAST_ANSWERS, TURNS = 10, 200, 3
# A cell with more questions than this is shortened, but to no less than this many service times.
HEAVY_QUESTIONS, HEAVY_SERVICES = 12_000, 2
PROMPT = Prompt("What is my deductible?", passages=(Passage("c", "d", "Your deductible is $1,500."),))
# If an estimated service time differs from the real one by more than this share, a refusal that states the estimate is false.
ESTIMATE = 0.5


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of parameters.

    Attributes:
        service: seconds for an answer.
        first: share of the service time after which the first token comes.
        load: questions as a multiple of the model's capacity; in a closed loop, callers as a multiple of the slots.
        spread: the service times are drawn from service × [1 - spread, 1 + spread].
        order: order within a flow: the order of ragcore, or earliest deadline first for comparison.
        given_seconds: the number of seconds for which questions come; 0: the cell computes it.
    """

    slots: int
    service: float
    queue: int
    timeout: float
    load: float
    loop: Loop
    first: float = FIRST_SHARE
    spread: float = 0.0
    order: Order = "adaptive"
    seed: int = 0
    given_seconds: float = 0.0

    @property
    def reserve(self) -> float:
        """Seconds that RAG reserves for quotation."""
        return min(RESERVE_SECONDS, RESERVE_SHARE * self.timeout)

    @property
    def why_not(self) -> str:
        """The reason why even a single question can't be answered; "" if it can."""
        if self.service + self.reserve > self.timeout:
            return "service and reserve exceed the timeout"
        limit = min(FIRST_TIMEOUT, FIRST_TIMEOUT_SHARE * (self.timeout - self.reserve))
        return "the first token comes after its limit" if self.first * self.service > limit else ""

    @property
    def callers(self) -> int:
        """Number of callers in a closed loop."""
        return max(1, round(self.load * self.slots))

    @property
    def rate(self) -> float:
        """Questions a second in an open loop."""
        return self.load * self.slots / self.service

    @property
    def seconds(self) -> float:
        """The number of seconds for which questions come. It is so long that the start does not matter."""
        if self.given_seconds:
            return self.given_seconds
        turn = min(self.timeout, self.queue * self.service / self.slots + self.service)
        wanted = max(LEAST_SERVICES * self.service, LEAST_ANSWERS * self.service / self.slots, TURNS * turn)
        return min(wanted, max(HEAVY_SERVICES * self.service, HEAVY_QUESTIONS / self.questions_per_second))

    @property
    def questions_per_second(self) -> float:
        """The largest rate of questions. In a closed loop, refused callers soon ask again."""
        return self.rate if self.loop == "open" else self.callers / min(BACK_AFTER, self.service)


def grid() -> list[Cell]:
    """Return all cells, including those in which not even a single question can be answered."""
    shapes = [(slots, service, FIRST_SHARE) for slots in SLOTS for service in SERVICES]
    shapes.append((*FIRST_AT_ONCE, 1.0))
    return [
        Cell(slots, service, queue, timeout, load, loop, first)
        for slots, service, first in shapes
        for queue in (slots, LONG_QUEUE)
        for timeout in TIMEOUTS
        for load in LOADS
        for loop in ("open", "closed")
    ]


@dataclass(slots=True)
class Asked:
    """The outcome of one question.

    Attributes:
        at: the time at which it was asked.
        service: seconds that its answer takes.
        late: seconds from the last moment at which it could still be answered to its refusal.
        false: the reported reason, if that reason is not true.
    """

    at: float
    service: float
    ending: Ending = "other"
    took: float = 0.0
    late: float = 0.0
    false: str = ""


@dataclass
class Outcome:
    """The outcome of a cell.

    Attributes:
        ratio: good answers divided by those of a scheduler that knows the future.
    """

    cell: Cell
    asked: int = 0
    good: int = 0
    best: int = 0
    ratio: float = 0.0
    late: list[float] = field(default_factory=list)
    false: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, cell: Cell, asked: Sequence[Asked]) -> Outcome:
        """Judge a cell. After the last question the load falls, so answers that arrive later count neither for ragcore nor for the ideal scheduler."""
        good = sum(one.ending == "good" and one.at + one.took <= cell.seconds + 1e-9 for one in asked)
        best = clairvoyant(cell, asked)
        # In a closed loop, callers would ask more often if the ideal scheduler answered them. So count the answers that the slots could give.
        if cell.loop == "closed":
            best = max(best, min(cell.callers, cell.slots) * math.floor(cell.seconds / cell.service))
        return cls(
            cell=cell,
            asked=len(asked),
            good=good,
            best=best,
            ratio=good / best if best else 1.0,
            late=[one.late for one in asked if one.ending == "shed"],
            false=[one.false for one in asked if one.false],
        )


def run_cell(cell: Cell) -> Outcome:
    """Run a cell on the virtual clock."""
    # With thousands of tasks, garbage collection would take a third of the time.
    gc.set_threshold(200_000, 50, 100)
    asked = anyio.run(_run, cell, backend_options={"loop_factory": VirtualLoop})
    return Outcome.of(cell, asked)


class Model(Part):
    """A model with a number of slots. Further requests wait at the model.

    Args:
        fails: the flow whose requests it answers with status 500.
    """

    model = "simulated"

    def __init__(self, cell: Cell, policy: Policy, *, fails: str | None = None) -> None:
        self.policy = policy
        self._cell = cell
        self._draw = random.Random(f"{cell.seed}:service")
        self._slots = anyio.Semaphore(cell.slots)
        self._fails = fails

    def draw(self) -> float:
        """Draw the service time of one answer."""
        spread = self._cell.spread
        return self._cell.service * (self._draw.uniform(1 - spread, 1 + spread) if spread else 1.0)

    async def generate(self, prompt: Prompt, /) -> Generation:
        """Not used: the client only streams."""
        raise NotImplementedError

    @asynccontextmanager
    async def stream(self, prompt: Prompt, /) -> AsyncIterator[AsyncIterator[str | Generation]]:
        """Send a word at the time of the first token, and the rest after the service time."""
        async with self.policy.hold() as held:
            async with aclosing(held.items(self._pieces(self.draw()))) as pieces:
                yield pieces

    async def _pieces(self, service: float) -> AsyncGenerator[str | Generation, None]:
        async with self._slots:
            first = self._cell.first * service
            await anyio.sleep(first)
            if self._fails is not None and flow.current() == self._fails:
                raise OSError("500")
            yield "word"
            if service > first:
                await anyio.sleep(service - first)
            yield Generation("word", model=self.model)


class _EarliestDeadlineFirst(FairQueue):
    """A queue for comparison. Of the callers that can still be served, it picks the one with the earliest deadline."""

    def _pick(self, flow: Flow) -> Waiter:
        return min(flow.waiting, key=lambda waiter: waiter.when)

    def _refuse_hopeless(self, flow: Flow, now: float) -> None:
        """Drop no caller before its own deadline."""


async def _run(cell: Cell) -> list[Asked]:
    bulkhead = Bulkhead(cell.slots, queue=cell.queue)
    if cell.order != "adaptive":
        bulkhead.line = _EarliestDeadlineFirst(bulkhead._places, most=cell.queue)
    policy = Policy("generation", bulkhead=bulkhead, retry=False)
    model = Model(cell, policy)
    asked: list[Asked] = []

    async def ask() -> Ending:
        began = anyio.current_time()
        one = Asked(began, cell.service)
        asked.append(one)
        try:
            with deadline(cell.timeout), reserve(RESERVE_SECONDS, share=RESERVE_SHARE):
                answer = await generator.generate(PROMPT)
        except Overloaded as error:
            one.ending = "shed"
            hopeless = max(began, began + cell.timeout - cell.reserve - cell.service)
            one.late = max(0.0, anyio.current_time() - hopeless)
            one.false = is_false(str(error), cell, anyio.current_time() - began)
        except RagcoreError:
            pass
        else:
            one.ending = "other" if answer.degraded else "good"
            # The model works and answers within all limits, so every reported failure of the model is false.
            one.false = answer.degraded[0].reason if answer.degraded else ""
        one.took = anyio.current_time() - began
        return one.ending

    async def loop(end: float) -> None:
        while anyio.current_time() < end:
            if await ask() == "shed":
                await anyio.sleep(BACK_AFTER)

    async with FallbackGenerator([model, ExtractiveGenerator()]) as generator, anyio.create_task_group() as group:
        end = anyio.current_time() + cell.seconds
        if cell.loop == "closed":
            for _ in range(cell.callers):
                group.start_soon(loop, end)
        else:
            draw = random.Random(f"{cell.seed}:arrivals")
            due = anyio.current_time() + draw.expovariate(cell.rate)
            while due < end:
                await anyio.sleep_until(due)
                group.start_soon(ask)
                due += draw.expovariate(cell.rate)
    return asked


def clairvoyant(cell: Cell, asked: Sequence[Asked]) -> int:
    """Count the questions that a scheduler could have answered in time if it knew all of them in advance, with the same slots and queue.

    It serves the earliest deadline first among the questions that can still be answered. If the queue is full, it drops the question with the earliest
    deadline. With equal service times, no schedule has more answers: in any schedule, each answer can be exchanged for one with an earlier deadline.
    """
    free = [0.0] * cell.slots
    heapq.heapify(free)
    queue: list[tuple[float, float]] = []
    good = 0

    def serve(until: float) -> int:
        answered = 0
        while queue and free[0] <= until:
            when, service = heapq.heappop(queue)
            done = free[0] + service
            if done > when + 1e-9:
                continue
            heapq.heapreplace(free, done)
            answered += done <= cell.seconds + 1e-9
        return answered

    for one in sorted(asked, key=lambda one: one.at):
        good += serve(one.at)
        if free[0] < one.at:
            heapq.heapreplace(free, one.at)
            while free[0] < one.at:
                heapq.heapreplace(free, one.at)
        heapq.heappush(queue, (one.at + cell.timeout - cell.reserve, one.service))
        good += serve(one.at)
        if len(queue) > cell.queue:
            heapq.heappop(queue)
    return good + serve(math.inf)


_WAITED = re.compile(r"no place within ([\d.]+) s; (\d+) callers? w(?:as|ere) waiting( and the queue was full)?")
_LEFT = re.compile(r"recent calls took ([\d.]+) s and only ([\d.]+) s are left")
_FULL = re.compile(r"concurrency limit and queue are full \((\d+) running, (\d+) waiting\)")


def is_false(reason: str, cell: Cell, elapsed: float) -> str:
    """Return the reason of a refusal if it is false; "" if it is true.

    Args:
        elapsed: seconds between the question and the refusal.
    """
    rounding = 0.05 + 0.1 * elapsed
    if found := _WAITED.search(reason):
        waited, waiting, full = float(found[1]), int(found[2]), found[3]
        true = waited <= elapsed + rounding and 1 <= waiting <= cell.queue and (not full or waiting == cell.queue)
    elif found := _LEFT.search(reason):
        service, left = float(found[1]), float(found[2])
        true = left <= cell.timeout - cell.reserve and abs(service - cell.service) <= ESTIMATE * cell.service + 0.05
    elif found := _FULL.search(reason):
        true = int(found[1]) == cell.slots and int(found[2]) == cell.queue
    else:
        true = False
    return "" if true else reason
