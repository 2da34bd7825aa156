"""`ragcore copy` that is killed midway and run again: the target then holds what the source holds."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta

import anyio
import anyio.abc
import asyncpg
import pytest
from tests.store.contract import DIMENSION, embedded, expiring

from ragcore import Origin, PgVectorStore
from ragcore.store import migrate, share, unshare

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]
TENANTS = [f"t{number}" for number in range(8)]
DOCUMENTS = 60
# The columns of each table that a copy keeps.
COPIED = {
    "document": "tenant, id, content_hash, model, expires_at",
    "chunk": "tenant, id, document_id, position, text, title, source, start_char, end_char, metadata::text, embedding::text, expires_at",
    "posting": "*",
    "origin": "tenant, document_id, source, entry, version",
    "shared_tenant": "*",
}


def command(owner_dsn: str, *arguments: str) -> list[str]:
    named = ["--from", "old", "--to", "new", "--role", "ragcore", "--owner-dsn", owner_dsn]
    return [sys.executable, "-m", "ragcore", "copy", *named, *arguments]


async def fill(store: PgVectorStore) -> None:
    for tenant in TENANTS:
        documents = [
            embedded(f"d{number}", *(f"gold plan {number} part {part} of {tenant}" for part in range(4)))
            for number in range(DOCUMENTS)
        ]
        documents.append(expiring(embedded("late", "expires soon"), datetime.now(UTC) + timedelta(days=1), "late"))
        await store.upsert(documents, tenant=tenant)
        await store.record_origins({"d1": Origin(source="/srv/a", entry="one", version="v1")}, tenant=tenant)


async def count(owner: asyncpg.Connection[asyncpg.Record]) -> int:
    """Return the number of documents in the target; 0 if it does not exist yet."""
    if await owner.fetchval("select to_regclass('new.document') is null"):
        return 0
    return int(await owner.fetchval("select count(*) from new.document"))


@pytest.mark.thorough
@pytest.mark.blocking_allowed
@pytest.mark.timeout(120)
async def test_a_copy_that_was_killed_is_completed_by_the_next_run(database: tuple[str, str]) -> None:
    await migrate(database[1], model="fake", dimension=DIMENSION, role="ragcore", schema="old")
    for tenant in ("t0", "t1"):
        await share(database[1], tenant, schema="old")
    async with PgVectorStore(database[0], schema="old") as store:
        await fill(store)
    everything = len(TENANTS) * (DOCUMENTS + 1)
    owner = await asyncpg.connect(database[1])
    try:
        async with await anyio.open_process(command(database[1], "--partitions", "4"), stderr=None) as process:
            while await count(owner) < everything // 3:
                assert process.returncode is None
                await anyio.sleep(0.01)
            process.kill()
        assert process.returncode == -9
        left = everything - await count(owner)
        assert 0 < left < everything

        async with PgVectorStore(database[0], schema="old") as store:
            assert await store.delete(["d0"], tenant="t1") == 1  # the first run has copied it
            await store.upsert([embedded("d1", "changed", hash="2")], tenant="t0")
        await unshare(database[1], "t1", schema="old")
        done = await anyio.run_process(command(database[1], "--json"), check=False)
        assert done.returncode == 0, done.stderr.decode()
        report = json.loads(done.stdout)
        assert report["differing"] == 0
        # The document that the first run was writing when it was killed may be complete on the server.
        assert left - 1 <= report["documents"] <= left + 1
        for table, columns in COPIED.items():
            rows = {
                schema: sorted(map(repr, map(tuple, await owner.fetch(f"select {columns} from {schema}.{table}"))))
                for schema in ("old", "new")
            }
            assert rows["old"], table
            assert rows["new"] == rows["old"], table
        assert await owner.fetchval("select count(*) from pg_inherits where inhparent = 'new.chunk'::regclass") == 4
    finally:
        await owner.close()
