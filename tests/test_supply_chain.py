"""`make audit` reads the locks, and never reports success if its source doesn't answer."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_of_the_supply_chain", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_lock_contains_every_package_of_the_demo(audit: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.search(r"^DEMO +:= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert extras is not None
    wanted = [
        *project["dependencies"],
        *(one for name in extras[1].split() for one in project["optional-dependencies"][name]),
    ]
    names = {re.split(r"[\[<>=;! ]", one)[0].lower() for one in wanted}
    assert names <= {name for name, _ in audit.locked((ROOT / ".ci" / "demo.lock").read_text())}


@pytest.mark.parametrize("name", ["demo.lock", "weights.lock"])
def test_each_locked_package_has_a_version_and_a_hash_and_no_registry(audit: ModuleType, name: str) -> None:
    text = (ROOT / ".ci" / name).read_text()
    packages = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(packages) == len(audit.locked(text))
    assert all("--hash=sha256:" in package for package in packages)
    assert "://" not in text


def test_skipped_packages_count_as_not_checked(audit: ModuleType) -> None:
    """If pip-audit's source has no data, pip-audit exits with 0 and reports no known vulnerabilities."""
    skipped = {"dependencies": [{"name": "anyio", "skip_reason": "not found and could not be audited"}], "fixes": []}
    assert audit.judged(json.dumps(skipped)) == (0, [])
    assert audit.judged("") == (0, [])
    assert audit.judged("Traceback") == (0, [])


def test_a_vulnerability_is_reported_with_its_fix(audit: ModuleType) -> None:
    report = {
        "dependencies": [
            {"name": "a", "version": "1.0", "vulns": []},
            {
                "name": "b",
                "version": "2.0",
                "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}, {"id": "CVE-2", "fix_versions": []}],
            },
        ]
    }
    assert audit.judged(json.dumps(report)) == (
        2,
        ["b 2.0: CVE-1, fixed in 2.1", "b 2.0: CVE-2, fixed in no version yet"],
    )
