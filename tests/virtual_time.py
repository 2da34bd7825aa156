"""All time in tests that take this fixture is virtual: nothing sleeps, nothing depends on how quick the machine is."""

from __future__ import annotations

from typing import Any

import pytest
import trio.testing

from ragcore.testing import VirtualLoop

# Not 0, or points in time and lengths of time could be mistaken for each other.
LATER = 7_000.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    if request.param == "trio":
        clock = trio.testing.MockClock(autojump_threshold=0)
        clock.jump(LATER)
        return "trio", {"clock": clock}
    return "asyncio", {"loop_factory": _later}


def _later() -> VirtualLoop:
    loop = VirtualLoop()
    loop.jump(LATER)
    return loop
