"""Simulation with seeds, on a virtual clock. The seed determines when components are slow, fail or hang, so a failing seed can be replayed exactly.

`simulate(scenario, seeds=…)` runs your own scenario; `traffic` is ragcore's own scenario. Invariants are checked during each run and at its end.

Source: FoundationDB and madsim (one seed determines everything; invariants are checked throughout; a failing seed can be replayed).
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Literal, TypeAlias

import anyio
import anyio.lowlevel

from ragcore.client.rag import RAG
from ragcore.config import Settings
from ragcore.errors import RagcoreError
from ragcore.events import Event, subscribe
from ragcore.resilience import Bulkhead, Policy, RetryPolicy, flow
from ragcore.testing.cancelling import at_rest, tasks
from ragcore.testing.fakes import FakeEmbedder, FakeGenerator, FakeStore, fake_rag
from ragcore.testing.faults import Broken, Fail, Fault, Faults, Hang, Slow
from ragcore.testing.simulated import run_seeded
from ragcore.types import Generation, Prompt

__all__ = ["TEXT", "World", "simulate"]

Condition: TypeAlias = Literal["fine", "slow", "flaky", "refusing", "dead", "breaking"]

CONDITIONS: tuple[Condition, ...] = ("fine", "slow", "flaky", "refusing", "dead", "breaking")
# The answer of the world's model.
TEXT = "This is what the documents say, word by word [1]."
# Allowed changes of a breaker's state. Closing is not listed, because reset() may close a breaker in any state.
LEGAL = {("closed", "open"), ("open", "half_open"), ("half_open", "open")}
# The share of seeds whose world has a crowd: many callers of one tenant, who overload the model.
CROWDED = 0.3
# Number of trace lines that the error of a failing seed shows.
SHOWN = 40


class World:
    """The environment of a scenario: a client with faulty components.

    Attributes:
        seed: the seed of all random choices.
        random: random generator for the scenario.
        rag: a started client of fakes.
        embedder, store, generator: components of the client; the seed determines their faults.
        trace: the events in order: (seconds, event).
        opened: dependencies whose breaker has opened, for all flows or for one flow.
        crowded: whether the model is slow and has few places, so that a crowd overloads it.
    """

    random: random.Random
    crowded: bool
    policies: list[Policy]
    embedder: FakeEmbedder
    store: FakeStore
    faults: list[_RandomFaults]

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(f"{seed}:scenario")
        self.trace: list[tuple[float, str]] = []
        self.calls = 0
        draw = random.Random(f"{seed}:policies")
        self.opened: set[str] = set()
        limit, queue = draw.choice(((1, 2), (2, 4), (8, 8), (64, 256)))
        self.crowded = random.Random(f"{seed}:crowd").random() < CROWDED
        self.policies = [
            Policy(
                name,
                timeout=30,
                attempt_timeout=draw.choice((1.0, 3.0, 5.0)),
                bulkhead=Bulkhead(2, queue=queue * 8)
                if name == "generation" and self.crowded
                else Bulkhead(limit, queue=queue),
                retry=RetryPolicy(attempts=3, backoff=0.1, max_backoff=2),
            )
            for name in ("embedding", "database", "generation")
        ]
        self.embedder = FakeEmbedder(policy=self.policies[0])
        self.store = FakeStore(policy=self.policies[1])
        self.generator: FakeGenerator = _SlowToClose(
            random.Random(f"{seed}:closing"), token_latency=draw.choice((0.0, 0.05)), policy=self.policies[2]
        )
        if self.crowded:
            self.generator.token_latency = 0.05
        self.faults = [
            _RandomFaults(random.Random(f"{seed}:{name}"), breaks=name == "generation")
            for name in ("embedding", "database", "generation")
        ]
        self.embedder.faults, self.store.faults, self.generator.faults = self.faults
        settings = Settings(watchdog=False, drain=0.5)
        self.rag: RAG = fake_rag(embedder=self.embedder, store=self.store, generator=self.generator, settings=settings)

    def log(self, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append((anyio.current_time(), what))

    def asked(self, dependency: str) -> list[tuple[float, str]]:
        """Return time and flow of each call of a dependency ("embedding", "database" or "generation")."""
        names = [policy.name for policy in self.policies]
        return self.faults[names.index(dependency)].asked

    def check_queues(self) -> None:
        """Check that no caller waits while a place is free."""
        for policy in self.policies:
            bulkhead = policy.bulkhead
            assert bulkhead is not None
            assert not bulkhead.waiting or bulkhead.inside >= bulkhead.limit, (
                f"{bulkhead.waiting} wait for {policy.name} while {bulkhead.inside} of {bulkhead.limit} places are taken"
            )

    def heal(self) -> None:
        """End all faults."""
        for one in self.faults:
            one.heal()


def simulate(
    scenario: Callable[[World], Awaitable[object]],
    /,
    *,
    seeds: Iterable[int],
    backend: Literal["asyncio", "trio"] = "asyncio",
) -> int:
    """Run a scenario once for each seed, without sockets and in virtual time.

    At every event, each run checks that breakers change state only as allowed and that the number of attempts is within its limit. At the end, it checks
    that retry budgets are consistent with the retries, that no call and no task is left, and that no place, queue place or probe is in use. A note on the
    error names the failing seed and shows the end of its trace.

    Args:
        scenario: called with a `World` whose client is started. Errors of ragcore are expected; any other error is a failure.
        seeds: whole numbers.
        backend: "asyncio" or "trio"; "trio" must be installed.

    Returns:
        The number of calls of the client.
    """
    calls = 0
    for seed in seeds:
        world = World(seed)
        try:
            run_seeded(lambda world=world: _one(scenario, world), seed=seed, backend=backend)  # type: ignore[misc]
        except BaseException as error:
            # Task groups of the scenario wrap errors in groups; raise the first failure itself.
            plain = _plain(error)
            shown = "\n".join(f"{moment:10.3f}  {what}" for moment, what in world.trace[-SHOWN:])
            name = getattr(scenario, "__name__", "scenario")
            plain.add_note(
                f"seed {seed} failed; replay it with simulate({name}, seeds=[{seed}]); end of its trace:\n{shown}"
            )
            if plain is error:
                raise
            raise plain from None
        calls += world.calls
    return calls


def _plain(error: BaseException) -> BaseException:
    """Return the first failure of a group. The trace also contains the others."""
    while isinstance(error, BaseExceptionGroup):
        error = next((inner for inner in error.exceptions if not _ours(inner)), error.exceptions[0])
    return error


def _ours(error: BaseException) -> bool:
    """Return whether the error is one of ragcore's, or a group of such errors."""
    if isinstance(error, BaseExceptionGroup):
        return all(_ours(inner) for inner in error.exceptions)
    return isinstance(error, RagcoreError)


