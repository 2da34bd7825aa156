"""A client of a real PostgreSQL and real HTTP servers, each behind a proxy."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import psutil
from openai import AsyncOpenAI, DefaultAioHttpClient

from ragcore import (
    RAG,
    Document,
    HTTPReranker,
    OpenAIEmbedder,
    OpenAIGenerator,
    PgVectorStore,
    RerankedSearcher,
    Settings,
    Table,
    TableStore,
)
from ragcore.resilience import Bulkhead, CircuitBreaker, Policy, RetryPolicy
from ragcore.resilience.policy import policy_of
from ragcore.retrieval.retriever import Retriever
from ragcore.testing import OpenAIServer
from tests.support.servers import DIMENSION, Addresses, Servers, servers

__all__ = ["FACT", "QUESTION", "TENANT", "Bench", "Client", "Transport", "bench", "client"]

TENANT = "member"
QUESTION = "What is my deductible?"
FACT = "$1,500"
DOCUMENTS = [
    Document("plan", "# Plan\n\nYour deductible is $1,500 per calendar year."),
    Document("visits", "# Visits\n\nA visit to a specialist costs a copay of $40."),
]
POOL = 5
# The collection's table, as an existing table that `TableStore` searches. So each fault of the collection is one of this table.
EXISTING = Table(
    schema="ragcore",
    table="chunk",
    tenant="tenant",
    document="document_id",
    order="position",
    title="title",
    source="source",
    metadata="metadata",
    exact=True,
    settings={"ragcore.tenant": str},
)
Transport: TypeAlias = Literal["httpx", "aiohttp"]


@dataclass
class Client:
    """A client and its store, which holds two documents."""

    rag: RAG
    store: PgVectorStore | TableStore

    def breakers(self) -> Iterable[CircuitBreaker]:
        """All breakers of the client."""
        searcher = self.rag.retriever.store
        parts: list[object] = [self.rag.retriever.embedder, self.store, self.rag._generators.given]
        if isinstance(searcher, RerankedSearcher):
            parts.append(searcher.reranker)
        for part in parts:
            policy = policy_of(part)
            assert policy is not None
            for key in (None, "fake"):
                breaker = policy.breaker(key)
                if breaker is not None:
                    yield breaker
        for policy in self.store.read_policies.values() if isinstance(self.store, PgVectorStore) else ():
            breaker = policy.breaker()
            assert breaker is not None
            yield breaker


@dataclass
class Bench(Client, Servers):
    """A client and its servers in one process."""

    def half_closed(self) -> int:
        """The client's sockets that the peer has closed and the client has not."""
        wires = (self.embedding_wire, self.reranking_wire, self.model_wire, self.database_wire)
        ports = {self.embedding.port, self.reranking.port, self.model.port, *(wire.port for wire in wires)}
        return sum(
            connection.status == psutil.CONN_CLOSE_WAIT and connection.laddr.port not in ports
            for connection in psutil.Process().net_connections(kind="tcp")
            if connection.family == socket.AF_INET
        )


def _policy(name: str, *, attempt_timeout: float = 5.0, **options: Any) -> Policy:
    """Return the default policy, except that its breaker probes soon. Otherwise each cell would take as long as a break of the breaker."""
    return Policy(
        name,
        attempt_timeout=attempt_timeout,
        retry=RetryPolicy(attempts=3, backoff=0.05, max_backoff=0.5),
        breaker=CircuitBreaker(break_duration=0.2, max_break_duration=0.4, name=name),
        **options,
    )


@asynccontextmanager
async def client(
    addresses: Addresses,
    *,
    model_policy: Policy | None = None,
    transport: Transport = "httpx",
    reranks: bool = False,
    read_dsn: str | None = None,
    searches_table: bool = False,
) -> AsyncIterator[Client]:
    """Start a client of these servers and add two documents.

    Args:
        read_dsn: DSN of a replica.
        reranks: whether the client also uses the reranking server.
        searches_table: whether the client searches with a `TableStore`.
    """
    clients = [
        AsyncOpenAI(base_url=url, api_key="none", http_client=DefaultAioHttpClient())
        for url in (addresses.embedding, addresses.model)
        if transport == "aiohttp"
    ]
    for_embedding, for_model = clients or (None, None)
    policy = _policy("database", attempt_timeout=10.0, bulkhead=Bulkhead(POOL, queue=200))
    collection = PgVectorStore(addresses.database, read_dsn=read_dsn, pool_size=POOL, policy=policy)
    store = TableStore(addresses.database, EXISTING, pool_size=POOL, policy=policy) if searches_table else collection
    embedder = OpenAIEmbedder(
        "fake",
        dimension=DIMENSION,
        base_url=addresses.embedding,
        api_key="none",
        client=for_embedding,
        policy=_policy("embedding", bulkhead=Bulkhead(64, queue=256)),
    )
    generator = OpenAIGenerator(
        "fake",
        base_url=addresses.model,
        api_key="none",
        client=for_model,
        policy=model_policy or _policy("generation", bulkhead=Bulkhead(128, queue=256), idle_timeout=5.0),
    )
    reranker = HTTPReranker(
        "fake",
        api="jina",
        base_url=addresses.reranking,
        policy=_policy("reranking", bulkhead=Bulkhead(128, queue=256)),
    )
    searcher = RerankedSearcher(store, reranker) if reranks else store
    retriever = Retriever(store=searcher, embedder=embedder)
    if searches_table:
        async with RAG(retriever=Retriever(store=collection, embedder=embedder), generator=generator) as rag:
            await rag.add(DOCUMENTS, tenant=TENANT)
    async with RAG(retriever=retriever, generator=generator, settings=Settings(drain=0.5)) as rag:
        if not searches_table:
            await rag.add(DOCUMENTS, tenant=TENANT)
        yield Client(rag, store)
    for opened in clients:
        await opened.close()


@asynccontextmanager
async def bench(
    owner_dsn: str | None = None,
    plain_dsn: str | None = None,
    *,
    model: OpenAIServer | None = None,
    model_policy: Policy | None = None,
    reranks: bool = False,
    searches_table: bool = False,
) -> AsyncIterator[Bench]:
    """Start servers, proxies and a client in one process. Without DSNs it also starts a PostgreSQL."""
    async with servers(owner_dsn, plain_dsn, model=model) as around:
        async with client(
            around.addresses, model_policy=model_policy, reranks=reranks, searches_table=searches_table
        ) as made:
            yield Bench(**vars(around), **vars(made))
