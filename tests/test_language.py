"""The English of the project: words that the glossary replaces don't come back, and spelling is checked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "docs", "examples", "benchmarks", ".github")
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
TEXT = {".py", ".md", ".sql", ".toml", ".yml", ".yaml", ".css", ".html"}
# These files are data: the documents of the demo use words of another field, and the lists of words are in many languages.
ELSEWHERE = ("src/ragcore/demo/", "src/ragcore/text/languages/")

# Maps a pattern to the words to use instead. Each pattern made a sentence of this project hard to read. docs/reference/glossary.md lists the right words.
INSTEAD = {
    r"can't be had|cannot be had": "is not available",
    r"\b(is|are|was|were) told\b": "is reported, is configured",
    r"\bnobody\b": "no caller, no one",
    r"\bwhoever\b": "the person who, the caller that",
    r"\bone's (own )?\b": "your, its",
    r"\bin vain\b": "without success",
    r"\banew\b": "again",
    r"\bas one likes\b": "optional",
    r"\bno more\b(?! (than|often))": "no longer",
    r"\bwho asks\b": "the caller",
    r"\bwhose it is\b": "its owner",
    r"\bwins? no time\b": "does not extend the timeout",
    r"\bmust not strike\b": "is cancelled",
    r"\bfor want of\b": "because there is no",
    r"\bblack hole\b": "a server that never responds",
    r"\bcomes? of it\b": "results",
    r"\b(is|are) heard\b": "is logged",
    r"\bfor ever\b": "forever",
    r"\bwhat fails\b": "an error",
    r"\bwhat is there\b": "the stored documents",
    r"\bthe way of\b": "how … works",
    r"\bhas nothing to say\b": "returns nothing",
    r"\bnonsense\b": "an invalid response",
    r"\bthe caller's affair\b": "not retryable",
}


def files() -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in TEXT]
    found += [ROOT / name for name in PAGES if (ROOT / name).exists()]
    return [path for path in found if not str(path.relative_to(ROOT)).startswith(ELSEWHERE)]


@pytest.mark.parametrize("pattern", INSTEAD)
def test_no_text_uses_a_word_that_the_glossary_replaces(pattern: str) -> None:
    wrong = re.compile(pattern, re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if wrong.search(line)
    ]
    assert found == [], f"write: {INSTEAD[pattern]}"


def test_each_word_of_the_glossary_is_defined_once() -> None:
    page = (ROOT / "docs" / "reference" / "glossary.md").read_text()
    words = re.findall(r"^\| ([\w .-]+) \| [A-Z0-9`−]", page, re.MULTILINE)
    assert len(words) > 40
    assert len(words) == len(set(words))


def test_spelling() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *FOLDERS, *PAGES, "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
