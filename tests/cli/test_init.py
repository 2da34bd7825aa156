"""The first minutes of a user: `ragcore init`, options after the command, a mistyped folder, progress bars that log lines don't break."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ragcore.cli import session
from ragcore.cli.commands import app
from ragcore.cli.init import FILES
from ragcore.cli.session import Options
from ragcore.config import COMMAND_LINE_VARIABLES, OWN, SETTINGS

NO_DATABASE = 2


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder, without the database that the caller's environment names."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAGCORE_", "PG", "DATABASE_"))}
    return subprocess.run(
        [sys.executable, "-m", "ragcore", *arguments],
        cwd=folder,
        env={**kept, "XDG_DATA_HOME": str(folder / "home"), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_init_writes_the_files_and_prints_the_next_commands(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["init", str(tmp_path / "new")])
    assert done.exit_code == 0
    assert {
        path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*") if path.is_file()
    } == set(FILES)
    assert "python first_answer.py" in done.stdout


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MINE=1")
    done = CliRunner().invoke(app, ["init", str(tmp_path)])
    assert done.exit_code == NO_DATABASE
    assert "already has .env" in " ".join(done.output.split())
    assert (tmp_path / ".env").read_text() == "MINE=1"
    assert not (tmp_path / "first_answer.py").exists()


def test_the_settings_that_init_writes_exist() -> None:
    lines = [line.removeprefix("# ") for line in FILES[".env"].splitlines()]
    named = {line.partition("=")[0] for line in lines if line.partition("=")[0].isupper() and "=" in line}
    assert len(named) > 8
    assert named <= {*OWN, *SETTINGS, *COMMAND_LINE_VARIABLES, "DATABASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL"}


@pytest.mark.slow
def test_the_program_that_init_writes_answers_a_question(tmp_path: Path) -> None:
    assert run("init", folder=tmp_path).returncode == 0
    script = f"set -a; . ./.env; set +a; {sys.executable} first_answer.py"
    done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "A repair takes five working days. [1]" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ask", "q", "-t", "x", "--data", "d"], ["--data", "d", "ask", "q", "-t", "x"]),
        (["ask", "q", "--data=d", "-v", "-t", "x"], ["--data=d", "-v", "ask", "q", "-t", "x"]),
        (["--schema", "s", "ask", "q"], ["--schema", "s", "ask", "q"]),
        (["ask", "-t", "x", "--", "--data", "d"], ["ask", "-t", "x", "--", "--data", "d"]),
        (["ask", "q", "--data"], ["--data", "ask", "q"]),
        (["migrate", "--role", "app", "--schema", "s"], ["--schema", "s", "migrate", "--role", "app"]),
        (["ask", "data", "-t", "x"], ["ask", "data", "-t", "x"]),
    ],
)
def test_options_may_stand_after_the_command(arguments: list[str], expected: list[str]) -> None:
    import typer.main

    group = typer.main.get_command(app)
    assert group._to_the_front(arguments) == expected  # type: ignore[attr-defined]


def test_a_command_imports_only_its_own_modules() -> None:
    program = """
import sys, typer.main
from ragcore.cli.commands import app
typer.main.get_command(app).commands["ask"]
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert "ragcore.cli.questions" in loaded
    assert loaded.isdisjoint(
        {"ragcore.cli.loadtest", "ragcore.loadtest.command", "ragcore.cli.doctor", "ragcore.explore"}
    )


READING = [
    ("ask", "q", "-t", "x"),
    ("search", "q", "-t", "x"),
    ("similarity", "q", "-t", "x"),
    ("documents", "-t", "x"),
    ("delete", "-t", "x", "--all"),
    ("expire",),
    ("share", "x"),
    ("unshare", "x"),
]


@pytest.mark.slow
@pytest.mark.parametrize("command", READING, ids=[command[0] for command in READING])
def test_a_mistyped_folder_does_not_become_a_database(command: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*command, "--data", "mistyped", folder=tmp_path)
    assert done.returncode == NO_DATABASE
    assert "there is no database in mistyped" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_doctor_creates_no_database_and_still_checks_all(tmp_path: Path) -> None:
    done = run("doctor", "--data", "mistyped", folder=tmp_path)
    assert done.returncode == 0
    assert "there is no database in mistyped" in done.stdout
    assert "embedder:" in done.stdout
    assert not (tmp_path / "mistyped").exists()


def test_messages_go_through_the_console_that_draws_the_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=(shown := io.StringIO()), force_terminal=True, width=80)
    monkeypatch.setattr(session, "messages", console)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    monkeypatch.setattr(root, "handlers", [])
    logging.captureWarnings(False)  # an earlier test of the command line leaves it on

    async def body() -> int:
        logging.getLogger("ragcore.test").warning("a warning in between")
        warnings.warn("a deprecated thing", DeprecationWarning, stacklevel=1)
        return 0

    try:
        with warnings.catch_warnings(), pytest.raises(SystemExit):
            warnings.simplefilter("always")
            session.run_async(Options(), body)
    finally:
        logging.captureWarnings(False)
        root.handlers = before
        root.setLevel(level)
    assert "WARNING ragcore.test: a warning in between" in shown.getvalue()
    assert "a deprecated thing" in shown.getvalue()
