"""All time in these tests is virtual."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..virtual_time import anyio_backend

__all__ = ["anyio_backend"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Virtual time takes none: what takes seconds waits for something that never comes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(20))
