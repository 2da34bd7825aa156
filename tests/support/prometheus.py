"""Runs Prometheus and promtool, which Debian's package `prometheus` installs. Tests are skipped with a message where they are missing."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

__all__ = ["Prometheus", "program", "prometheus"]

START_SECONDS = 30.0


def program(name: str) -> str:
    """Return the path of a program of Prometheus; skip the test if it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"NOT TESTED: {name} is not installed: `apt-get install prometheus`, or put it on the PATH")
    return found


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=f"{url}/api/v1", timeout=30)

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression now. It must be valid."""
        response = await self._client.get("/query", params={"query": expression})
        assert response.status_code == 200, (expression, response.text)
        found: list[dict[str, Any]] = response.json()["data"]["result"]
        return found

    async def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are pending or fire."""
        found: list[dict[str, Any]] = (await self._client.get("/alerts")).json()["data"]["alerts"]
        return found

    async def targets(self) -> list[dict[str, Any]]:
        """Return the targets with their last error."""
        found: list[dict[str, Any]] = (await self._client.get("/targets")).json()["data"]["activeTargets"]
        return found

    async def aclose(self) -> None:
        await self._client.aclose()


@asynccontextmanager
async def prometheus(
    folder: Path, *, rules: str, targets: Mapping[str, int], scrape: float
) -> AsyncIterator[Prometheus]:
    """Run Prometheus for a block.

    Args:
        folder: for its data.
        rules: the file of rules, as text.
        targets: the port of each target, by the name of its label `job`.
        scrape: seconds between two scrapes.
    """
    binary = program("prometheus")
    (folder / "rules.yml").write_text(rules)
    jobs = [
        {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for name, port in targets.items()
    ]
    every = f"{1000 * scrape:.0f}ms"
    config = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": jobs,
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    running = Prometheus(f"http://{address}")
    try:
        with anyio.fail_after(START_SECONDS):
            while True:
                try:
                    await running.query("1")
                    break
                except (httpx.HTTPError, AssertionError):
                    assert process.poll() is None, (folder / "log").read_text()
                    await anyio.sleep(0.1)
        yield running
    finally:
        await running.aclose()
        process.terminate()
        process.wait(10)
