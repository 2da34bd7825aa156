"""Programs that use OpenAI's protocol work with ragcore's OpenAI-compatible API. Each runs unmodified in its own environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from ragcore import Passage
from ragcore.contrib import asgi
from ragcore.protocols import Query
from ragcore.testing import FakeGenerator, fake_rag
from tests.conftest import outside
from tests.support.environments import InstallError, environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "clients"
CACHE = ROOT / ".cache" / "clients"
PYTHON = {
    "langchain": "langchain_client.py",
    "llama-index": "llama_index_client.py",
    "pydantic-ai": "pydantic_ai_client.py",
    "litellm": "litellm_client.py",
}
NPM = {"openai_npm.mjs": ("openai@6",), "ai_npm.mjs": ("ai@6", "@ai-sdk/openai-compatible@2")}
TEXT = "Your deductible is $1,500 [1]."
KEY = "a-member's-token"


class OnePassage:
    """Finds the same passage for every question."""

    async def search(self, query: Query, /) -> Sequence[Passage]:
        return [Passage("c", "plan", "Your deductible is $1,500 per calendar year.", score=0.9)]


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tokens = tmp_path_factory.mktemp("clients") / "tokens.json"
    tokens.write_text(json.dumps({KEY: {"tenant": "m"}}))
    rag = fake_rag(store=OnePassage(), generator=FakeGenerator(TEXT))
    config = uvicorn.Config(
        asgi.app(rag, authenticate=asgi.from_tokens(tokens)), port=0, log_level="warning", lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    thread.join(10)


def said(command: list[str], cwd: Path) -> dict[str, Any]:
    quiet = {"OPENAI_AGENTS_DISABLE_TRACING": "1", "DO_NOT_TRACK": "1", "LANGCHAIN_TRACING_V2": "false"}
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **quiet}
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_the_openai_package_works(base_url: str) -> None:
    found = said([sys.executable, str(PROGRAMS / "openai_client.py"), base_url, KEY], ROOT)
    assert (found["whole"], found["streamed"]) == (TEXT, TEXT)
    assert found["refused"] == ["response_format", "unsupported_parameter", True]
    assert found["id"]


@pytest.mark.thorough
@pytest.mark.parametrize("group", PYTHON)
def test_python_clients_work(base_url: str, group: str) -> None:
    python = installed(group)
    found = said([str(python), str(PROGRAMS / PYTHON[group]), base_url, KEY], CACHE)
    assert (found["whole"], found["streamed"]) == (TEXT, TEXT)


@pytest.mark.thorough
@pytest.mark.parametrize("program", NPM)
def test_npm_clients_work(base_url: str, program: str) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = CACHE / program.removesuffix(".mjs")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", *NPM[program]]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        pytest.skip(f"{', '.join(NPM[program])} can't be installed: {done.stderr[-300:]}")
    shutil.copy(PROGRAMS / program, folder / program)
    found = said(["node", program, base_url, KEY], folder)
    assert (found["whole"], found["streamed"]) == (TEXT, TEXT)


def installed(name: str) -> Path:
    """Return the Python of a client's virtual environment. Skip the test if the environment can't be created."""
    try:
        return environment("clients", name, variables=outside())
    except InstallError as error:
        pytest.skip(f"{name} can't be installed: {error}")
