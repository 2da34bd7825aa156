"""README, changelog and reference match the code, and their code runs."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import anyio
import pytest
import typer
import typer.main

import ragcore

from .test_layout import FLOORS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Type aliases have no page of their own; the text explains them.
ALIASES = {
    "Mode",
    "EmbedText",
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
    "Implementation",
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
    "ingest.ray",
    "explore.ray",
    "events",
    "audit",
    "explore",
    "rollout",
    "blocking",
    "testing",
    "contrib.asgi",
    "contrib.prometheus",
    "contrib.otel",
)


def documented() -> dict[str, set[str]]:
    """Return the objects that the reference pages show, by their public name."""
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


SECTIONS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def versions_of_the_changelog() -> dict[str, str]:
    """The text of each version by its heading, newest first."""
    _, *parts = re.split(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_changelog_begins_with_unreleased_changes_and_this_version() -> None:
    unreleased, *released = versions_of_the_changelog()
    assert unreleased == "[Unreleased]"
    dated = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d", heading) for heading in released]
    numbers = [tuple(int(number) for number in heading.groups()) for heading in dated if heading]
    assert len(numbers) == len(released), "a heading is not [version] - date"
    assert numbers == sorted(numbers, reverse=True)
    assert ".".join(str(number) for number in numbers[0]) == ragcore.__version__


def test_the_changelog_has_only_the_sections_of_keep_a_changelog_in_order() -> None:
    for version, text in versions_of_the_changelog().items():
        sections = re.findall(r"^### (.+)$", text, re.MULTILINE)
        assert sections == [name for name in SECTIONS if name in sections], version


def test_the_changelog_has_no_empty_section() -> None:
    for version, text in versions_of_the_changelog().items():
        for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
            for part in re.split(r"^#### ", section, flags=re.MULTILINE)[1:] or [section]:
                assert "\n- " in part, (version, part)


def test_lines_of_the_changelog_do_not_repeat_their_heading() -> None:
    for version, text in versions_of_the_changelog().items():
        lines = re.findall(r"^- (.+)$", text, re.MULTILINE)
        assert [line for line in lines if line.startswith(SECTIONS)] == [], version
        assert len(set(lines)) == len(lines), version


# A file or a folder, and for a Python file a name in it: `client/rag.py:RAG.ask`. Paths are relative to the package or to the project.
POINTER = re.compile(r"((?:[\w.-]+/)*[\w.-]+\.(?:py|sql|md|toml|yml)|(?:[\w.-]+/)+)(?::([A-Za-z_][\w.]*))?")
ARCHITECTURE = DOCS / "explanation" / "architecture.md"
DECISIONS = DOCS / "explanation" / "decisions"


def names_of(body: list[ast.stmt], owner: str = "") -> set[str]:
    """Return the names that a module or class defines: functions, classes with their members, and assigned names."""
    names = set()
    for statement in body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(owner + name)
            case ast.ClassDef(name=name):
                names |= {owner + name, *names_of(statement.body, f"{owner}{name}.")}
            case ast.Assign(targets=targets):
                names |= {owner + target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(owner + name)
    return names


def exists(path: str, name: str) -> bool:
    """Return whether the file or folder of a pointer exists, and the file defines the name."""
    found = next((place / path for place in (ROOT / "src" / "ragcore", ROOT) if (place / path).exists()), None)
    if found is None or found.is_dir() != path.endswith("/"):
        return False
    return not name or (found.suffix == ".py" and name in names_of(ast.parse(found.read_text()).body))


@pytest.mark.parametrize("page", [ARCHITECTURE, *sorted(DECISIONS.glob("*.md"))], ids=lambda page: page.name)
def test_pointers_to_the_code_exist(page: Path) -> None:
    """A pointer is text in backticks that ends with a slash or contains the name of a source file."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE))
    wrong = []
    for span in spans:
        pointer = POINTER.fullmatch(span)
        if pointer is None:
            if re.search(r"\.(py|sql)\b|\w/$", span):  # a pointer with a wrong form would not be checked
                wrong.append(span)
        elif not exists(pointer[1], pointer[2] or ""):
            wrong.append(span)
    assert wrong == []


def test_a_pointer_to_a_missing_name_or_file_is_found() -> None:
    assert exists("client/rag.py", "RAG.ask")
    assert exists("store/postgres/sql/", "")
    assert not exists("client/rag.py", "RAG.gone")
    assert not exists("client/gone.py", "")
    assert not exists("store/postgres/gone/", "")


def test_the_architecture_page_shows_the_floors_of_the_layout() -> None:
    drawn = re.findall(r"^ *(\d+)  (.+)$", ARCHITECTURE.read_text(), re.MULTILINE)
    assert {int(number): set(modules.split()) for number, modules in drawn} == {
        number: set(floor) for number, floor in enumerate(FLOORS, start=1)
    }


