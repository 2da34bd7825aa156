"""All time in tests that take this fixture is virtual: nothing sleeps, nothing depends on how quick the machine is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio.testing
from hypothesis import settings

from ragcore.testing import VirtualLoop

# Not 0, or points in time and lengths of time could be mistaken for each other.
LATER = 7_000.0
# More examples than these are those of `make test-all`.
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
    """Virtual time takes none: what takes seconds waits for something that never comes. Many examples of a property take their time all the same."""
    in_force = settings.default or settings()
    if in_force.max_examples > MANY:
        return
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.timeout(20))