async def _one(scenario: Callable[[World], Awaitable[object]], world: World) -> None:
    before = tasks()
    with _observed(world):
        async with world.rag as rag:
            try:
                await scenario(world)
            except (RagcoreError, BaseExceptionGroup) as error:
                if not _ours(error):
                    raise
            assert rag.inflight() == (), f"calls are still in flight: {rag.inflight()}"
            counts = rag.stats().calls
            world.calls = sum(counts.values())
    for _ in range(20):
        await anyio.lowlevel.checkpoint()
    left = tasks() - before
    assert not left, f"tasks are left: {left}"
    at_rest(*world.policies)()
    for policy in world.policies:
        _check_budget(policy)


@contextmanager
def _observed(world: World) -> Iterator[None]:
    """Record all events in the trace and check them."""
    failures: list[str] = []

    def listen(event: Event) -> None:
        data = ", ".join(
            f"{key}={value}" for key, value in event.data.items() if key not in ("elapsed", "id", "call_id")
        )
        with suppress(RuntimeError):
            world.log(f"{event.name} {event.source} {data}")
        if event.name == "breaker.open":
            world.opened.add(event.source.partition("[")[0])
        if event.name == "bulkhead.admitted":
            left, service_time = event.data["left"], event.data["service_time"]
            if left is not None and left < service_time:
                failures.append(
                    f"{event.source} admitted a call with {left:.3f} s left, although calls take {service_time:.3f} s"
                )
        before = event.data.get("before")
        state = event.name.partition(".")[2]
        if event.name in ("breaker.open", "breaker.half_open") and (before, state) not in LEGAL:
            failures.append(f"the breaker of {event.source} went from {before} to {state}")
        if event.name == "retry.attempt" and event.data["attempt"] > 3:
            failures.append(f"{event.source} made attempt {event.data['attempt']}, although the limit is 3")

    stop = subscribe(listen)
    try:
        yield
    finally:
        stop()
    assert not failures, failures[0]