def test_the_architecture_page_describes_each_module() -> None:
    table = ARCHITECTURE.read_text().partition("| module |")[2].partition("\n\n")[0]
    described = [name.replace("\\", "") for name in re.findall(r"^\| ([\w\\]+) \|", table, re.MULTILINE)]
    assert sorted(described) == sorted(module for floor in FLOORS for module in floor)


def test_every_decision_is_in_the_index() -> None:
    listed = re.findall(r"\]\((\d{4}-[^)]+\.md)\)", (DECISIONS / "index.md").read_text())
    assert listed == sorted(page.name for page in DECISIONS.glob("[0-9]*.md"))


def blocks(path: Path) -> list[str]:
    """Return the Python blocks of a page, except files of a service, which tests/system/test_frameworks.py runs."""
    found = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    return [block for block in found if not block.startswith("# service.py")]


PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCKS = [
    (page.relative_to(ROOT).as_posix(), number, block) for page in PAGES for number, block in enumerate(blocks(page))
]


# Runs each block as a separate program, but in one process, because importing ragcore takes most of the time.
RUNNER = """
import json, os, sys, tempfile, traceback
failed = {}
for name, block in json.load(sys.stdin):
    os.chdir(tempfile.mkdtemp(dir=sys.argv[1]))
    try:
        exec(compile(block, name, "exec"), {"__name__": "__main__"})
    except BaseException:
        failed[name] = traceback.format_exc()
json.dump(failed, open(os.path.join(sys.argv[1], "failed.json"), "w"))
"""


@pytest.mark.system
def test_python_in_the_documents_runs(tmp_path: Path) -> None:
    programs = [(f"{page}-{number}", block) for page, number, block in BLOCKS if "def test_" not in block]
    assert len(programs) > 20
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(tmp_path)],
        input=json.dumps(programs),
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    assert json.loads((tmp_path / "failed.json").read_text()) == {}, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.system
def test_the_program_of_the_page_about_memory_names_the_line_that_keeps_it(tmp_path: Path) -> None:
    (program,) = blocks(DOCS / "how-to" / "runbooks" / "memory_growth.md")
    (tmp_path / "growth.py").write_text(program.replace("120.0", "0.3"))
    (tmp_path / "leaky.py").write_text(
        "import time\nkept = []\nfor _ in range(20):\n    kept.append(bytes(1_000_000))\n    time.sleep(0.1)\n"
    )
    done = subprocess.run(
        [sys.executable, "growth.py", "leaky", "--an-argument"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONTRACEMALLOC": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert re.search(r"leaky\.py:4: size=\d+", done.stderr), done.stderr


@pytest.mark.system
def test_tests_in_the_documents_pass(tmp_path: Path) -> None:
    tests = [block for _, _, block in BLOCKS if "def test_" in block]
    assert tests
    for number, block in enumerate(tests):
        (tmp_path / f"test_block_{number}.py").write_text(block)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


MODULES_WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "src").rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", MODULES_WITH_EXAMPLES)
def test_examples_in_docstrings_run(name: str) -> None:
    import doctest

    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"anyio": anyio})
    assert result.attempted
    assert result.failed == 0


