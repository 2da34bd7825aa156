from __future__ import annotations

import os
from pathlib import Path

import pytest

from ragcore.loadtest.driving import monitor
from ragcore.loadtest.driving.monitor import cpu_seconds, resident_mb


def test_a_process_of_this_machine_tells_its_memory_and_its_processor_time() -> None:
    assert (resident_mb(os.getpid()) or 0) > 1
    assert (cpu_seconds(os.getpid()) or 0) > 0


def test_a_process_that_is_not_there_tells_nothing() -> None:
    assert resident_mb(2**22 + 1) is None
    assert cpu_seconds(0) is None


def test_without_proc_psutil_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(monitor, "PROC", tmp_path / "proc")
    assert (resident_mb(os.getpid()) or 0) > 1
    assert (cpu_seconds(os.getpid()) or 0) > 0
    assert resident_mb(2**22 + 1) is None
