"""The servers of a client, each behind a proxy: PostgreSQL, an embedding server, a reranking server, a model server."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import asyncpg

from ragcore.store import embedded, migrate
from ragcore.testing import FaultProxy, OpenAIServer

__all__ = ["DIMENSION", "ROLE", "Addresses", "Servers", "servers", "without_fsync"]

DIMENSION = 64
ROLE = "ragcore"


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of the servers.

    Attributes:
        database: DSN of the plain role.
        owner: DSN of the superuser, for connections without the proxy.
        embedding: base URL.
        reranking: base URL.
        model: base URL.
        straight_database, straight_embedding, straight_model: the same without the proxies, which cost time.
    """

    database: str
    owner: str
    embedding: str
    reranking: str
    model: str
    straight_database: str
    straight_embedding: str
    straight_model: str


@dataclass
class Servers:
    """Servers and the proxies in front of them."""

    addresses: Addresses
    embedding: OpenAIServer
    reranking: OpenAIServer
    model: OpenAIServer
    embedding_wire: FaultProxy
    reranking_wire: FaultProxy
    model_wire: FaultProxy
    database_wire: FaultProxy
    owner: asyncpg.Connection[asyncpg.Record]

    def forget(self) -> None:
        """Forget the requests that were seen."""
        for server in (self.embedding, self.reranking, self.model):
            server.requests.clear()
            server.headers.clear()


@asynccontextmanager
async def servers(
    owner_dsn: str | None = None,
    plain_dsn: str | None = None,
    *,
    model: OpenAIServer | None = None,
    embedding: OpenAIServer | None = None,
) -> AsyncIterator[Servers]:
    """Start the servers. Without DSNs, start PostgreSQL too."""
    async with AsyncExitStack() as stack:
        if owner_dsn is None or plain_dsn is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            server = await stack.enter_async_context(embedded.server(folder))
            owner_dsn, plain_dsn = server.owner_dsn.reveal(), server.dsn.reveal()
        await migrate(owner_dsn, model="fake", dimension=DIMENSION, role=ROLE)
        enter = stack.enter_async_context
        embedding = await enter(embedding or OpenAIServer(dimension=DIMENSION))
        reranking = await enter(OpenAIServer())
        model = await enter(model or OpenAIServer())
        embedding_wire = await enter(FaultProxy("127.0.0.1", embedding.port))
        reranking_wire = await enter(FaultProxy("127.0.0.1", reranking.port))
        model_wire = await enter(FaultProxy("127.0.0.1", model.port))
        base, _, where = plain_dsn.partition("?host=")
        database_wire = await enter(FaultProxy(f"{where}/.s.PGSQL.5432"))
        addresses = Addresses(
            database=f"postgresql://{ROLE}@127.0.0.1:{database_wire.port}/{base.rpartition('/')[2]}",
            owner=owner_dsn,
            embedding=f"http://127.0.0.1:{embedding_wire.port}/v1",
            reranking=f"http://127.0.0.1:{reranking_wire.port}/v1",
            model=f"http://127.0.0.1:{model_wire.port}/v1",
            straight_database=plain_dsn,
            straight_embedding=embedding.base_url,
            straight_model=model.base_url,
        )
        owner = await asyncpg.connect(owner_dsn)
        stack.push_async_callback(owner.close, timeout=1)
        wires = (embedding_wire, reranking_wire, model_wire, database_wire)
        yield Servers(addresses, embedding, reranking, model, *wires, owner)


async def without_fsync(owner: str) -> None:
    """Let the server skip waiting for the disk: no test needs its data after a crash of the machine, and each `drop database` waits for a checkpoint."""
    connection = await asyncpg.connect(owner)
    await connection.execute("alter system set fsync = off")
    await connection.execute("select pg_reload_conf()")
    await connection.close()
