"""The ladder in virtual time: its figures and its criteria."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest

from ragcore.errors import InvalidInput
from ragcore.loadtest.figures import Figures
from ragcore.loadtest.ladder import LadderOptions, climb
from ragcore.loadtest.target import Aim, Question, Reply
from ragcore.testing import VirtualLoop

pytestmark = pytest.mark.anyio
QUESTION = Question("What is my deductible?", ("$1,500",))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Bounded:
    """Answers up to a number of questions at once. If one more question arrives, neither it nor the waiting questions get an answer."""

    name = "bounded"

    def __init__(self, most: float = math.inf, *, right: bool = True) -> None:
        self._most = most
        self._right = right
        self._asking = 0

    async def ask(self, question: str, /, *, timeout: float, token: Callable[[], None]) -> Reply:
        self._asking += 1
        try:
            await anyio.sleep(0.1 if self._asking <= self._most else math.inf)
            if self._asking > self._most:
                await anyio.sleep_forever()
        finally:
            self._asking -= 1
        return Reply("It is $1,500." if self._right else "It is $50.")

    async def health(self) -> Mapping[str, Any] | None:
        return {"status": "ready"}


async def climbed(target: Bounded, **options: Any) -> Figures:
    aim = Aim(target, [QUESTION], timeout=1.0, hung_after=0.5)
    return await climb(aim, LadderOptions(levels="1,2,5,10", steady_seconds=2.0, **options), quick=True)


async def test_a_good_service_meets_every_criterion() -> None:
    figures = await climbed(Bounded())
    assert figures.failed == []
    assert [one.text for one in figures.criteria] == [
        "no hang at 5 or more at once: none of 225",
        "success 100 % (more than 95 %)",
        "success at every level, the lowest at the steady load of 10 at once: 100 % of 210 (more than 95 %)",
        "slowest answer 0.1 s (less than 30 s)",
    ]
    assert figures.values["highest_concurrency"] == 10
    assert "health before: ready" in figures.notes


async def test_a_hang_ends_the_run_and_the_levels_not_tried_are_named() -> None:
    figures = await climbed(Bounded(3))
    assert (
        figures.failed[0]
        == "no hang at 5 or more at once: 5 of 5 hung; not tried at 10, because most questions hung before"
    )
    assert figures.values["highest_concurrency"] == 2
    assert any("not tried" in note for note in figures.notes)


async def test_wrong_answers_fail_the_run_and_each_level() -> None:
    failed = (await climbed(Bounded(right=False))).failed
    assert failed[0] == "success 0 % (more than 95 %)"
    assert "success at 2 at once: 0 % of 2 (more than 50 %)" in failed
    assert failed[-1].startswith("success at the steady load of 10 at once: 0 % of")


async def test_a_run_is_invalid_if_required_memory_can_not_be_measured() -> None:
    aim = Aim(Bounded(), [QUESTION], pid=None, memory_required=True)
    figures = await climb(aim, LadderOptions(levels="1", steady_seconds=1.0), quick=True)
    assert figures.exit_code == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"levels": "1,two"}, "whole numbers"), ({"levels": "0,5"}, "at least 1"), ({"each": -1}, "can't be negative")],
)
def test_invalid_options_are_refused(options: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        LadderOptions(**options)
