"""The edge benchmark of `ragcore serve` distinguishes a server that protects a quiet tenant from one that does not."""

from __future__ import annotations

from collections import Counter

import pytest
from benchmarks.targets.served import served

from ragcore.loadtest.driving.outcome import Kind, Outcome
from ragcore.loadtest.figures import Figures
from tests.support.edge import MOST_GROWTH_MIB, SERVICE, SETTINGS, Edge, Load, Measured, Setting, judge, measure
from tests.support.hog import BODIES

ALONE = 0.12


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def outcomes(seconds: float, *, kind: Kind = "right") -> list[Outcome]:
    """Return the outcomes of 100 questions. Every tenth question takes `seconds`."""
    return [
        Outcome(
            phase="",
            question="q",
            due=number,
            started=number,
            first_token=number + ALONE / 2,
            last_token=number + ALONE,
            ended=number + (seconds if number % 10 == 0 else ALONE),
            kind=kind,
        )
        for number in range(100)
    ]


def measured(**beside: float) -> Measured:
    """Return four rounds. In the settings of `beside`, a tenth of the questions takes the given seconds. All other questions are as fast as in "alone"."""
    rounds: list[dict[Setting, list[Outcome]]] = [
        {setting: outcomes(beside.get(setting, ALONE)) for setting in SETTINGS} for _ in range(4)
    ]
    bodies = {"429": 300, "open": 4 * BODIES}
    return Measured(
        rounds=rounds,
        came={
            "similarity": Counter({"200": 100, "429": 1_000}),
            "bodies": Counter(bodies),
            "full_bodies": Counter(bodies),
        },
        before_mib=100.0,
        peak_mib=dict.fromkeys(SETTINGS, 150.0),
    )


def judged(found: Measured) -> Figures:
    figures = Figures()
    judge(figures, found)
    return figures


def test_a_quiet_tenant_may_wait_twice_as_long_as_alone_plus_one_service_time() -> None:
    figures = judged(measured(similarity=2 * ALONE + 0.9 * SERVICE, bodies=2 * ALONE))
    assert figures.exit_code == 0
    assert figures.values["edge_alone_p95_ms"] == pytest.approx(1000 * ALONE)
    assert figures.values["edge_similarity_excess_ms"] == pytest.approx(-100 * SERVICE)
    assert figures.values["edge_bodies_ratio"] == pytest.approx(2.0)
    assert figures.values["edge_memory_growth_mib"] == 50.0


@pytest.mark.parametrize("setting", ["similarity", "bodies", "full_bodies"])
def test_a_quiet_tenant_that_waits_longer_is_found(setting: str) -> None:
    figures = judged(measured(**{setting: 2 * ALONE + 1.1 * SERVICE}))
    assert figures.failed == [f"edge_{setting}_excess_ms <= 0"]
    assert figures.exit_code == 1


def test_a_question_that_fails_is_found() -> None:
    found = measured()
    found.rounds[2]["bodies"] = outcomes(ALONE, kind="refused")
    assert judged(found).failed == ["edge_quiet_errors == 0"]


def test_memory_beyond_the_documented_limits_is_found() -> None:
    found = measured()
    found.peak_mib["full_bodies"] = found.before_mib + MOST_GROWTH_MIB + 1
    assert judged(found).failed == [f"edge_memory_growth_mib <= {MOST_GROWTH_MIB:g}"]


@pytest.mark.parametrize(
    ("setting", "came", "reason"),
    [
        ("similarity", {"connection": 40}, "received no report"),
        ("similarity", {"200": 40}, "or no refusal"),
        ("bodies", {"closed": 400}, "too few connections"),
    ],
)
def test_a_run_without_load_from_the_other_tenant_is_invalid(
    setting: Setting, came: dict[str, int], reason: str
) -> None:
    found = measured()
    found.came[setting] = Counter(came)
    figures = judged(found)
    assert any(reason in invalid for invalid in figures.invalid)
    assert figures.exit_code == 3


def test_a_run_during_which_other_programs_use_the_cpu_is_invalid() -> None:
    found = measured()
    found.foreign = {setting: [0.02, 0.02, 0.5, 0.02] for setting in SETTINGS}
    assert judged(found).exit_code == 0
    found.foreign["similarity"] = [0.5, 0.4, 0.5, 0.02]
    assert "other programs used 0.45 cores" in judged(found).invalid[0]


@pytest.mark.anyio
@pytest.mark.timeout(120)
@pytest.mark.thorough
async def test_a_server_with_one_queue_that_reads_every_body_is_found() -> None:
    load = Load(seconds=2.0, rounds=1, warm_up=0.5, settings=("alone", "similarity", "full_bodies"))
    async with served("tests.benchmarks.unfair", None) as (url, process):
        figures = judged(await measure(Edge(url, process.pid), load))
    assert "edge_similarity_excess_ms <= 0" in figures.failed
    assert f"edge_memory_growth_mib <= {MOST_GROWTH_MIB:g}" in figures.failed