def commands(path: Path) -> list[str]:
    """Return each command in the shell blocks of a page, with continued lines joined."""
    found = re.findall(r"^```sh\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    lines = "\n".join(found).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


KNOWN = (
    "cd",
    "pip",
    "ray",
    "uv",
    "python3",
    "export",
    "echo",
    "curl",
    "uvicorn",
    "gunicorn",
    "sanic",
    "make",
    "git",
    "createdb",
    "psql",
    "pg_dump",
    "pg_dumpall",
    "pg_restore",
    "umask",
)
COMMANDS = [(page.relative_to(ROOT).as_posix(), command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}: {command[:40]}" for page, command in COMMANDS])
def test_every_command_in_the_documents_is_valid(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of ragcore and the benchmarks are parsed by their own command lines; other programs must be known."""
    words = shlex.split(re.split(" [#>] ", command)[0])
    app: Any
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    if words[:3] == ["python", "-m", "benchmarks"]:
        told = words[3:]
        app = benchmarks_app(told[0])
    elif words[0] == "ragcore":
        told = words[1:]
        from ragcore.cli.commands import app as typer_app

        app = typer.main.get_command(typer_app)
    elif words == ["python", "service.py"]:
        return
    else:
        assert words[0] in KNOWN, command
        return
    monkeypatch.setenv("RAGCORE_OWNER_DSN", "postgresql://owner@localhost/ragcore")
    # "…" stands for a value that the reader fills in.
    told = ["x" if word == "…" else word for word in told]
    try:
        parse(app, told)
    except Exception as error:
        # "…" may stand for a required argument.
        assert type(error).__name__ == "MissingParameter", error
        assert "…" in command


def parse(command: Any, words: list[str]) -> None:
    """Parse words with a command, or with the command of a group that the words name."""
    with command.make_context("it", words) as context:
        if hasattr(command, "resolve_command"):
            _, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            parse(inner, rest)


def benchmarks_app(scenario: str) -> Any:
    from benchmarks.command import scenario_of

    from ragcore.loadtest.command import compare_command

    made = typer.Typer()
    made.callback()(lambda: None)
    made.command(scenario)(compare_command if scenario == "compare" else scenario_of(scenario))
    return typer.main.get_command(made)


@pytest.mark.system
def test_the_commands_of_the_tutorial_run(tmp_path: Path) -> None:
    """Runs every command of the first two pages, in order, in one folder, except those that install packages."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "plan.md").write_text("# Plan\n\nYour deductible is $1,500 per calendar year.")
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "RAGCORE_DATA": str(tmp_path / "home")}
    told = 0
    for name in ("index.md", "tutorial/first-answer.md", "tutorial/own-documents.md"):
        page = DOCS / name
        text = page.read_text()
        for kind, block in re.findall(r"^```(sh|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            if kind == "python":
                steps = [[sys.executable, "-c", block]]
            else:
                lines = [
                    line
                    for line in block.replace("\\\n", " ").splitlines()
                    if not line.startswith(("pip ", "python3 -m venv", "uv "))
                ]
                if any("…" in line for line in lines):  # needs a key of the reader's
                    continue
                steps = [["sh", "-ec", line] for line in lines]
            for step in steps:
                done = subprocess.run(step, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
                assert done.returncode == 0, (step, done.stdout, done.stderr)
                told += 1
    assert told >= 12
    assert (tmp_path / "thresholds.html").exists()


def texts_of_the_source() -> str:
    """All string constants of the package, in one text; what an f-string inserts is "…"."""
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%(\.\d)?[a-z]", "…", node.value))
    return "\n".join(found)


def test_messages_that_the_troubleshooting_page_quotes_exist() -> None:
    page = (DOCS / "how-to" / "troubleshooting.md").read_text()
    source = texts_of_the_source()
    quoted = [
        piece.strip(" .")
        for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
        for message in re.findall(r"`([^`]+)`", row)
        for piece in message.replace("(Address already in use)", "…").split("…")
        if len(piece.strip(" .")) > 4
    ]
    quoted += [line.split(": ")[-1].strip() for line in re.findall(r"^no authentication.*$", page, re.MULTILINE)]
    assert len(quoted) > 12
    assert [piece for piece in quoted if piece.replace("'ragcore'", "…") not in source] == []


def test_the_page_about_extras_has_each_extra_and_what_it_installs() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = {
        re.sub(r"[\[\]`]", "", row[0]): row[2]
        for row in re.findall(
            r"^\| (\S+?)(?:\(#[\w-]+\))? \| (.*?) \| (.*?) \|",
            (DOCS / "reference" / "extras.md").read_text(),
            re.MULTILINE,
        )
    }
    for extra, requirements in extras.items():
        names = {re.split(r"[\[>=<]", one)[0].lower() for one in requirements} - {"ragcore-client", "httpx"}
        assert names <= {name.strip().lower() for name in rows[extra].split(",")}, extra


def test_examples_of_docstrings_are_rendered_as_code() -> None:
    """Only a section "Examples:" makes `>>>` a block of code in the reference; elsewhere it becomes three nested quotations."""
    wrong = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                before = text.partition(">>>")[0] if ">>>" in text else ""
                if re.search(r"^Example:", text, re.MULTILINE) or (before and "Examples:\n" not in before):
                    wrong.append(f"{path.relative_to(ROOT)}: {text.splitlines()[0]}")
    assert wrong == []


def test_links_of_notebooks_are_those_of_the_rendered_pages() -> None:
    """mkdocs rewrites the links of pages, but not those of notebooks. It makes a folder for each notebook, so a link must lead to a folder beside it."""
    found = [
        link for path in (DOCS / "notebooks").glob("*.py") for link in re.findall(r"\]\(([^)#]+)", path.read_text())
    ]
    assert found
    for link in found:
        assert re.fullmatch(r"https?://.+|\.\./[\w./-]+/", link), link


# A longer line of code is cut off on the pages of the manual; text is wrapped there.
MOST_COLUMNS = 80


@pytest.mark.parametrize("path", sorted((DOCS / "notebooks").glob("*.py")), ids=lambda path: path.stem)
def test_code_of_notebooks_fits_the_page(path: Path) -> None:
    code = [line for line in path.read_text().splitlines() if not line.startswith("# ")]
    assert len(code) > 20
    assert [line for line in code if len(line) > MOST_COLUMNS] == []


def test_every_notebook_is_in_the_navigation() -> None:
    listed = set(re.findall(r"notebooks/(\w+\.py)", (ROOT / "mkdocs.yml").read_text()))
    assert listed == {path.name for path in (DOCS / "notebooks").glob("*.py")}


@pytest.mark.parametrize(
    "word", ["Prometheus", "OpenTelemetry", "docx", "reranker", "language", "multi-tenant", "Kubernetes"]
)
def test_the_search_of_the_manual_finds_what_people_look_for(word: str) -> None:
    """The search also finds the page if the page says that ragcore does not have the feature."""
    assert any(word in page.read_text() for page in DOCS.rglob("*.md"))
