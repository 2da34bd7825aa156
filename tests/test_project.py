"""Files for contributors: paths that they name exist, and workflows test what the project promises."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# A reader of these pages may have these paths, although a checkout does not contain them.
ELSEWHERE = {"../shared/data", "site/", ".venv"}


def read(path: Path) -> dict[Any, Any]:
    loaded = yaml.safe_load(path.read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_paths_and_links_of_a_page_for_contributors_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    paths = set(re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:md|toml|yml))`", text)) - ELSEWHERE
    paths |= {link.partition("#")[0] for link in re.findall(r"\]\(((?!https?:)[^)]+)\)", text)}
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_the_workflow_tests_each_supported_python() -> None:
    supported = {found[1] for line in PROJECT["classifiers"] if (found := re.fullmatch(r".* :: (3\.\d+)", line))}
    tested = read(ROOT / ".github" / "workflows" / "test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert set(tested) == supported
    assert PROJECT["requires-python"] == f">={min(supported, key=lambda one: int(one[2:]))}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_few_rights_and_a_limit_on_time(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 240
        # Commands of make and pip are the same as on a contributor's machine.
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)


@pytest.mark.parametrize("target", re.findall(r"run: make ([\w-]+)", "".join(path.read_text() for path in WORKFLOWS)))
def test_a_target_that_a_workflow_makes_exists(target: str) -> None:
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_an_issue_form_asks_for_the_output_of_doctor(name: str) -> None:
    form = read(ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml")
    asked = [part["attributes"]["label"] for part in form["body"] if part["type"] == "textarea"]
    assert "Output of `ragcore doctor --json`" in asked


def test_pre_commit_uses_tools_that_the_project_installs() -> None:
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    installed = {re.split(r"[=<>\[]", one)[0] for one in groups["lint"]}
    assert {Path(hook["entry"].split()[0]).name for hook in repository["hooks"]} <= installed
