"""Real faults in served clients under load: a real Prometheus fires the alert that names the fault, soon, and no other. Without a fault, it is quiet.

The rules are those that `ragcore dashboards --alerts` writes, with shorter times.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import anyio
import httpx
import pytest

from ragcore.contrib.prometheus import AlertLimits, AlertTiming, alerts, board
from tests.support.child import Child, child
from tests.support.prometheus import Prometheus, program, prometheus
from tests.support.watched import FAULTS, QUESTIONS, SLOW_SECONDS, Fault

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.thorough,  # it watches a service for several minutes
    pytest.mark.timeout(420),
    pytest.mark.blocking_allowed,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
]

TIMING = AlertTiming(evaluation=3, window=30, slow_evaluation=10, slow_window=20, growth=60, baseline=60)
# So long that a loaded machine does not reach it without the fault.
LIMITS = AlertLimits(p95=5.0)
SCRAPE = 0.5
EXPECTED: dict[Fault, str | None] = {
    "none": None,
    "hang": "RagcoreHang",
    "block": "RagcoreHang",
    "leak": "RagcoreMemoryGrowth",
    "slow": "RagcoreSlow",
    "database": "RagcoreBreakerOpen",
    "errors": "RagcoreErrorRate",
    "drift": "RagcoreScoreDrift",
    "empty": "RagcoreNothingFound",
}
SLOW_RULES = {"RagcoreMemoryGrowth", "RagcoreScoreDrift", "RagcoreNothingFound"}
# Questions a second to each service.
RATE = 4.0
# Until the baseline of the scores and the time for memory are over.
HEALTHY_SECONDS = TIMING.baseline + 2 * TIMING.slow_window
# Seconds until a fault is in the metrics: the watchdog reports a hang a second after its deadline, the state is sampled each second, and the scrape follows.
VISIBLE = 4.0
# A slow answer is counted when it ends.
LATER = {"RagcoreSlow": SLOW_SECONDS}
# Panels that have no data here: these services have no pool of connections and no rollout, and no call waits.
EMPTY = {
    "Connections",
    "Waiting for a place, 95th percentile",
    "Changes of the rollout",
    "Success of each side",
    "Answers of each side, 95th percentile",
    "Calls and fallbacks",
}


# A few services at once, because they all share this machine's processors.
@pytest.mark.parametrize(
    "faults",
    [("none", "hang", "leak"), ("slow", "database", "drift"), ("block", "errors", "empty")],
    ids=lambda faults: "-".join(faults),
)
async def test_each_fault_fires_its_own_alert_within_two_evaluations_and_no_other(
    tmp_path: Path, faults: tuple[Fault, ...]
) -> None:
    program("prometheus")
    assert set(EXPECTED) == set(FAULTS)
    async with AsyncExitStack() as stack:
        services = {
            fault: await stack.enter_async_context(child("tests.support.watched", {"fault": fault})) for fault in faults
        }
        running = await stack.enter_async_context(
            prometheus(
                tmp_path,
                rules=alerts(limits=LIMITS, timing=TIMING),
                targets={fault: service.said["metrics"] for fault, service in services.items()},
                scrape=SCRAPE,
            )
        )
        async with load(services):
            await quiet(running, HEALTHY_SECONDS)
            for service in services.values():
                await service.tell("now")
            fired = await watch(running, anyio.current_time())
            await check_board(running)
    print({f"{fault}: {alert}": round(seconds, 1) for (fault, alert), seconds in fired.items()})
    assert set(fired) == {(fault, alert) for fault in faults if (alert := EXPECTED[fault]) is not None}
    late = {
        alert: seconds
        for (_, alert), seconds in fired.items()
        if seconds
        > VISIBLE + LATER.get(alert, 0.0) + 2 * (TIMING.slow_evaluation if alert in SLOW_RULES else TIMING.evaluation)
    }
    assert late == {}


@asynccontextmanager
async def load(services: dict[Fault, Child]) -> AsyncIterator[None]:
    """Ask each service questions over HTTP, at a fixed rate."""
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        async with anyio.create_task_group() as group:
            for fault, service in services.items():
                group.start_soon(_ask, client, f"http://127.0.0.1:{service.said['port']}/chat", fault)
            yield
            group.cancel_scope.cancel()


async def _ask(client: httpx.AsyncClient, url: str, fault: Fault) -> None:
    async def one(question: str) -> None:
        with suppress(httpx.HTTPError):
            await client.post(url, json={"message": question})

    async with anyio.create_task_group() as group:
        number, due = 0, anyio.current_time()
        while True:
            group.start_soon(one, QUESTIONS[number % len(QUESTIONS)])
            number += 1
            due += 1 / RATE
            await anyio.sleep_until(due)


async def quiet(running: Prometheus, seconds: float) -> None:
    """Check for some time that no alert fires."""
    with anyio.move_on_after(seconds):
        while True:
            assert [alert for alert in await running.alerts() if alert["state"] == "firing"] == []
            await anyio.sleep(1)
    assert [target["lastError"] for target in await running.targets() if target["health"] != "up"] == []


async def watch(running: Prometheus, began: float) -> dict[tuple[str, str], float]:
    """Return when each alert has fired, in seconds after the faults, by fault and alert."""
    fired: dict[tuple[str, str], float] = {}
    with anyio.move_on_after(VISIBLE + 3 * TIMING.slow_evaluation + 5):
        while True:
            for alert in await running.alerts():
                if alert["state"] == "firing":
                    labels = alert["labels"]
                    fired.setdefault((labels["job"], labels["alertname"]), anyio.current_time() - began)
            await anyio.sleep(0.25)
    return fired


async def check_board(running: Prometheus) -> None:
    """Evaluate the expressions of all panels: they are valid, and have data."""
    for panel in board()["panels"]:
        if panel["type"] != "row":
            found = [await running.query(filled(target["expr"])) for target in panel["targets"]]
            assert any(found) or panel["title"] in EMPTY, panel["title"]


def filled(expression: str) -> str:
    """Return an expression of the board with values for Grafana's variables."""
    shown = expression.replace("$__rate_interval", "30s")
    return re.sub(r"\$(?:job|instance)", ".*", shown)
