"""The simulation succeeds for many seeds, can be replayed exactly, and finds bugs that are planted in the client."""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import anyio
import pytest

import ragcore
from ragcore import Document, Found, Query, RagcoreError
from ragcore.generation import fallback
from ragcore.resilience import CircuitBreaker
from ragcore.resilience.attempt import Attempt
from ragcore.resilience.call import Call
from ragcore.retrieval.passage_search import PassageSearch
from ragcore.testing import World, simulate, traffic

MOST_SEEDS = 1_000


@pytest.mark.slow
@pytest.mark.blocking_allowed  # it has event loops of its own, and looking for blocking calls doubles its time
@pytest.mark.parametrize("seeds", [range(20), pytest.param(range(20, 500), marks=pytest.mark.thorough)])
@pytest.mark.timeout(900)
def test_seeds_pass(seeds: range) -> None:
    assert simulate(traffic, seeds=seeds) > 20 * len(seeds)


@pytest.mark.slow
@pytest.mark.blocking_allowed
@pytest.mark.parametrize("seeds", [range(10), pytest.param(range(10, 100), marks=pytest.mark.thorough)])
@pytest.mark.timeout(900)
def test_seeds_pass_on_trio_too(seeds: range) -> None:
    assert simulate(traffic, seeds=seeds, backend="trio") > 20 * len(seeds)


@pytest.mark.parametrize("seed", [7, 11])
def test_equal_seeds_give_equal_traces(seed: int) -> None:
    traces: list[list[tuple[float, str]]] = []

    async def traced(world: World) -> None:
        await traffic(world)
        traces.append(world.trace)

    simulate(traced, seeds=[seed, seed, seed])
    assert traces[0] == traces[1] == traces[2]
    assert len(traces[0]) > 100


def test_different_seeds_give_different_traces() -> None:
    lengths: set[int] = set()

    async def traced(world: World) -> None:
        await traffic(world)
        lengths.add(len(world.trace))

    simulate(traced, seeds=range(10))
    assert len(lengths) > 5


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_error_of_a_failing_seed_names_the_seed_and_shows_the_end_of_its_trace(
    backend: Literal["asyncio", "trio"],
) -> None:
    async def fails_at_three(world: World) -> None:
        await anyio.sleep(5)
        world.log("about to fail")
        assert world.seed != 3, "planted"

    with pytest.raises(AssertionError, match="planted") as caught:
        simulate(fails_at_three, seeds=range(10), backend=backend)
    note = caught.value.__notes__[0]
    assert "replay it with simulate(fails_at_three, seeds=[3])" in note
    assert "about to fail" in note.splitlines()[-1]


def test_a_custom_scenario_may_set_faults_and_raise_ragcores_errors() -> None:
    asked = 0

    async def scenario(world: World) -> None:
        nonlocal asked
        world.heal()
        await world.rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
        world.store.faults.next(ragcore.testing.Fail(500), ragcore.testing.Fail(500), ragcore.testing.Fail(500))
        try:
            await world.rag.ask("What is my deductible?", tenant="m", timeout=5)
        except RagcoreError:
            asked += 1
        raise ragcore.NotOpen("errors of ragcore are expected")

    simulate(scenario, seeds=range(5))
    assert asked == 5


# ---- planted bugs ------------------------------------------------------------------------------------------------------


@contextmanager
def patched(target: object, name: str, value: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, value)
        yield


def permit_not_released() -> Any:
    end = Attempt.end

    def keeps_it(self: Attempt, outcome: Any, now: float) -> None:
        if outcome == "neutral":
            self.ended = True
        end(self, outcome, now)

    return patched(Attempt, "end", keeps_it)


