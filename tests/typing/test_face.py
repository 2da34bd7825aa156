"""Programs that use the public interface pass the type check, and each line that must be rejected is rejected."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FACE = Path(__file__).parent / "face"
PROGRAMS = sorted(path for path in (FACE / "programs").glob("*.py") if path.name != "rejected.py")


def mypy(*paths: Path) -> str:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--cache-dir",
        str(FACE.parents[2] / ".mypy_cache" / "face"),
        *map(str, paths),
    ]
    environment = {**os.environ, "MYPYPATH": str(FACE / "stubs")}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=FACE, check=False).stdout


@pytest.mark.slow
def test_programs_type_check() -> None:
    assert len(PROGRAMS) == 8
    assert "Success" in mypy(*PROGRAMS)


def test_what_must_be_rejected_is() -> None:
    rejected = FACE / "programs" / "rejected.py"
    marked = {
        number
        for number, line in enumerate(rejected.read_text().splitlines(), start=1)
        if "  # " in line and "passes mypy" not in line
    }
    found = {int(number) for number in re.findall(r"rejected\.py:(\d+): error", mypy(rejected))}
    assert found == marked
