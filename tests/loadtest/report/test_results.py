from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ragcore.loadtest.driving.monitor import Sample
from ragcore.loadtest.driving.outcome import Outcome
from ragcore.loadtest.figures import Chart, Figures, Line, Shade, Table
from ragcore.loadtest.report.results import SCHEMA_VERSION, new_folder, read_outcomes, read_summary, write

HOSTILE = '<script>alert("x")</script> & \'"'


def outcome(seconds: float, *, phase: str = "concurrency 5", **changes: object) -> Outcome:
    made = Outcome(
        phase=phase,
        question="What is my deductible?",
        due=1.0,
        started=1.0,
        first_token=None,
        last_token=None,
        ended=1.0 + seconds,
        kind="right",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def figures(*, seconds: float = 1.0, seed: int = 0, success: float = 1.0) -> Figures:
    draw = random.Random(seed)
    return Figures(
        values={"p50_s": seconds, "success_rate": success, "hung": 0},
        outcomes=[outcome(seconds * draw.uniform(0.8, 1.2)) for _ in range(200)],
    )


def test_the_files_of_a_run_can_be_read_back(tmp_path: Path) -> None:
    found = figures()
    found.values["nothing"] = math.nan
    found.settings = {"seed": 7, "url": "https://example.test"}
    found.samples = [Sample(0.25, 100.0, 0.5, 3)]
    write(tmp_path / "run", "ladder", found)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "requests.jsonl",
        "summary.json",
        "summary.csv",
        "report.html",
    }
    summary = read_summary(tmp_path / "run")
    assert summary["schema_version"] == SCHEMA_VERSION
    assert (summary["scenario"], summary["seed"]) == ("ladder", 7)
    assert summary["figures"]["nothing"] is None
    assert {"machine", "settings", "commit", "failed", "samples"} <= summary.keys()
    assert read_outcomes(tmp_path / "run") == found.outcomes
    json.loads((tmp_path / "run" / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_the_page_is_self_contained_and_shows_hostile_text_as_text(tmp_path: Path) -> None:
    found = figures()
    found.outcomes.append(outcome(1.0, question=HOSTILE, detail=HOSTILE, kind="wrong"))
    found.expect(False, HOSTILE)
    found.notes.append(HOSTILE)
    found.tables.append(Table(HOSTILE, [{HOSTILE: HOSTILE, "value": 1.5}]))
    shades = [Shade(HOSTILE, 0.2, 0.6)]
    found.charts.append(Chart(HOSTILE, "x", HOSTILE, [Line(HOSTILE, [0, 1], [1, math.nan])], shades=shades))
    found.settings = {"setting": HOSTILE}
    write(tmp_path, HOSTILE, found)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    outside = re.findall(r'(?:src|href)\s*=\s*"(?!#)([^"]*)"|url\((?!#)([^)]*)\)|@import', page)
    assert not outside
    assert "Not all criteria were met" in page
    assert "<svg" in page
    assert "prefers-color-scheme: dark" in page


def test_a_page_names_each_criterion_and_each_figure_in_words(tmp_path: Path) -> None:
    found = figures()
    found.values["rss_growth_kb_per_question_low"] = 3.45
    found.expect(True, "success 100 % (more than 95 %)")
    found.expect(False, "slowest answer 38.2 s (less than 30 s)")
    write(tmp_path, "ladder", found)
    page = (tmp_path / "report.html").read_text()
    assert '<li class="reached"><b>met</b> success 100 % (more than 95 %)</li>' in page
    assert '<li class="missed"><b>not met</b> slowest answer 38.2 s (less than 30 s)</li>' in page
    assert "<b>3.45 kB</b><span>memory growth per question, at least</span>" in page
    assert "rss_growth" not in page


def test_a_page_says_that_a_run_is_invalid(tmp_path: Path) -> None:
    found = figures()
    found.invalid.append("the driver was 80 ms late")
    write(tmp_path, "load", found)
    assert "This run is invalid" in (tmp_path / "report.html").read_text()
    assert found.exit_code == 3


def test_half_a_surrogate_pair_in_an_answer_does_not_break_the_report(tmp_path: Path) -> None:
    found = Figures(outcomes=[outcome(1.0, kind="wrong", detail="\ud83d", question="\ud83d")])
    write(tmp_path, "ladder", found)
    assert read_outcomes(tmp_path)[0].detail == "\ud83d"


def test_a_new_folder_does_not_exist_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = new_folder("ladder")
    first.mkdir(parents=True)
    assert new_folder("ladder") != first
