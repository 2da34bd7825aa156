"""Sides of rollouts for the tests: functions that behave as told."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import anyio

from ragcore import DeadlineExceeded, GenerationError

Behaviour: TypeAlias = Literal["answers", "fails", "late", "hangs", "ignores"]


class Function:
    """A side that answers with its name.

    Attributes:
        behaviour: "answers" after `seconds`; "fails" after them; "late": respects its time limit; "hangs": waits forever; "ignores": waits forever and
            ignores its cancellation, until `release` is set.
        calls: (tenant, time limit) of each call.
        under_way: calls that have not ended.
    """

    def __init__(
        self, name: str, behaviour: Behaviour = "answers", *, seconds: float = 0.1, answer: Any = None
    ) -> None:
        self.name = name
        self.behaviour = behaviour
        self.seconds = seconds
        self.answer = name if answer is None else answer
        self.calls: list[tuple[str, float]] = []
        self.under_way = 0
        self.release = anyio.Event()

    async def __call__(self, question: str, *, tenant: str, timeout: float, **_: object) -> Any:
        self.calls.append((tenant, timeout))
        self.under_way += 1
        try:
            return await self._behave(timeout)
        finally:
            self.under_way -= 1

    async def _behave(self, timeout: float) -> Any:
        match self.behaviour:
            case "fails":
                await anyio.sleep(self.seconds)
                raise GenerationError(f"{self.name} failed")
            case "late":
                await anyio.sleep(timeout)
                raise DeadlineExceeded("late", budget=timeout, elapsed=timeout)
            case "hangs":
                await anyio.sleep_forever()
            case "ignores":
                while not self.release.is_set():
                    with anyio.CancelScope(shield=True):
                        await self.release.wait()
            case "answers":
                await anyio.sleep(self.seconds)
        return self.answer
