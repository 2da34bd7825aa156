"""A generator that is read in the reader's own task has the same guarantees as in a relay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from ragcore import ExtractiveGenerator, FallbackGenerator, Generation, GenerationError, OpenAIGenerator, Prompt
from ragcore.generation import from_sync
from ragcore.generation.source import runs_in_any_task
from ragcore.testing import FakeGenerator

pytestmark = pytest.mark.anyio


class Pieces:
    """Sends the given pieces and records the task in which it runs."""

    in_any_task = True

    def __init__(self, *pieces: Any, seconds: float = 0.0) -> None:
        self.pieces = pieces
        self.seconds = seconds
        self.tasks: set[object] = set()
        self.left = 0

    async def generate(self, prompt: Prompt, /) -> Generation:
        raise NotImplementedError

    @asynccontextmanager
    async def stream(self, prompt: Prompt, /) -> AsyncIterator[AsyncIterator[str | Generation]]:
        async def pieces() -> AsyncIterator[str | Generation]:
            for piece in self.pieces:
                self.tasks.add(anyio.get_current_task().id)
                await anyio.sleep(self.seconds)
                if isinstance(piece, Exception):
                    raise piece
                yield piece

        try:
            yield pieces()
        finally:
            self.left += 1


class Foreign(Pieces):
    """Overrides `stream` and does not declare `in_any_task` again."""

    def stream(self, prompt: Prompt, /) -> Any:
        return super().stream(prompt)


DONE = Generation("one two")


def test_ragcores_own_generators_need_no_task_and_unknown_ones_get_one() -> None:
    for generator in (
        OpenAIGenerator("m", base_url="http://localhost", api_key="k"),
        ExtractiveGenerator(),
        from_sync(lambda prompt: "text"),
        Pieces(),
    ):
        assert runs_in_any_task(generator), type(generator).__name__
    for generator in (FakeGenerator(), Foreign(), FallbackGenerator([FakeGenerator()])):
        assert not runs_in_any_task(generator), type(generator).__name__


@pytest.mark.parametrize(("kind", "tasks"), [(Pieces, True), (Foreign, False)])
async def test_a_generator_marked_for_any_task_is_read_in_the_readers_task(kind: type[Pieces], tasks: bool) -> None:
    generator = kind("one", " two", DONE)
    async with FallbackGenerator([generator, ExtractiveGenerator()]) as fallback:
        assert (await fallback.generate(Prompt("q"))).text == "one two"
    assert (generator.tasks == {anyio.get_current_task().id}) == tasks
    assert generator.left == 1


@pytest.mark.parametrize("kind", [Pieces, Foreign])
@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ((ValueError("broken"),), "the generator .* raised ValueError"),
        ((3,), "sent int, not text"),
        ((), "ended without a result"),
        ((Generation("", finish_reason="length", complete=False),), "gave no text"),
    ],
)
async def test_after_a_failure_before_the_first_piece_the_next_generator_answers(
    kind: type[Pieces], pieces: tuple[Any, ...], reason: str
) -> None:
    generator = kind(*pieces)
    async with FallbackGenerator([generator, Pieces("one two", DONE)]) as fallback:
        answer = await fallback.generate(Prompt("q"))
    assert answer.text == "one two"
    (degraded,) = answer.degraded
    with pytest.raises(GenerationError, match=reason):
        raise GenerationError(degraded.reason)
    assert generator.left == 1


@pytest.mark.parametrize("kind", [Pieces, Foreign])
async def test_a_silent_generator_counts_as_failed(kind: type[Pieces]) -> None:
    silent = kind("never", seconds=30)
    async with FallbackGenerator([silent, Pieces("one two", DONE)], first_timeout=0.05) as fallback:
        answer = await fallback.generate(Prompt("q"))
    assert answer.text == "one two"
    assert "did not begin to answer within" in answer.degraded[0].reason
    assert silent.left == 1


@pytest.mark.parametrize("kind", [Pieces, Foreign])
async def test_a_stream_may_be_entered_read_and_left_by_three_tasks(kind: type[Pieces]) -> None:
    generator = kind("one", " two", DONE)
    async with FallbackGenerator([generator]) as fallback:
        stream = fallback.stream(Prompt("q"))
        seen: list[Any] = []

        async def enter() -> None:
            seen.append(await stream.__aenter__())

        async def read() -> None:
            seen.append(await anext(seen[0]))

        async def leave() -> None:
            await stream.__aexit__(None, None, None)

        for step in (enter, read, read, leave):
            async with anyio.create_task_group() as group:
                group.start_soon(step)
    assert "".join(piece for piece in seen[1:] if isinstance(piece, str)) == "one two"
    assert generator.left == 1


@pytest.mark.parametrize("kind", [Pieces, Foreign])
async def test_a_cancelled_reader_leaves_the_generators_stream(kind: type[Pieces]) -> None:
    generator = kind("one", " two", DONE, seconds=0.02)
    async with FallbackGenerator([generator]) as fallback:
        with anyio.move_on_after(0.03):
            await fallback.generate(Prompt("q"))
        with anyio.fail_after(1):
            while not generator.left:
                await anyio.sleep(0.001)
        assert generator.left == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_by_asyncio_is_passed_on() -> None:
    generator = Pieces("one", DONE, seconds=5)
    async with FallbackGenerator([generator]) as fallback:
        task = asyncio.create_task(fallback.generate(Prompt("q")))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert generator.left == 1
