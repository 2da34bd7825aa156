"""Damaged files of all formats, and many files of which some are poisoned."""

from __future__ import annotations

import tempfile
from pathlib import Path

import anyio
import psutil
import pytest
from tests.support.damage import damaged_files, poison
from tests.support.files import made_files

from ragcore import Document, Unreadable
from ragcore.ingest import read

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.blocking_allowed,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.timeout(300),
]


@pytest.mark.parametrize(("count", "seed"), [(100, 1), pytest.param(2_000, 2, marks=pytest.mark.thorough)])
async def test_each_damaged_file_is_read_or_has_a_reason(tmp_path: Path, count: int, seed: int) -> None:
    names = []
    for name, data in damaged_files(count, seed=seed):
        (tmp_path / name).write_bytes(data)
        names.append(name)
    found = [one async for one in read(tmp_path, read_timeout=20)]
    assert [one.id for one in found] == sorted(names)
    refused = [one for one in found if isinstance(one, Unreadable)]
    assert 0.2 * count < len(refused) < 0.8 * count
    assert all(len(one.reason) > 8 and "\n" not in one.reason for one in refused)
    assert not [one for one in refused if "crashed" in one.reason or "within" in one.reason]


@pytest.mark.parametrize("count", [80, pytest.param(980, marks=pytest.mark.thorough)])
@pytest.mark.slow
async def test_poisoned_files_are_reported_and_all_others_are_added(tmp_path: Path, count: int) -> None:
    files = made_files(3)
    for number in range(count):
        file = files[number % len(files)]
        (tmp_path / f"{number:04}-{file.name}").write_bytes(file.data)
    poisoned = poison(tmp_path)
    assert len(poisoned) == 20
    found = [one async for one in read(tmp_path, read_timeout=5)]
    assert sum(isinstance(one, Document) for one in found) == count
    refused = {one.id.partition(":")[0]: one.reason for one in found if isinstance(one, Unreadable)}
    assert sorted(refused) == sorted(poisoned)
    assert all(refused.values())


@pytest.mark.slow
async def test_a_run_cancelled_at_any_moment_ends_soon_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    # The test has its own folder for temporary files, because other programs on this machine may use ragcore as well.
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    poison(tmp_path / "files")
    for file in made_files(4):
        (tmp_path / "files" / file.name).write_bytes(file.data)
    for seconds in (0.0, 0.02, 0.1, 0.2, 0.3, 0.4, 0.6):
        with anyio.move_on_after(seconds):
            async for _ in read(tmp_path / "files", read_timeout=30):
                pass
        with anyio.fail_after(1):
            while any(map(_is_worker, psutil.Process().children())):
                await anyio.sleep(0.01)
    assert list(temporary.iterdir()) == []


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "ragcore.ingest.worker" in " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False
