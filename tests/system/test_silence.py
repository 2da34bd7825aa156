"""The local embedder is silent: it writes no file to the home folder, resolves no name and opens no connection."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

PROGRAM = """
import sys, time, anyio
import {first}
from ragcore import LocalEmbedder

async def main():
    async with LocalEmbedder() as embedder:
        await embedder.embed(["How much is a visit?"], kind="query")
    time.sleep(2)  # what is written or sent on the side comes within a second

anyio.run(main)
"""
# onnxruntime sends no telemetry if it believes that it runs in a CI build.
KEPT = ("PATH", "VIRTUAL_ENV", "LANG")
LOOPBACK = re.compile(r'sin_addr=inet_addr\("127\.|inet_pton\(AF_INET6, "::1"|AF_UNIX|AF_UNSPEC|AF_NETLINK')


@pytest.mark.parametrize("first", ["ragcore", "onnxruntime"])
def test_the_local_embedder_is_silent(tmp_path: Path, first: str) -> None:
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    environment = {name: os.environ[name] for name in KEPT if name in os.environ} | {"HOME": str(home)}
    command = [sys.executable, "-c", PROGRAM.format(first=first)]
    strace = shutil.which("strace")
    if strace is not None:
        command = [strace, "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(trace), *command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    # If onnxruntime is imported first, it begins its telemetry before ragcore can switch it off.
    if first == "ragcore":
        assert list(home.rglob("*")) == []
    if strace is None:
        pytest.skip("strace is not installed: only the home folder was checked")
    addressed = [line for line in trace.read_text().splitlines() if "sa_family=" in line]
    assert [line for line in addressed if not LOOPBACK.search(line)] == []
