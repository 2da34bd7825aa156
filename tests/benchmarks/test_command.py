from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.registry import SCENARIOS, scenario

from tests.loadtest.report.test_results import figures

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], capture_output=True, text=True, cwd=cwd or ROOT, timeout=100
    )


def test_every_scenario_has_a_quick_option() -> None:
    import inspect

    for name in SCENARIOS:
        assert "quick" in inspect.signature(scenario(name)).parameters


def test_the_list_names_every_scenario() -> None:
    told = run("--help").stdout
    assert all(f"  {name} " in told for name in (*SCENARIOS, "compare"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ladder", "--url", "http://127.0.0.1:9/chat"), "no questions: pass --question"),
        (("ladder", "--levels", "1,two"), "--levels must be whole numbers"),
        (("load", "--rate", "-1"), "must be positive"),
        (("compare", "missing", "gone"), "contains no summary.json"),
        (("peers", "--only", "nobody"), "unknown adapter 'nobody'"),
    ],
)
def test_a_wrong_command_prints_the_reason_and_exits_with_2(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_compare_exits_with_1_on_a_regression(tmp_path: Path) -> None:
    from ragcore.loadtest.report.results import write

    write(tmp_path / "a", "ladder", figures(seed=1))
    write(tmp_path / "b", "ladder", figures(seconds=2.0, seed=2))
    done = run("compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["regressions"]
    assert run("compare", str(tmp_path / "a"), str(tmp_path / "a")).returncode == 0


@pytest.mark.slow
def test_json_is_one_flat_object_and_out_sets_the_folder_of_the_report(tmp_path: Path) -> None:
    done = run("imports", "--quick", "--json", "--out", str(tmp_path / "run"))
    values = json.loads(done.stdout)
    assert isinstance(values["import_ms"], float)
    assert (tmp_path / "run" / "report.html").exists()