@contextmanager
def no_deadline_inherited() -> Iterator[None]:
    module = importlib.import_module("ragcore.resilience.deadline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "expires_at", lambda: float("inf"))
        patch.setattr(Call, "when", property(lambda call: call.began + call.dependency.timeout))
        yield


def probe_slot_lost() -> Any:
    end = CircuitBreaker.end

    def loses_it(self: CircuitBreaker, generation: int, began: float, outcome: Any, now: float) -> None:
        if outcome == "neutral" and self._state == "half_open" and generation == self._generation:
            return
        end(self, generation, began, outcome, now)

    return patched(CircuitBreaker, "end", loses_it)


def flight_shared_across_tenants() -> Any:
    search = PassageSearch.search
    flights: dict[str, tuple[anyio.Event, list[Found]]] = {}

    async def shares(self: PassageSearch, query: Query) -> Found:
        flying = flights.get(query.question)
        if flying is not None:
            await flying[0].wait()
            if flying[1]:
                return flying[1][0]
        flight = flights[query.question] = anyio.Event(), []
        try:
            found = await search(self, query)
            flight[1].append(found)
            return found
        finally:
            flights.pop(query.question, None)
            flight[0].set()

    return patched(PassageSearch, "search", shares)


def retry_after_the_first_token() -> Any:
    resumed = fallback._Resumed

    async def begins_again(first: Any, relay: Any, failed: Any) -> AsyncGenerator[Any, None]:
        try:
            async for piece in resumed(first, relay, failed):
                yield piece
        except RagcoreError:
            quoted = await ragcore.ExtractiveGenerator().generate(relay._prompt)
            yield quoted.text
            yield quoted

    return patched(fallback, "_Resumed", begins_again)


@contextmanager
def clean_up_unbounded() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("generation.relay", "client.stream", "resilience.hold", "lifecycle.owner"):
            module = importlib.import_module(f"ragcore.{name}")
            patch.setattr(module, "cleaning_up", lambda: anyio.CancelScope(shield=True))
        yield


BUGS: dict[str, tuple[Callable[[], Any], str]] = {
    "permit not released": (permit_not_released, "not at rest|not answered|could not be added|still degraded"),
    "deadline not inherited": (no_deadline_inherited, "not answered, although it was possible|after it was due"),
    "probe slot lost": (probe_slot_lost, "probes_out|still degraded|not answered|could not be added"),
    "flight shared across tenants": (flight_shared_across_tenants, "was shown"),
    "retry after the first token": (retry_after_the_first_token, "shown|another text|neither the model's"),
    "clean-up unbounded": (clean_up_unbounded, "after it was due"),
}


@pytest.mark.system
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    plant, message = BUGS[bug]
    with plant(), pytest.raises(AssertionError, match=message) as caught:
        for seed in range(MOST_SEEDS):
            simulate(traffic, seeds=[seed])
    assert "replay it with" in caught.value.__notes__[0]


def test_faults_of_the_scenario_come_first_even_if_they_are_none() -> None:
    async def scenario(world: World) -> None:
        for one in world.faults:
            one.next(*[None] * 50)
        await world.rag.add([Document("d", "Your deductible is $1,500.")], tenant="m")
        answer = await world.rag.ask("What is my deductible?", tenant="m", timeout=5)
        assert not answer.degraded

    simulate(scenario, seeds=range(100))


def test_a_group_of_ragcores_errors_does_not_fail_the_simulation() -> None:
    failed = 0

    async def scenario(world: World) -> None:
        async def fails() -> None:
            nonlocal failed
            failed += 1
            raise ragcore.NotOpen("planted")

        async with anyio.create_task_group() as group:
            group.start_soon(fails)
            group.start_soon(fails)

    simulate(scenario, seeds=[1])
    assert failed == 2


def test_a_nested_simulation_is_refused_and_the_outer_one_continues() -> None:
    refused = 0

    async def inner(world: World) -> None:
        """Do nothing."""

    async def outer(world: World) -> None:
        nonlocal refused
        try:
            simulate(inner, seeds=[1])
        except RuntimeError as error:
            refused += "one at a time" in str(error)

    simulate(outer, seeds=[1, 2])
    assert refused == 2
