"""The commands of the manual about rollouts, as separate processes, on a rollout whose state is in PostgreSQL."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import partial

import anyio
import pytest

from ragcore import PgVectorStore
from ragcore.rollout import Rollout
from ragcore.store import migrate

from ..conftest import ROOT
from ..rollout.sides import Function

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.blocking_allowed, pytest.mark.timeout(200)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def ragcore(dsn: str, *words: str) -> subprocess.CompletedProcess[str]:
    # There is no key and no embedder: a rollout can be aborted while they are missing. An empty key counts as missing.
    environment = {**os.environ, "DATABASE_URL": dsn, "OPENAI_API_KEY": ""}
    command = [sys.executable, "-m", "ragcore", *words]
    run = partial(subprocess.run, command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    return await anyio.to_thread.run_sync(run)


@pytest.mark.thorough
async def test_the_commands_of_the_manual_change_the_rollout(database: tuple[str, str]) -> None:
    dsn, owner = database
    await migrate(owner, model="fake", dimension=64, role="ragcore")
    page = (ROOT / "docs" / "how-to" / "rollout.md").read_text()
    commands = re.findall(r"^ragcore (rollout \w+)( \S+)?(?: --reason \"(.*)\")?$", page, re.MULTILINE)
    seen = []
    async with Rollout(
        Function("stable"), Function("candidate"), name="release-7", store=PgVectorStore(dsn, pool_size=2)
    ) as rollout:
        for command, name, reason in commands:
            words = [*command.split(), *name.split(), *(["--reason", reason] if reason else [])]
            done = await ragcore(dsn, *words)
            assert done.returncode == 0, done.stderr
            status = json.loads((await ragcore(dsn, "rollout", "status", "--json")).stdout)
            state = status["rollouts"][0]["state"]
            seen.append((words[1], state["status"], state["share"], state["reason"]))
        with anyio.fail_after(20):
            while rollout.state.status != "rolled_back":
                await anyio.sleep(0.1)
    assert seen == [
        ("status", "running", 0.05, ""),
        ("pause", "paused", 0.05, "holiday"),
        ("resume", "running", 0.05, "by hand"),
        ("promote", "running", 0.25, "by hand"),
        ("abort", "rolled_back", 0.0, "complaints"),
    ]
    shown = await ragcore(dsn, "rollout", "status")
    assert "release-7: rolled_back, share 0% of steps 5%, 25%, 100%" in shown.stdout
    assert "complaints" in shown.stdout
    for wrong in (("abort", "release-7"), ("abort", "release-9"), ("status", "release-9")):
        done = await ragcore(dsn, "rollout", *wrong)
        assert done.returncode == 2
        assert "release-7" in done.stderr or "release-9" in done.stderr
