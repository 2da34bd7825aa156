"""Documents that expire, in real PostgreSQL: the rights to remove them, and the rows that are removed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import asyncpg
import pytest

from ragcore import Document, PgVectorStore
from ragcore.ingest import Ingestor
from ragcore.store import migrate, reembed
from ragcore.testing import FakeEmbedder

from .contract import DIMENSION, LETTER, MODES, PLAN, embedded, expiring, ids, query

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]
PAST = datetime.now(UTC) - timedelta(days=1)
FUTURE = datetime.now(UTC) + timedelta(days=365)


async def owned(database: tuple[str, str]) -> str:
    """Return the DSN of an owner that is not a superuser, so that row-level security applies to it."""
    admin = await asyncpg.connect(database[1])
    name = await admin.fetchval("select current_database()")
    role = f"owner_of_{name}"
    await admin.execute(f"create role {role} login; create extension vector; alter database {name} owner to {role}")
    await admin.close()
    return database[1].replace("postgres@", f"{role}@")


async def test_the_application_removes_only_expired_documents(database: tuple[str, str]) -> None:
    owner = await owned(database)
    await migrate(owner, model="fake", dimension=DIMENSION, role="ragcore")
    async with PgVectorStore(database[0]) as store:
        for tenant in ("a", "b", "c"):
            documents = [expiring(LETTER, PAST, f"old{n}") for n in range(40)]
            await store.upsert([*documents, PLAN, expiring(LETTER, FUTURE, "new")], tenant=tenant)
        await store.upsert([PLAN], tenant="d")
        assert (await store.count(tenant=None)).documents == 3 * 42 + 1
        removed = []
        while some := await store.expire(limit=50):
            removed.append(some)
        assert sum(sum(some.values()) for some in removed) == 120
        assert all(sum(some.values()) <= 50 for some in removed)
        for tenant in ("a", "b", "c"):
            assert set(await store.hashes(None, tenant=tenant)) == {"plan", "new"}
        assert set(await store.hashes(None, tenant="d")) == {"plan"}
        assert (await store.inspect()).findings() == []
    watcher = await asyncpg.connect(database[1])
    assert await watcher.fetchval("select count(*) from ragcore.posting where chunk_id like 'old%'") == 0
    assert await watcher.fetchval("select count(*) from ragcore.posting where chunk_id like 'new%'") > 0
    # Roles other than the application and the owner may not remove documents.
    await watcher.execute("set role pg_read_all_data")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await watcher.execute("select ragcore.remove_expired(10)")
    await watcher.close()


async def test_chunks_that_expire_while_facts_are_remembered_take_no_places(migrated: tuple[str, str]) -> None:
    """The store remembers for a minute that a tenant has no expired documents. Documents that expire within that minute must not crowd out others."""
    watcher = await asyncpg.connect(migrated[1])
    async with PgVectorStore(migrated[0]) as store:
        soon = datetime.now(UTC) + timedelta(seconds=3)
        await store.upsert([expiring(embedded("x", "deductible"), soon, f"soon{n}") for n in range(250)], tenant="a")
        kept = embedded("the rest", "the deductible of this plan, among many other words that make the text longer")
        await store.upsert([kept], tenant="a")
        asked = query("deductible", mode="text", top_k=5)
        assert len(await ids(store, asked)) == 5
        while not await watcher.fetchval("select clock_timestamp() > $1", soon):
            await anyio.sleep(0.1)
        assert await ids(store, asked) == ["the rest#0"]
    await watcher.close()


async def test_a_collection_that_is_embedded_again_expires_as_the_old_one_did(database: tuple[str, str]) -> None:
    owner = await owned(database)
    await migrate(owner, model="fake", dimension=DIMENSION, role="ragcore")
    async with PgVectorStore(database[0]) as store, FakeEmbedder(dimension=8) as embedder:
        embedder.model = "new"
        await store.upsert([expiring(LETTER, PAST, "past"), expiring(LETTER, FUTURE, "future"), PLAN], tenant="a")
        done = await reembed(owner, source="ragcore", target="second", embedder=embedder, role="ragcore")
        assert (done.documents, done.differing) == (3, 0)
        watcher = await asyncpg.connect(database[1])
        rows = await watcher.fetch("select id, expires_at from second.document order by id")
        assert [tuple(row) for row in rows] == [("future", FUTURE), ("past", PAST), ("plan", None)]
        assert await watcher.fetchval("select count(*) from second.chunk where document_id = 'past'") == 1
        await watcher.close()
        async with PgVectorStore(database[0], schema="second") as second:
            # A document that is removed from one collection of a group is removed from all of them.
            assert await store.expire() == {"a": 1}
            assert set(await second.hashes(None, tenant="a")) == {"future", "plan"}
            assert await second.expire() == {}


async def test_an_ingest_that_changes_only_the_expiry_is_an_update(migrated: tuple[str, str]) -> None:
    async with PgVectorStore(migrated[0]) as store, FakeEmbedder(dimension=DIMENSION) as embedder:
        ingestor = Ingestor(embedder=embedder, store=store)
        text = "the letter is about glasses"
        for expires_at, found in ((None, ["d:0"]), (FUTURE, ["d:0"]), (PAST, []), (None, ["d:0"])):
            report = await ingestor.add([Document("d", text, expires_at=expires_at)], tenant="a")
            assert report.added + report.updated == 1
            for mode in MODES:
                assert len(await ids(store, query(text, mode=mode))) == len(found)
            assert (await ingestor.add([Document("d", text, expires_at=expires_at)], tenant="a")).unchanged == 1


async def test_documents_written_by_the_previous_release_never_expire(migrated: tuple[str, str]) -> None:
    connection = await asyncpg.connect(migrated[0])
    async with connection.transaction():
        await connection.execute("select set_config('ragcore.tenant', 'a', true)")
        await connection.execute(
            "insert into ragcore.document (tenant, id, content_hash, model) values ('a', 'd', 'h', 'fake')"
        )
        await connection.execute(
            "insert into ragcore.chunk (tenant, id, document_id, position, text) values ('a', 'd:0', 'd', 0, 'glasses')"
        )
    await connection.close()
    async with PgVectorStore(migrated[0]) as store:
        assert await ids(store, query("glasses", mode="text")) == ["d:0"]
        assert await store.expire() == {}


async def test_the_previous_release_replaces_a_document_that_expires(migrated: tuple[str, str]) -> None:
    """The statements of that release don't set an expiry. So the document that replaces an expired one does not expire."""
    async with PgVectorStore(migrated[0]) as store:
        for name, expires_at in (("late", PAST), ("early", FUTURE)):
            await store.upsert([expiring(LETTER, expires_at, name)], tenant="a")
            connection = await asyncpg.connect(migrated[0])
            async with connection.transaction():
                await connection.execute("select set_config('ragcore.tenant', 'a', true)")
                await connection.execute(
                    "insert into ragcore.document (tenant, id, content_hash, model) values ('a', $1, '', 'fake') "
                    "on conflict (tenant, id) do update set content_hash = '', model = excluded.model, updated_at = now()",
                    name,
                )
                await connection.execute("delete from ragcore.chunk where tenant = 'a' and document_id = $1", name)
                await connection.execute(
                    "insert into ragcore.chunk (tenant, id, document_id, position, text) values ('a', $1 || '#0', $1, 0, 'zebras')",
                    name,
                )
                await connection.execute(
                    "update ragcore.document set content_hash = 'new' where tenant = 'a' and id = $1", name
                )
            await connection.close()
        assert set(await ids(store, query("zebras", mode="text"))) == {"late#0", "early#0"}
        assert await store.expire() == {}
        # This release continues with these documents.
        await store.upsert([expiring(LETTER, PAST, "late")], tenant="a")
        assert await store.expire() == {"a": 1}


async def test_expired_chunks_do_not_displace_others(migrated: tuple[str, str]) -> None:
    """Many expired letters with the same words are still stored."""
    async with PgVectorStore(migrated[0]) as store:
        texts = [f"zebra crossing {number}" for number in range(50)]
        for number in range(60):
            await store.upsert([expiring(embedded(f"old{number}", *texts), PAST, f"old{number}")], tenant="a")
        long = f"the zebra {' '.join(f'word{number}' for number in range(60))}"
        await store.upsert([embedded("new", long)], tenant="a")
        for mode in MODES:
            assert await ids(store, query("zebra", mode=mode)) == ["new#0"], mode
        for _ in range(2):
            while await store.expire():
                pass
        assert await ids(store, query("zebra", mode="text")) == ["new#0"]
