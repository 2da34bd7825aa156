"""The arguments of `ragcore ingest`: a wrong command says what is wrong before the database starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ragcore.cli.commands import app
from ragcore.cli.rendering import show_ingest
from ragcore.types import IngestReport

pytestmark = pytest.mark.blocking_allowed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a folder"),
        (("FOLDER", "--yes"), "need --sync"),
        (("FOLDER", "--take-over"), "need --sync"),
        (("FOLDER", "--watch", "--dry-run"), "--watch watches folders"),
        (("--query", "select 1"), "--query-name together"),
        (("--query", "select 1", "--query-name", "q"), "RAGCORE_SOURCE_DSN"),
        (("--query", "select 1", "--query-name", "a b"), "RAGCORE_SOURCE_DSN"),
        (("FOLDER/a.md", "--watch"), "is not a folder"),
        (("https://127.0.0.1:9/list", "--watch"), "is not a folder"),
        (("FOLDER/none",), "there is no file or folder"),
        (("FOLDER", "FOLDER/."), "more than once"),
        (("FOLDER", "--dry-run"), "there is no database"),
        (("FOLDER/a.xyz",), "is of a type that can't be read"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("RAGCORE_DATA", str(tmp_path / "db"))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("text")
    (tmp_path / "docs" / "a.xyz").write_text("text")
    words = [one.replace("FOLDER", str(tmp_path / "docs")) for one in arguments]
    found = CliRunner().invoke(app, ["ingest", *words, "--tenant", "t"])
    assert (found.exit_code, message in found.output) == (2, True), found.output
    assert not (tmp_path / "db").exists()


def test_a_dry_run_shows_what_would_be_done_and_a_run_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    gone = tuple(f"d{n}.md" for n in range(25))
    report = IngestReport(added=2, updated=1, unchanged=3, gone=gone, kept="this was a dry run, so nothing was deleted")
    show_ingest(report, as_json=False, sync=True, dry_run=True)
    shown = capsys.readouterr().out.splitlines()
    assert shown[19:] == [
        "gone: d19.md",
        "gone: 5 further documents; to list them, use --json",
        "2 to add, 1 to update, 3 unchanged, 0 failed, 25 gone",
        "this was a dry run, so nothing was deleted",
    ]
    show_ingest(IngestReport(deleted=1, gone=("a",)), as_json=False, sync=True)
    assert "0 failed, 1 deleted; 0 chunks" in capsys.readouterr().out
    show_ingest(report, as_json=True)
    assert len(json.loads(capsys.readouterr().out)["gone"]) == 25
