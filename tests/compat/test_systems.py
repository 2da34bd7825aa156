"""The library works without the modules that exist only on POSIX systems. The embedded PostgreSQL needs them; without them, its error says so."""

from __future__ import annotations

import json
import subprocess
import sys

WITHOUT = """
import importlib.util, json, sys

POSIX = {"fcntl", "pwd", "grp", "resource", "termios"}




for name in POSIX:
    sys.modules.pop(name, None)
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in POSIX else find(name, package)
sys.modules.update(dict.fromkeys(POSIX))

import anyio
import ragcore
import ragcore.cli.commands, ragcore.contrib.asgi, ragcore.ingest.worker, ragcore.blocking, ragcore.loadtest.command
from ragcore import testing

for place in ragcore.cli.commands.COMMANDS.values():  # a command's module is imported when the command is looked up
    importlib.import_module(place.partition(":")[0])


async def main():
    async with testing.fake_rag() as rag:
        await rag.add([ragcore.Document("d", "Your deductible is $1,500.")], tenant="t")
        answer = await rag.ask("What is my deductible?", tenant="t")
        health = await rag.health()
        return [answer.found, health.ready]


told = anyio.run(main)
try:
    ragcore.RAG.from_config(ragcore.Config.local("data"))
except ragcore.ConfigurationError as error:
    told.append(str(error))
print(json.dumps(told))
"""


def test_only_the_embedded_server_needs_a_posix_system() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found, ready, message = json.loads(done.stdout)
    assert (found, ready) == (True, True)
    assert "needs a POSIX system" in message
