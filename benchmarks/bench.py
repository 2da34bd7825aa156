"""A client with each of its dependencies behind a proxy, against a real PostgreSQL and a real HTTP server."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import psutil

from ragcore import RAG, Document, OpenAIEmbedder, OpenAIGenerator, PgVectorStore, Settings
from ragcore.resilience import Bulkhead, CircuitBreaker, Policy, RetryPolicy
from ragcore.retriever import Retriever
from ragcore.store import embedded, migrate
from ragcore.testing import FaultProxy, OpenAIServer

__all__ = ["FACT", "QUESTION", "TENANT", "Bench", "bench"]

TENANT = "member"
QUESTION = "What is my deductible?"
FACT = "$1,500"
DOCUMENTS = [
    Document("plan", "# Plan\n\nYour deductible is $1,500 per calendar year."),
    Document("visits", "# Visits\n\nA visit to a specialist costs a copay of $40."),
]
DIMENSION = 64
POOL = 5
# Back more than this after the deadline is late, net of the loop's lag; this much after it is hung.


@dataclass
class Bench:
    """A client with each of its dependencies behind a proxy."""

    rag: RAG
    store: PgVectorStore
    embedding: OpenAIServer
    model: OpenAIServer
    embedding_wire: FaultProxy
    model_wire: FaultProxy
    database_wire: FaultProxy
    owner: asyncpg.Connection[asyncpg.Record]
    owner_dsn: str
    role: str

    def breakers(self) -> Iterable[CircuitBreaker]:
        """All breakers of the client."""
        for part in (self.rag.retriever.embedder, self.store, self.rag._given):
            policy: Policy = part.policy  # type: ignore[union-attr]
            for key in (None, "fake"):
                breaker = policy.breaker(key)
                if breaker is not None:
                    yield breaker

    def half_closed(self) -> int:
        """The client's sockets that the peer has closed and the client has not."""
        wires = (self.embedding_wire, self.model_wire, self.database_wire)
        ports = {self.embedding.port, self.model.port, *(wire.port for wire in wires)}
        return sum(
            connection.status == psutil.CONN_CLOSE_WAIT and connection.laddr.port not in ports
            for connection in psutil.Process().net_connections(kind="tcp")
            if connection.family == socket.AF_INET
        )


def _policy(name: str, *, attempt_timeout: float = 5.0, **options: Any) -> Policy:
    """The default one, but for a breaker that probes soon, or each cell would take as long as a break."""
    return Policy(
        name,
        attempt_timeout=attempt_timeout,
        retry=RetryPolicy(attempts=3, backoff=0.05, max_backoff=0.5),
        breaker=CircuitBreaker(break_duration=0.2, max_break_duration=0.4, name=name),
        **options,
    )


@asynccontextmanager
async def bench(
    owner_dsn: str | None = None,
    plain_dsn: str | None = None,
    *,
    model: OpenAIServer | None = None,
    model_policy: Policy | None = None,
) -> AsyncIterator[Bench]:
    """Servers, proxies and a client, with two documents in the store. Without DSNs it starts a PostgreSQL of its own."""
    async with AsyncExitStack() as stack:
        if owner_dsn is None or plain_dsn is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            server = await stack.enter_async_context(embedded.server(folder))
            owner_dsn, plain_dsn = server.owner_dsn.reveal(), server.dsn.reveal()
        await migrate(owner_dsn, model="fake", dimension=DIMENSION, role="ragcore")
        enter = stack.enter_async_context
        embedding, model = await enter(OpenAIServer(dimension=DIMENSION)), await enter(model or OpenAIServer())
        embedding_wire = await enter(FaultProxy("127.0.0.1", embedding.port))
        model_wire = await enter(FaultProxy("127.0.0.1", model.port))
        base, _, where = plain_dsn.partition("?host=")
        database_wire = await enter(FaultProxy(f"{where}/.s.PGSQL.5432"))
        name = base.rpartition("/")[2]
        store = PgVectorStore(
            f"postgresql://ragcore@127.0.0.1:{database_wire.port}/{name}",
            pool_size=POOL,
            policy=_policy("database", attempt_timeout=10.0, bulkhead=Bulkhead(POOL, queue=200)),
        )
        embedder = OpenAIEmbedder(
            "fake",
            dimension=DIMENSION,
            base_url=f"http://127.0.0.1:{embedding_wire.port}/v1",
            api_key="none",
            policy=_policy("embedding", bulkhead=Bulkhead(64, queue=256)),
        )
        generator = OpenAIGenerator(
            "fake",
            base_url=f"http://127.0.0.1:{model_wire.port}/v1",
            api_key="none",
            policy=model_policy or _policy("generation", bulkhead=Bulkhead(128, queue=256), idle_timeout=5.0),
        )
        owner = await asyncpg.connect(owner_dsn)
        stack.push_async_callback(owner.close, timeout=1)
        rag = await enter(
            RAG(retriever=Retriever(store=store, embedder=embedder), generator=generator, settings=Settings(drain=0.5))
        )
        await rag.add(DOCUMENTS, tenant=TENANT)
        yield Bench(
            rag, store, embedding, model, embedding_wire, model_wire, database_wire, owner, owner_dsn, "ragcore"
        )
