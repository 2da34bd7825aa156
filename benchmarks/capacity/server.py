"""An embedded PostgreSQL with the memory of a server for large collections, and the processor time of its connections."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import asyncpg

from ragcore.store import embedded
from ragcore.store.embedded import Server
from ragcore.store.postgres.extension import encode_vector, find_extension

__all__ = ["SETTINGS", "Owner", "backends", "connected", "processor_seconds", "server"]

Owner: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# The settings that differ from PostgreSQL's defaults. They stand in the report. Checkpoints are rare, so that they don't fall into one of two measurements.
SETTINGS = {
    "shared_buffers": "3GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "max_parallel_maintenance_workers": "2",
    "jit": "off",
}


@asynccontextmanager
async def server(settings: dict[str, str] | None = None) -> AsyncIterator[Server]:
    """Start a server in a new folder with these settings, and remove it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        async with embedded.server(folder) as new:
            owner = await asyncpg.connect(new.owner_dsn.reveal())
            try:
                for name, value in (SETTINGS if settings is None else settings).items():
                    await owner.execute(f"alter system set {name} = '{value}'")
            finally:
                await owner.close()
        # shared_buffers takes effect at a start.
        async with embedded.server(folder) as running:
            yield running


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Owner]:
    """Yield a connection that writes vectors in pgvector's binary format, and close it at the end. The database must have pgvector."""
    connection = await asyncpg.connect(dsn)
    try:
        extension = await find_extension(connection)
        await connection.set_type_codec(
            "vector", schema=extension.schema, encoder=encode_vector, decoder=bytes, format="binary"
        )
        yield connection
    finally:
        await connection.close()


def processor_seconds(pids: Iterable[int]) -> float:
    """Return the processor time that running processes have had, in seconds. Unlike elapsed time, it hardly depends on other processes of the machine.

    Source: https://docs.kernel.org/scheduler/sched-stats.html
    """
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9


async def backends(owner: Owner) -> list[int]:
    """Return the processes of all connections of clients."""
    rows = await owner.fetch("select pid from pg_stat_activity where backend_type = 'client backend'")
    return [row["pid"] for row in rows]
