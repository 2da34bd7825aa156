"""The rules for alerts, evaluated by promtool over made series: each fires for its fault, and stays quiet beside it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from tests.support.prometheus import program

from ragcore.contrib.prometheus import AlertLimits, AlertTiming, alerts, board

RUNBOOKS = Path(__file__).parents[3] / "docs" / "how-to" / "runbooks"
LABELS = 'job="a",instance="b"'
# The rules of these tests take two hours for a normal day.
DAY = 120
SHORT = AlertTiming(baseline=60.0 * DAY)


def made(name: str, values: str, labels: str = "") -> dict[str, str]:
    return {"series": f"ragcore_{name}{{{LABELS}{',' if labels else ''}{labels}}}", "values": values}


def fires(folder: Path, series: list[dict[str, str]], *, at: int, alert: str) -> bool:
    """Return whether an alert fires at a minute. Each series has a value for each minute."""
    promtool = program("promtool")
    (folder / "rules.yml").write_text(alerts(timing=SHORT))
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "alert_rule_test": [{"eval_time": f"{at}m", "alertname": alert, "exp_alerts": []}],
            }
        ],
    }
    (folder / "test.yml").write_text(json.dumps(test))
    done = subprocess.run(
        [promtool, "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert "error" not in done.stderr.lower() or "FAILED" in done.stderr, done.stderr
    if done.returncode:
        assert f"alertname: {alert}" in done.stderr, done.stderr
    return done.returncode != 0


# Twenty calls a minute, of which some fail.
def calls(failed: int, minutes: int = 60) -> list[dict[str, str]]:
    return [
        made("calls_total", f"0+{20 - failed}x{minutes}", 'method="ask",outcome="ok"'),
        made("calls_total", f"0+{failed}x{minutes}", 'method="ask",outcome="StoreError"'),
    ]


@pytest.mark.parametrize("wanted", [AlertLimits(), AlertLimits(p95=0.25, error_rate=0.5, nothing_found=0.9)])
@pytest.mark.parametrize("timing", [AlertTiming(), AlertTiming(evaluation=0.5, window=2.5)])
def test_promtool_accepts_the_rules(tmp_path: Path, wanted: AlertLimits, timing: AlertTiming) -> None:
    promtool = program("promtool")
    (tmp_path / "rules.yml").write_text(alerts(limits=wanted, timing=timing, runbooks="https://docs.example.org/run"))
    done = subprocess.run(
        [promtool, "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "7 rules found" in done.stdout


def test_each_rule_has_a_runbook_page_that_names_it_and_no_page_is_left_over() -> None:
    rules = dict(zip(re.findall(r"alert: (\w+)", alerts()), re.findall(r'runbook_url: "(\S+)"', alerts()), strict=True))
    assert len(rules) == 7
    for alert, page in rules.items():
        assert alert in (RUNBOOKS.parents[2] / page).read_text(), page
    assert {Path(page).name for page in rules.values()} == {path.name for path in RUNBOOKS.glob("*.md")}
    addresses = re.findall(r'runbook_url: "(\S+)"', alerts(runbooks="https://docs.example.org/run"))
    assert addresses[0] == "https://docs.example.org/run/hang/"


def test_runbook_pages_name_panels_that_the_board_has() -> None:
    titles = {panel["title"] for panel in board()["panels"]}
    for page in RUNBOOKS.glob("*.md"):
        assert set(re.findall(r"\*\*([^*]+)\*\*", page.read_text())) <= titles, page.name


@pytest.mark.slow
def test_errors_fire_unless_they_are_few_or_a_breaker_is_open(tmp_path: Path) -> None:
    breaker = made("breaker_state", "1x60", 'dependency="store",state="open"')
    assert fires(tmp_path, calls(4), at=30, alert="RagcoreErrorRate")
    assert not fires(tmp_path, calls(0), at=30, alert="RagcoreErrorRate")
    assert not fires(tmp_path, [*calls(4), breaker], at=30, alert="RagcoreErrorRate")
    assert fires(tmp_path, [*calls(4), breaker], at=30, alert="RagcoreBreakerOpen")
    # Most of an outage, a breaker may be half-open: its probes hang.
    half_open = made("breaker_state", "1x60", 'dependency="store",state="half_open"')
    assert not fires(tmp_path, [*calls(4), half_open], at=30, alert="RagcoreErrorRate")
    # Three failures in a quiet night: a share of 60 %, but not five calls.
    few = [
        made("calls_total", "0x27 1 2x60", 'method="ask",outcome="ok"'),
        made("calls_total", "0x26 1 2 3x60", 'method="ask",outcome="StoreError"'),
    ]
    assert not fires(tmp_path, few, at=29, alert="RagcoreErrorRate")


@pytest.mark.slow
def test_mistakes_and_limits_of_callers_are_no_errors(tmp_path: Path) -> None:
    series = [
        made("calls_total", "0+1x60", 'method="ask",outcome="ok"'),
        *(
            made("calls_total", "0+20x60", f'method="ask",outcome="{name}"')
            for name in ("InvalidInput", "LimitExceeded", "cancelled")
        ),
    ]
    assert not fires(tmp_path, series, at=30, alert="RagcoreErrorRate")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ([made("hangs_total", "0x29 1x60", 'stage="search"')], True),
        ([made("hangs_total", "0x60", 'stage="search"')], False),
        ([made("event_loop_blocked_now", "0x28 1x60")], True),
        # A block of two seconds is in the log and on the board, and no alert.
        ([made("event_loop_blocked_seconds_total", "0x29 2x60"), made("event_loop_blocked_now", "0x60")], False),
        ([made("event_loop_blocked_seconds_total", "0x29 40x60"), made("event_loop_blocked_now", "0x60")], True),
        # A hang an hour ago.
        ([made("hangs_total", "0x1 1x60", 'stage="search"')], False),
    ],
)
def test_hangs_and_long_blocks_fire(tmp_path: Path, series: list[dict[str, str]], expected: bool) -> None:
    assert fires(tmp_path, series, at=31, alert="RagcoreHang") is expected


def durations(seconds: float, calls: int) -> list[dict[str, str]]:
    labels = 'method="ask",outcome="ok"'
    buckets = [1, 5, 10, 20]
    return [
        *(
            made("call_duration_seconds_bucket", f"0+{calls if seconds <= most else 0}x60", f'{labels},le="{most}"')
            for most in buckets
        ),
        made("call_duration_seconds_bucket", f"0+{calls}x60", f'{labels},le="+Inf"'),
        made("call_duration_seconds_count", f"0+{calls}x60", labels),
    ]


@pytest.mark.slow
def test_slow_answers_fire_unless_they_are_few_or_a_breaker_is_open(tmp_path: Path) -> None:
    breaker = made("breaker_state", "1x60", 'dependency="generation m",state="open"')
    assert fires(tmp_path, durations(15, 20), at=30, alert="RagcoreSlow")
    assert not fires(tmp_path, durations(4, 20), at=30, alert="RagcoreSlow")
    assert not fires(tmp_path, durations(15, 1), at=30, alert="RagcoreSlow")
    assert not fires(tmp_path, [*durations(15, 20), breaker], at=30, alert="RagcoreSlow")


@pytest.mark.slow
def test_answers_that_a_blocked_loop_makes_slow_are_a_hang(tmp_path: Path) -> None:
    series = [*durations(15, 20), made("event_loop_blocked_seconds_total", "0x28 40x60")]
    assert not fires(tmp_path, series, at=30, alert="RagcoreSlow")
    assert fires(tmp_path, series, at=30, alert="RagcoreHang")


MEBI = 2**20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (f"{300 * MEBI}+{5 * MEBI}x120", True),
        (f"{300 * MEBI}x120", False),
        # A cache was filled within ten minutes and is full.
        (f"{300 * MEBI}x70 {300 * MEBI}+{20 * MEBI}x10 {500 * MEBI}x60", False),
        # Memory goes up and down.
        (" ".join(f"{300 * MEBI}+{30 * MEBI}x4" for _ in range(25)), False),
    ],
)
def test_only_growth_that_goes_on_fires(tmp_path: Path, memory: str, expected: bool) -> None:
    series = [made("resident_memory_bytes", memory), made("start_time_seconds", "0x200")]
    assert fires(tmp_path, series, at=100, alert="RagcoreMemoryGrowth") is expected


@pytest.mark.slow
def test_a_young_process_may_grow(tmp_path: Path) -> None:
    series = [
        made("resident_memory_bytes", f"{100 * MEBI}+{20 * MEBI}x120"),
        made("start_time_seconds", f"{80 * 60}x200"),
    ]
    assert not fires(tmp_path, series, at=100, alert="RagcoreMemoryGrowth")


def scores(before: float, after: float, *, day: int = DAY) -> list[dict[str, str]]:
    return [
        made("top_score_count", f"0+10x{day + 60}"),
        made("top_score_sum", f"0+{10 * before}x{day} {10 * before * day + 10 * after}+{10 * after}x60"),
    ]


def found(share: float, *, day: int = DAY) -> list[dict[str, str]]:
    return [
        made("answers_total", f"0+{10 * share}x{day + 60}", 'found="true"'),
        made("answers_total", f"0+{10 * (1 - share)}x{day + 60}", 'found="false"'),
    ]


@pytest.mark.slow
def test_a_shift_of_scores_fires_within_two_evaluations_and_explains_empty_results(tmp_path: Path) -> None:
    assert fires(tmp_path, scores(0.6, 0.3), at=DAY + 20, alert="RagcoreScoreDrift")
    assert fires(tmp_path, scores(0.3, 0.6), at=DAY + 20, alert="RagcoreScoreDrift")
    assert not fires(tmp_path, scores(0.6, 0.55), at=DAY + 20, alert="RagcoreScoreDrift")
    assert fires(tmp_path, [*scores(0.6, 0.6), *found(0.2)], at=DAY + 20, alert="RagcoreNothingFound")
    assert not fires(tmp_path, [*scores(0.6, 0.6), *found(0.7)], at=DAY + 20, alert="RagcoreNothingFound")
    assert not fires(tmp_path, [*scores(0.6, 0.2), *found(0.2)], at=DAY + 20, alert="RagcoreNothingFound")


def lost(begin: int) -> list[dict[str, str]]:
    """Ten questions a minute, of which one finds nothing; from a minute on, all of them."""
    return [
        made("answers_total", f"0+9x{begin} {9 * begin}x60", 'found="true"'),
        made("answers_total", f"0+1x{begin} {begin}+10x60", 'found="false"'),
        *scores(0.6, 0.6, day=begin + 60),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("begin", [30, 31, 32, 33, 34])
def test_lost_documents_fire_within_two_evaluations_wherever_they_begin(tmp_path: Path, begin: int) -> None:
    assert not fires(tmp_path, lost(begin), at=begin + 2, alert="RagcoreNothingFound")
    # Two evaluations of five minutes.
    assert fires(tmp_path, lost(begin), at=begin + 10, alert="RagcoreNothingFound")


@pytest.mark.slow
def test_on_the_first_day_there_is_no_normal_score_and_no_alert(tmp_path: Path) -> None:
    assert not fires(tmp_path, scores(0.6, 0.2, day=5), at=15, alert="RagcoreScoreDrift")