def _check_budget(policy: Policy) -> None:
    snapshot = policy.snapshot()
    budget, retries, calls = snapshot["retry_budget"], snapshot["retries"], snapshot["calls"]
    assert 0 <= budget["balance"] <= budget["reserve"], f"the retry budget of {policy.name} is {budget['balance']}"
    assert retries == budget["spent"], f"{policy.name} made {retries} retries, but spent tokens for {budget['spent']}"
    assert retries <= budget["reserve"] + budget["ratio"] * calls, f"{policy.name}: {retries} retries in {calls} calls"


class _RandomFaults(Faults):
    """The faults of a dependency. A seed determines periods of different conditions. Faults that the scenario sets come first."""

    def __init__(self, draw: random.Random, *, breaks: bool) -> None:
        super().__init__()
        self._draw = draw
        self._breaks = breaks
        self.asked: list[tuple[float, str]] = []
        self._conditions: list[tuple[float, Condition]] = []
        self._healed = False
        until = 0.0
        while until < 600:
            until += draw.expovariate(1 / 8)
            self._conditions.append((until, draw.choices(CONDITIONS, weights=(6, 2, 2, 1, 1, 2 if breaks else 0))[0]))

    def heal(self) -> None:
        self._healed = True
        self._next.clear()
        self._always = None

    def condition(self) -> Condition:
        """Return the current condition."""
        if self._healed:
            return "fine"
        now = anyio.current_time()
        return next((condition for until, condition in self._conditions if now < until), "fine")

    def take(self) -> Fault | None:
        with suppress(anyio.NoEventLoopError):
            self.asked.append((anyio.current_time(), flow.current()))
        if self._next or self._always is not None:
            return super().take()
        draw = self._draw
        match self.condition():
            case "slow":
                return Slow(draw.uniform(0.5, 8))
            case "flaky" if draw.random() < 0.5:
                return Fail(draw.choice((500, 502, 503, 408, 400)))
            case "refusing":
                return Fail(429, {"retry-after": str(draw.choice((1, 3, 20)))})
            case "dead":
                return Hang()
            case "breaking" if self._breaks and draw.random() < 0.7:
                return Broken(draw.randint(0, 8), draw.choice(("reset", "clean", "idle", "endless")))
        return Slow(min(0.4, draw.lognormvariate(-3, 0.7)))


class _SlowToClose(FakeGenerator):
    """A generator whose stream sometimes takes long to close and can't be cancelled while it closes."""

    def __init__(self, draw: random.Random, *, token_latency: float, policy: Policy) -> None:
        super().__init__(TEXT, token_latency=token_latency, policy=policy)
        self._draw = draw

    @asynccontextmanager
    async def stream(self, prompt: Prompt, /) -> AsyncIterator[AsyncIterator[str | Generation]]:
        """See `FakeGenerator.stream`."""
        async with super().stream(prompt) as pieces:
            try:
                yield pieces
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(self._draw.choice((0, 0, 0, 0.1, 3)))
