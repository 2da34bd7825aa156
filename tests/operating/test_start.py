"""The start and the first calls import nothing on the event loop, so the watchdog never reports that ragcore's own start blocks the loop."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, json, ssl, sys, threading
import ragcore
from ragcore import testing

watching, loaded = False, []


def hook(event, arguments):
    if watching and event == "import" and threading.current_thread() is threading.main_thread():
        if arguments[0] not in sys.modules:
            loaded.append(arguments[0])


def watched(make):
    def made(*args, **kwargs):
        if watching and threading.current_thread() is threading.main_thread():
            loaded.append("a TLS context")
        return make(*args, **kwargs)
    return made


sys.addaudithook(hook)
ssl.create_default_context = watched(ssl.create_default_context)


async def main():
    global watching
    async with testing.OpenAIServer(dimension=8) as server:
        async with testing.FakeEmbedder() as fake:
            await fake.embed(["the server's own fake loads its random numbers"], kind="document")
        rag = ragcore.RAG(
            retriever=ragcore.Retriever(
                store=ragcore.MemoryStore(),
                embedder=ragcore.OpenAIEmbedder("fake", dimension=8, base_url=server.base_url, api_key="none"),
            ),
            generator=ragcore.OpenAIGenerator("fake", base_url=server.base_url, api_key="none"),
        )
        watching = True
        await rag.start()
        await rag.add([ragcore.Document("d", "Your deductible is $1,500.")], tenant="t")
        await rag.ask("deductible?", tenant="t")
        await rag.retrieve("deductible", tenant="t", mode="hybrid")
        await rag.similarity("deductible?", tenant="t")
        await rag.health()
        async with rag.stream("What is my deductible?", tenant="t") as stream:
            await stream.answer()
        await rag.aclose()
        await rag.start()
        await rag.ask("deductible again?", tenant="t")
        await rag.aclose()
        watching = False


asyncio.run(main())
print(json.dumps(loaded))
"""


@pytest.mark.slow
def test_start_and_first_calls_import_nothing_on_the_event_loop() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    assert "blocked" not in done.stderr
