"""Runs ragcore's reference application in its own process, reachable over HTTP, as a client of given servers."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import anyio
from tests.support.child import Child
from tests.support.elsewhere import Elsewhere, elsewhere
from tests.support.servers import Addresses

from benchmarks.targets.library import LATENCIES, MEMBER, client
from benchmarks.targets.served import serve, served
from ragcore.contrib.asgi import Identity, app
from ragcore.demo.questions import DOCUMENTS
from ragcore.ingest import read
from ragcore.loadtest.http import HttpOptions

__all__ = ["reference"]

TOKEN = "benchmark"  # not a secret: only this machine can reach the server, and only during a run


@asynccontextmanager
async def reference() -> AsyncIterator[tuple[HttpOptions, Child, Elsewhere]]:
    """Start the application. Yields the options to ask it, its process, and the process of its servers."""
    async with (
        elsewhere(**LATENCIES) as servers,
        served("benchmarks.targets.reference", asdict(servers.addresses)) as (url, process),
    ):
        options = HttpOptions(url=f"{url}/chat", accept="text/event-stream", token=TOKEN, health_url=f"{url}/livez")
        yield options, process, servers


async def _authenticate(scope: Mapping[str, Any]) -> Identity | None:
    given = dict(scope["headers"]).get(b"authorization", b"")
    return Identity(MEMBER) if given == f"Bearer {TOKEN}".encode() else None


async def _main(addresses: Addresses) -> None:
    rag = client(addresses)
    async with rag:
        await rag.add(read(DOCUMENTS / MEMBER), tenant=MEMBER)
        await serve(app(rag, authenticate=_authenticate))


if __name__ == "__main__":
    anyio.run(_main, Addresses(**json.loads(sys.argv[1])))
