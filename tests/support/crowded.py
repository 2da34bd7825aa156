"""A client in its own process, for the cells of the overload grid that run in real time. It receives commands over a socket.

`python -m tests.support.crowded ADDRESSES` prints its port. Each received line is a JSON object with the next cell or a question. Each reply is one line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from ragcore import RAG, Document, OpenAIEmbedder, OpenAIGenerator, Overloaded, PgVectorStore, RagcoreError
from ragcore.resilience import Bulkhead, Policy
from ragcore.retrieval.retriever import Retriever
from tests.support.bench import FACT, QUESTION
from tests.support.child import child, obey
from tests.support.overload import Cell, Ending
from tests.support.servers import DIMENSION, Addresses

__all__ = ["Crowded", "crowded"]

MOST_LINE = 10_000
WARM_UP = 6


class Crowded:
    """The driver's connection to the client."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self._waiting: dict[int, tuple[anyio.Event, list[Mapping[str, Any]]]] = {}
        self._number = 0
        self._sending = anyio.Lock()

    async def cell(self, cell: Cell) -> float:
        """Begin this cell. Return the seconds for which an answer holds a place, measured with one question at a time."""
        return float((await self._ask({"cell": asdict(cell)}))["service"])

    async def ask(self, tenant: str, timeout: float) -> tuple[Ending, str]:
        """Ask a question. Return its outcome and the reported reason."""
        said = await self._ask({"tenant": tenant, "timeout": timeout})
        return said["ending"], said["reason"]

    async def listen(self) -> None:
        """Deliver replies to their callers until cancelled."""
        lines = BufferedByteReceiveStream(self._stream)
        while True:
            said = json.loads(await lines.receive_until(b"\n", MOST_LINE))
            event, answer = self._waiting.pop(said["number"])
            answer.append(said)
            event.set()

    async def _ask(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        self._number += 1
        event, answer = self._waiting[self._number] = (anyio.Event(), [])
        line = (json.dumps({"number": self._number, **what}) + "\n").encode()
        async with self._sending:
            await self._stream.send(line)
        await event.wait()
        return answer[0]


@asynccontextmanager
async def crowded(addresses: Addresses) -> AsyncIterator[Crowded]:
    """Start a client of these servers in its own process."""
    async with child("tests.support.crowded", asdict(addresses)) as process:
        async with await anyio.connect_tcp("127.0.0.1", int(process.said["port"])) as stream:
            client = Crowded(stream)
            async with anyio.create_task_group() as group:
                group.start_soon(client.listen)
                yield client
                group.cancel_scope.cancel()


class _Client:
    """Answers the questions."""

    def __init__(self, retriever: Retriever, base_url: str) -> None:
        self._retriever = retriever
        self._base_url = base_url
        self._rag: RAG | None = None

    async def cell(self, cell: Cell) -> dict[str, Any]:
        """Create a client whose model has the cell's number of slots."""
        if self._rag is not None:
            await self._rag.aclose(drain=0.0)
        policy = Policy("generation", bulkhead=Bulkhead(cell.slots, queue=cell.queue))
        generator = OpenAIGenerator("fake", base_url=self._base_url, api_key="none", policy=policy)
        self._rag = RAG(retriever=self._retriever, generator=generator)
        await self._rag.start()
        for _ in range(WARM_UP):  # the first calls are slower, so they must not count for the cell
            await self._rag.ask(QUESTION, tenant="warm", timeout=30)
        assert policy.bulkhead is not None
        return {"service": policy.bulkhead.service_time}

    async def ask(self, tenant: str, timeout: float) -> dict[str, Any]:
        """Ask one question."""
        assert self._rag is not None
        ending: Ending = "other"
        reason = ""
        try:
            answer = await self._rag.ask(QUESTION, tenant=tenant, timeout=timeout)
        except Overloaded as error:
            ending, reason = "shed", str(error)
        except RagcoreError as error:
            reason = str(error)
        else:
            right = FACT in answer.text and not answer.degraded
            ending = "good" if right else "other"
            reason = "; ".join(part.reason for part in answer.degraded)
        return {"ending": ending, "reason": reason}


async def _main(addresses: Addresses) -> None:
    store = PgVectorStore(addresses.straight_database)
    embedder = OpenAIEmbedder("fake", dimension=DIMENSION, base_url=addresses.straight_embedding, api_key="none")
    async with Retriever(store=store, embedder=embedder) as retriever:
        client = _Client(retriever, addresses.straight_model)
        async with RAG(retriever=retriever, generator=OpenAIGenerator("fake", api_key="none")) as rag:
            for tenant in ("warm", "member"):
                await rag.add([Document("plan", "Your deductible is $1,500 per calendar year.")], tenant=tenant)
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, lambda stream: _serve(stream, client))
            print(json.dumps({"port": listener.extra(anyio.abc.SocketAttribute.local_port)}), flush=True)
            async for _ in obey():
                pass
            group.cancel_scope.cancel()


async def _serve(stream: anyio.abc.SocketStream, client: _Client) -> None:
    sending = anyio.Lock()

    async def answer(number: int, work: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        said = {"number": number, **await work()}
        async with sending:
            await stream.send((json.dumps(said) + "\n").encode())

    lines = BufferedByteReceiveStream(stream)
    async with stream, anyio.create_task_group() as group:
        while True:
            try:
                told = json.loads(await lines.receive_until(b"\n", MOST_LINE))
            except (anyio.IncompleteRead, anyio.BrokenResourceError):
                group.cancel_scope.cancel()
                return
            if "cell" in told:
                cell = Cell(**told["cell"])
                group.start_soon(answer, told["number"], lambda cell=cell: client.cell(cell))
            else:
                tenant, timeout = told["tenant"], told["timeout"]
                group.start_soon(
                    answer, told["number"], lambda tenant=tenant, timeout=timeout: client.ask(tenant, timeout)
                )


if __name__ == "__main__":
    anyio.run(_main, Addresses(**json.loads(sys.argv[1])))
