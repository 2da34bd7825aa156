"""The installed wheel is typed: a user's type checker checks it in its own environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from ..conftest import ROOT, outside

pytestmark = [pytest.mark.system, pytest.mark.thorough]

LEAST = 0.99


def test_the_public_interface_of_the_wheel_has_known_types(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(ROOT)], env=outside(), check=True, timeout=110)
    (wheel,) = tmp_path.glob("ragcore_client-*.whl")
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)}))
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        packed.extractall(site)
    assert "ragcore/py.typed" in names
    assert "ragcore/contrib/asgi/console.html" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
    # Use the dependencies that are installed for the tests.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    binaries = home / ("Scripts" if os.name == "nt" else "bin")
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "ragcore", "--ignoreexternal", "--outputjson"],
        cwd=tmp_path,
        env={**os.environ, "VIRTUAL_ENV": str(home), "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    report = json.loads(done.stdout)["typeCompleteness"]
    assert report["packageRootDirectory"].startswith(str(site))
    unknown = [symbol["name"] for symbol in report["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert report["completenessScore"] >= LEAST, unknown[:20]
