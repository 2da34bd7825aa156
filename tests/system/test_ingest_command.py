"""`ragcore ingest` as a user types it: --sync, --dry-run, --yes, --query and --watch, with its own embedded database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.thorough, pytest.mark.timeout(600)]
SECONDS = 60.0


@pytest.fixture
def data() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ragcore-cli-") as folder:
        yield folder


def command(data: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    env = {**os.environ, "RAGCORE_DATA": data, "COLUMNS": "200"}
    return [sys.executable, "-m", "ragcore", "ingest", *arguments, "--tenant", "t"], env


def ingest(data: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    words, env = command(data, *arguments)
    return subprocess.run(words, capture_output=True, text=True, env=env, timeout=100, check=False)


def test_a_folder_is_kept_in_step_by_hand_and_by_watching(data: str, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(10):
        (folder / f"d{number}.md").write_text(f"The text of document {number}.")
    assert ingest(data, str(folder), "--dry-run").returncode == 2  # no database yet, and a dry run makes none
    assert ingest(data, str(folder), "--sync").stdout.startswith(
        "10 added, 0 updated, 0 unchanged, 0 failed, 0 deleted"
    )
    (folder / "d0.md").unlink()
    tried = ingest(data, str(folder), "--sync", "--dry-run")
    assert tried.stdout.splitlines() == [
        "gone: d0.md",
        "0 to add, 0 to update, 9 unchanged, 0 failed, 1 gone",
        "this was a dry run, so nothing was deleted",
    ]
    (folder / "d1.md").unlink()
    (folder / "d2.md").unlink()
    kept = ingest(data, str(folder), "--sync")
    assert (kept.returncode, "more than 20 %" in kept.stderr) == (1, True)
    report = json.loads(ingest(data, str(folder), "--sync", "--yes", "--json").stdout)
    assert (report["deleted"], len(report["gone"])) == (3, 3)

    words, env = command(data, str(folder), "--watch", "--json")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["unchanged"] == 7
        (folder / "new.md").write_text("A new document.")
        assert json.loads(watching.stdout.readline())["added"] == 1
        second = ingest(data, str(folder), "--watch")
        assert (second.returncode, "another process is synchronising" in second.stderr) == (4, True)
        watching.send_signal(signal.SIGTERM)
        watching.communicate(timeout=SECONDS)
        assert watching.returncode == 0
