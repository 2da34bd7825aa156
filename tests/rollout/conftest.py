"""These tests run in virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..virtual_time import anyio_backend, within_seconds

__all__ = ["anyio_backend"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    within_seconds(items, Path(__file__).parent)
