from __future__ import annotations

import os
from pathlib import Path

import pytest

from ragcore.loadtest.driving import monitor
from ragcore.loadtest.driving.monitor import cpu_seconds, resident_mb


def test_memory_and_cpu_time_of_a_process_are_measured() -> None:
    assert (resident_mb(os.getpid()) or 0) > 1
    assert (cpu_seconds(os.getpid()) or 0) > 0


def test_a_process_that_does_not_exist_has_no_measurements() -> None:
    assert resident_mb(2**22 + 1) is None
    assert cpu_seconds(0) is None


def test_psutil_measures_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(monitor, "PROC", tmp_path / "proc")
    assert (resident_mb(os.getpid()) or 0) > 1
    assert (cpu_seconds(os.getpid()) or 0) > 0
    assert resident_mb(2**22 + 1) is None
