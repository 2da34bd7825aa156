"""A healthy hour of a real service is quiet: promtool evaluates the rules of `ragcore dashboards --alerts` over what the service measured.

The rules have their own times. The hour is compressed: the service runs for little more than a minute, and each second of it stands for a minute.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ragcore.contrib.prometheus import alerts
from tests.support.child import child
from tests.support.prometheus import program
from tests.support.watched import Fault

from .test_alerts import load

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.system,
    pytest.mark.thorough,  # it watches a service for more than a minute
    pytest.mark.timeout(300),
    pytest.mark.blocking_allowed,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
]

# More than an hour, so that the rule for scores has a normal day of 200 questions to compare with.
MINUTES = 75
FAULT_AT = 60
START_TIME = "ragcore_start_time_seconds"


@pytest.mark.parametrize(
    ("fault", "expected"), [("none", set[str]()), ("errors", {"RagcoreErrorRate"}), ("hang", {"RagcoreHang"})]
)
async def test_no_alert_is_pending_or_fires_in_a_healthy_hour_but_one_does_after_a_fault(
    tmp_path: Path, fault: Fault, expected: set[str]
) -> None:
    program("promtool")
    scrapes = []
    async with child("tests.support.watched", {"fault": fault}) as service, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{service.said['metrics']}/metrics"
        async with load({fault: service}):
            began = anyio.current_time()
            for minute in range(MINUTES):
                await anyio.sleep_until(began + minute)
                if minute == FAULT_AT:
                    await service.tell("now")
                scrapes.append((await client.get(url)).text)
    series = stretched(scrapes)
    answered = [one["values"] for one in series if "calls_total" in one["series"] and 'outcome="ok"' in one["series"]]
    assert any(float(values.split()[-1]) > 200 for values in answered)
    assert alerts_of(tmp_path, series) == expected


def stretched(scrapes: list[str]) -> list[dict[str, str]]:
    """Return the series of the scrapes as promtool reads them, with a minute between two scrapes. The first scrape is at the time 0."""
    found: dict[str, list[str]] = {}
    for minute, text in enumerate(scrapes):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith("ragcore_"):
                    labels = {"job": "a", "instance": "b", **sample.labels}
                    name = sample.name + "{" + ",".join(f"{key}={json.dumps(labels[key])}" for key in labels) + "}"
                    # The process started just before the hour.
                    value = 0.0 if sample.name == START_TIME else sample.value
                    values = found.setdefault(name, ["_"] * len(scrapes))
                    values[minute] = repr(value)
    return [{"series": name, "values": " ".join(values)} for name, values in found.items()]


def alerts_of(folder: Path, series: list[dict[str, str]]) -> set[str]:
    """Return the alerts that are pending or fire at any evaluation of the rules."""
    (folder / "rules.yml").write_text(alerts())
    # promtool compares with an empty result, and shows the result if it differs.
    check = {"expr": f"count by (alertname) (count_over_time(ALERTS[{MINUTES + 5}m]))", "eval_time": f"{MINUTES}m"}
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "30s",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": [{**check, "exp_samples": []}]}],
    }
    (folder / "test.yml").write_text(json.dumps(test))
    done = subprocess.run(
        [program("promtool"), "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True, check=False
    )
    found = set(re.findall(r'alertname="(\w+)"', done.stderr))
    assert (done.returncode == 0) == (not found), done.stdout + done.stderr
    return found
