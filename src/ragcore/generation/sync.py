"""Turns a blocking function into a generator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from ragcore.errors import GenerationError, RagcoreError
from ragcore.generation.streams import at_once
from ragcore.lifecycle.part import Part
from ragcore.protocols import Generator
from ragcore.resilience import Policy
from ragcore.resilience.threads import Threads
from ragcore.types import Generation, Prompt

__all__ = ["from_sync"]


def from_sync(
    generate: Callable[[Prompt], str | Generation], *, threads: int = 4, policy: Policy | None = None
) -> Generator:
    """Make a generator from a blocking function.

    The function runs on its own threads, never on the event loop and never in the default executor. If the caller is cancelled, the function continues
    and its result is dropped.

    Args:
        generate: takes a prompt and returns the answer's text or a whole `Generation`. Up to `threads` threads call it at once.
        threads: number of threads, 4 by default.
        policy: None: one attempt of at most 60 s.
    """
    name = getattr(generate, "__name__", "function")
    return _SyncGenerator(
        generate,
        name,
        Threads(threads, name=name),
        policy or Policy(name, attempt_timeout=60.0, retry=False, bulkhead=False),
    )


class _SyncGenerator(Part):
    in_any_task = True

    def __init__(
        self, generate: Callable[[Prompt], str | Generation], model: str, threads: Threads, policy: Policy
    ) -> None:
        self.model = model
        self.policy = policy
        self._generate = generate
        self._threads = threads

    async def generate(self, prompt: Prompt, /) -> Generation:
        self._check_open()
        try:
            made = await self.policy.call(lambda: self._threads.run(lambda: self._generate(prompt)))
        except RagcoreError:
            raise
        except Exception as error:
            raise GenerationError(
                f"{self.model} raised {type(error).__name__}", dependency=self.model, stage="generate"
            ) from error
        if isinstance(made, Generation):
            return made
        if isinstance(made, str):
            return Generation(made, model=self.model)
        raise GenerationError(
            f"{self.model} returned {type(made).__name__}, not a str or a Generation",
            dependency=self.model,
            stage="generate",
        )

    def stream(self, prompt: Prompt, /) -> AbstractAsyncContextManager[AsyncIterator[str | Generation]]:
        return at_once(self.generate(prompt))
