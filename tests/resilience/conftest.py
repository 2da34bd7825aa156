"""These tests run in virtual time."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from ..virtual_time import anyio_backend, within_seconds

__all__ = ["Clock", "Flaky", "anyio_backend"]


class Flaky:
    """Raises these errors, one per call, and then answers."""

    def __init__(self, *errors: Exception, seconds: float = 0.0) -> None:
        self.errors = list(errors)
        self.seconds = seconds
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        await (anyio.sleep(self.seconds) if self.seconds else anyio.lowlevel.checkpoint())
        if self.errors:
            raise self.errors.pop(0)
        return "ok"


class Clock:
    """A clock for tests of code that never waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(anyio, "current_time", made)
    return made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    within_seconds(items, Path(__file__).parent)
