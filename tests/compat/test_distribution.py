"""The distribution is `ragcore-client`: every install command names it, and another distribution called `ragcore` is reported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from ragcore.compat import distribution
from ragcore.compat.distribution import find_namesake, install_command

ROOT = Path(__file__).parents[2]


class Installed:
    """Metadata of an installed distribution."""

    def __init__(self, origin: object, installer: str = "pip\n") -> None:
        self.files = {
            "INSTALLER": installer,
            "direct_url.json": origin if isinstance(origin, str) else json.dumps(origin),
        }

    def read_text(self, name: str) -> str | None:
        return None if self.files[name] == "null" else self.files[name]


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'ragcore-client[cli,serve]'"),
        ("not JSON", "pip install 'ragcore-client[cli,serve]'"),
        (
            {"url": "file:///srv/ragcore", "dir_info": {}},
            "pip install 'ragcore-client[cli,serve] @ file:///srv/ragcore'",
        ),
        (
            {"url": "file:///srv/rag%20core", "dir_info": {"editable": True}},
            "pip install -e '/srv/rag core[cli,serve]'",
        ),
        (
            {"url": "https://git.example.com/ragcore", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'ragcore-client[cli,serve] @ git+https://git.example.com/ragcore'",
        ),
    ],
)
def test_the_install_command_names_the_origin(
    origin: dict[str, object] | str | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(origin))
    assert install_command("cli", "serve") == command


def test_the_install_command_uses_the_original_installer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(None, "uv"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert install_command("pdf") == "uv pip install 'ragcore-client[pdf]'"
    (tmp_path / "uv-receipt.toml").touch()
    assert install_command("pdf") == f"uv pip install --python '{sys.executable}' 'ragcore-client[pdf]'"


@pytest.mark.parametrize(
    "name", ["ragcore-1.0.4.dist-info", "ragcore-0.0.1-py3.11.egg-info", "Ragcore-1.0.4.dist-info"]
)
def test_another_distribution_of_the_same_name_is_found(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    assert find_namesake(["/nowhere", "", str(tmp_path)]) == str(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["ragcore_client-0.2.0.dist-info", "ragcore", "ragcore-notes.txt", "ragcore_tools-1.dist-info"]
)
def test_our_own_distribution_is_not_reported(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    assert find_namesake([str(tmp_path)]) is None


@pytest.mark.slow
def test_import_and_doctor_report_the_other_distribution(tmp_path: Path) -> None:
    (tmp_path / "ragcore-1.0.4.dist-info").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "default"}
    run = [sys.executable, "-m", "ragcore", "doctor", "--json"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert re.search(
        r"RuntimeWarning: the distribution 'ragcore' 1\.0\.4 is installed in .* Run: pip uninstall ragcore", done.stderr
    )
    (check,) = (one for one in json.loads(done.stdout)["checks"] if one["check"] == "distribution")
    assert check["status"] == "error"


# Matches an extra or a requirement of the other project: ragcore[cli], ragcore>=0.2, "pip install ragcore".
OLD = re.compile(r"(?<![\w./-])ragcore(\[[a-z]|(==|>=|~=)\d)|(pip|uv|tool|add|uninstall) (install )?ragcore(?![\w.-])")
# These files are about the other project, or about the old name.
ABOUT_THE_OTHER = {
    "src/ragcore/compat/distribution.py",
    "docs/explanation/decisions/0010-distribution-name.md",
    "docs/how-to/migrate.md",
}


def test_no_text_names_the_other_distribution_in_a_command() -> None:
    found = []
    for folder in ("src", "docs", "examples", "benchmarks", ".ci", ".github"):
        files = (
            path
            for path in (ROOT / folder).rglob("*")
            if path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".lock", ""}
        )
        found += [path for path in files if path.is_file()]
    found += [
        ROOT / name
        for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "pyproject.toml", "Makefile")
        if (ROOT / name).exists()
    ]
    said = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in found
        if str(path.relative_to(ROOT)) not in ABOUT_THE_OTHER
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if OLD.search(line)
    ]
    assert said == []
    assert OLD.search("pip install 'ragcore[cli]'")
    assert OLD.search("pip install ragcore")
    assert not OLD.search("pip install ragcore-client")


def test_the_name_is_that_of_pyproject() -> None:
    assert f'name = "{distribution.NAME}"' in (ROOT / "pyproject.toml").read_text()
