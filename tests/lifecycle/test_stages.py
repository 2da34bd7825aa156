"""Stages of a call, measured by the components."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from ragcore.lifecycle.stages import Stopwatch, following
from ragcore.testing import VirtualLoop


class Followed:
    def __init__(self) -> None:
        self.seen: list[tuple[str, float | None]] = []

    def on_retry(self) -> None:
        self.retries = getattr(self, "retries", 0) + 1

    def on_stage(self, stage: str, seconds: float | None) -> None:
        self.seen.append((stage, None if seconds is None else round(seconds, 6)))

    def on_embedded(self, tokens: int) -> None:
        pass


def in_virtual_time(main: Callable[[], Any]) -> None:
    anyio.run(main, backend="asyncio", backend_options={"loop_factory": VirtualLoop})


def test_the_time_of_an_inner_stage_counts_once_and_both_stopwatches_have_it() -> None:
    async def main() -> None:
        outer, inner, listener = Stopwatch(), Stopwatch(), Followed()
        with following(listener):
            with outer.measure("search"):
                await anyio.sleep(1)
                with inner.measure("rerank"):
                    await anyio.sleep(5)
                await anyio.sleep(2)
            with outer.measure("generate"):
                await anyio.sleep(4)
        timings = outer.timings()
        assert (timings.search, timings.rerank, timings.generate) == pytest.approx((3, 5, 4))
        assert inner.timings().rerank == pytest.approx(5)
        assert listener.seen == [
            ("search", None),
            ("rerank", None),
            ("rerank", 5),
            ("search", None),
            ("search", 3),
            ("generate", None),
            ("generate", 4),
        ]

    in_virtual_time(main)


def test_a_stage_that_fails_stays_the_last_one_that_began() -> None:
    async def main() -> None:
        listener = Followed()
        with following(listener), pytest.raises(ValueError):
            with Stopwatch().measure("search"), Stopwatch().measure("rerank"):
                raise ValueError
        assert [stage for stage, seconds in listener.seen if seconds is None] == ["search", "rerank"]

    in_virtual_time(main)
