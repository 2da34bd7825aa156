"""A fixture for virtual time: tests never sleep, and their results don't depend on the machine's speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio.testing
from hypothesis import settings

from ragcore.testing import VirtualLoop

# Not 0, so that a test fails if a point in time is confused with a length of time.
LATER = 7_000.0
# Only `make test-all` has more examples than this.
MANY = 100


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


def within_seconds(items: list[pytest.Item], folder: Path) -> None:
    """Limit each test to 20 real seconds. Virtual time takes no real time, so a longer test hangs. Runs with many examples have no limit."""
    in_force = settings.default or settings()
    if in_force.max_examples > MANY:
        return
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.timeout(20))
