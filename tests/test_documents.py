"""README, changelog and reference say what the code says, and their code runs."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ragcore

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Type aliases are explained in words.
ALIASES = {
    "Mode",
    "Kind",
    "Scalar",
    "StreamEvent",
    "Vector",
    "Vectors",
    "On",
    "State",
    "Aim",
    "Fault",
    "Listener",
    "ASGIApp",
    "Authenticate",
    "Message",
}
PACKAGES = (
    "resilience",
    "store",
    "embedding",
    "generation",
    "ingest",
    "events",
    "explore",
    "blocking",
    "testing",
    "contrib.asgi",
)


def documented() -> dict[str, set[str]]:
    """Public name by the object that a reference page shows."""
    found: dict[str, set[str]] = {}
    for page in (DOCS / "reference").glob("*.md"):
        for target in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE):
            found.setdefault(target.rpartition(".")[2], set()).add(target)
    return found


def test_the_reference_has_every_public_name() -> None:
    found = documented()
    errors = set(ragcore.errors.__all__)  # one page shows the whole module
    assert set(ragcore.__all__) - ALIASES - errors - set(found) == set()
    for package in PACKAGES:
        names = set(importlib.import_module(f"ragcore.{package}").__all__)
        assert names - ALIASES - errors - set(found) == set(), package


def test_every_event_is_documented() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    emitted = set(re.findall(r'emit\(\s*"([\w.]+)"', source))
    page = (DOCS / "reference" / "events.md").read_text()
    assert {name for name in emitted if f"`{name}`" not in page} == set()


def test_every_variable_is_documented() -> None:
    from ragcore.config import COMMAND_LINE_VARIABLES, OWN, SETTINGS

    page = (DOCS / "reference" / "configuration.md").read_text()
    assert {name for name in (*OWN, *SETTINGS, *COMMAND_LINE_VARIABLES) if name not in page} == set()


def test_the_changelog_is_for_users_and_ends_at_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## Unreleased$", text, re.MULTILINE)
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    assert all(line.split()[1] in ("Added", "Changed", "Fixed", "Removed") for line in lines)
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{ragcore.__version__}"' in project
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", text, re.MULTILINE)
    assert not versions or versions[0] == ragcore.__version__


def blocks(path: Path) -> list[str]:
    """The Python in a page; a file of a service is run by tests/system/test_frameworks.py."""
    found = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    return [block for block in found if not block.startswith("# service.py")]


PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCKS = [
    (page.relative_to(ROOT).as_posix(), number, block) for page in PAGES for number, block in enumerate(blocks(page))
]


@pytest.mark.system
@pytest.mark.parametrize(("page", "number", "block"), BLOCKS, ids=[f"{page}-{number}" for page, number, _ in BLOCKS])
def test_python_in_the_documents_runs(page: str, number: int, block: str, tmp_path: Path) -> None:
    if "def test_" in block:
        (tmp_path / "test_block.py").write_text(block)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_block.py"]
    else:
        command = [sys.executable, "-c", block]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_examples_in_docstrings_hold() -> None:
    import doctest

    plain = ["secret", "events", "filters", "tokens", "words", "generation.prompt"]
    machinery = [f"resilience.{name}" for name in ("deadline", "failure", "bulkhead", "single_flight", "policy")]
    for name in plain + machinery:
        result = doctest.testmod(importlib.import_module(f"ragcore.{name}"))
        assert result.attempted
        assert result.failed == 0
