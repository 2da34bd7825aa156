"""The records of sources: the same suite for both stores, and isolation and locks in real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from ragcore import EmbeddedDocument, InvalidInput, MemoryStore, Overloaded, PgVectorStore, StoreError
from ragcore.protocols import OriginStore
from ragcore.store import copy_collection, reembed
from ragcore.testing import FakeEmbedder
from ragcore.types import Origin

from .contract import embedded

pytestmark = pytest.mark.anyio

FOLDER = Origin(source="/srv/a", entry="one.md", version="v1")


def listed(id: str, source: str = "/srv/a", entry: str = "", **options: Any) -> EmbeddedDocument:
    made = embedded(id, f"text of {id}")
    origin = Origin(source=source, entry=entry or id, **options)
    return replace(made, document=replace(made.document, origin=origin))


class TestMemoryStore:
    @pytest.fixture
    async def store(self, anyio_backend: str) -> AsyncIterator[Any]:
        async with MemoryStore() as made:
            yield made

    async def test_the_store_offers_the_records(self, store: object) -> None:
        assert isinstance(store, OriginStore)

    async def test_the_record_lives_and_dies_with_the_document(self, store: Any) -> None:
        await store.upsert([listed("one", version="v1"), embedded("by hand", "text")], tenant="a")
        assert await store.origins(["one", "by hand", "none"], tenant="a") == {
            "one": Origin(source="/srv/a", entry="one", version="v1")
        }
        await store.upsert([listed("one", version="v2")], tenant="a")
        assert (await store.origins(["one"], tenant="a"))["one"].version == "v2"
        assert await store.delete(["one"], tenant="a") == 1
        assert await store.origins(["one"], tenant="a") == {}
        await store.upsert([listed("one")], tenant="a")
        # A document that is replaced by hand belongs to no source, so no source deletes it.
        await store.upsert([embedded("one", "other text")], tenant="a")
        assert await store.origins(["one"], tenant="a") == {}

    async def test_another_source_replaces_a_document_only_if_it_takes_over(self, store: Any) -> None:
        await store.upsert([listed("one"), listed("two")], tenant="a")
        with pytest.raises(InvalidInput, match=r"'one' is recorded for the source /srv/a.*--take-over"):
            await store.upsert([listed("new", "/srv/b"), listed("one", "/srv/b")], tenant="a")
        assert set(await store.hashes(None, tenant="a")) == {"one", "two"}
        with pytest.raises(InvalidInput, match="recorded for the source /srv/a"):
            await store.record_origins({"one": Origin(source="/srv/b", entry="one")}, tenant="a")
        await store.upsert([listed("one", "/srv/b", takes_over=True)], tenant="a")
        await store.record_origins({"two": Origin(source="/srv/b", entry="x", takes_over=True)}, tenant="a")
        assert await store.origins(["one", "two"], tenant="a") == {
            "one": Origin(source="/srv/b", entry="one"),
            "two": Origin(source="/srv/b", entry="x"),
        }

    async def test_a_stored_document_is_recorded_and_an_unknown_one_is_ignored(self, store: Any) -> None:
        await store.upsert([embedded("one", "text")], tenant="a")
        await store.record_origins({"one": FOLDER, "none": FOLDER}, tenant="a")
        assert await store.origins(["one", "none"], tenant="a") == {"one": FOLDER}
        await store.record_origins({"one": replace(FOLDER, version=None)}, tenant="a")
        assert (await store.origins(["one"], tenant="a"))["one"].version is None

    async def test_the_documents_of_a_source_are_counted_paged_and_deleted(self, store: Any) -> None:
        documents = [listed(f"d{n:02}", entry=f"e{n % 3}") for n in range(20)]
        await store.upsert([*documents, listed("other", "/srv/b"), embedded("by hand", "text")], tenant="a")
        await store.upsert([listed("d00")], tenant="b")
        assert (await store.count_of("/srv/a", tenant="a"), await store.count_of("/srv/c", tenant="a")) == (20, 0)
        first = await store.documents_of("/srv/a", tenant="a", limit=15)
        rest = await store.documents_of("/srv/a", tenant="a", after=max(first), limit=15)
        assert [*first, *rest] == [f"d{n:02}" for n in range(20)]
        of_entries = await store.documents_of_entries("/srv/a", ["e1", "e2", "none"], tenant="a")
        assert sorted(of_entries) == [f"d{n:02}" for n in range(20) if n % 3]
        assert await store.delete_of("/srv/a", ["d00", "d01", "other", "by hand", "none"], tenant="a") == 2
        assert {"other", "by hand"} <= set(await store.hashes(None, tenant="a"))
        assert set(await store.hashes(None, tenant="b")) == {"d00"}

    async def test_a_source_is_locked_for_one_tenant_until_the_end_of_the_block(self, store: Any) -> None:
        async with store.lock_sources(["/srv/a", "/srv/b"], tenant="a") as check:
            await check()
            with pytest.raises(Overloaded, match="synchronising /srv/b for the tenant a"):
                async with store.lock_sources(["/srv/b", "/srv/c"], tenant="a"):
                    pass
            async with store.lock_sources(["/srv/c"], tenant="a"), store.lock_sources(["/srv/a"], tenant="b"):
                pass
        with pytest.raises(ZeroDivisionError):
            async with store.lock_sources(["/srv/a"], tenant="a"):
                1 / 0  # noqa: B018
        async with store.lock_sources(["/srv/a", "/srv/a"], tenant="a"):
            pass


@pytest.mark.system
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestPgVectorStore(TestMemoryStore):
    @pytest.fixture
    async def store(self, migrated: tuple[str, str]) -> AsyncIterator[Any]:
        async with PgVectorStore(migrated[0]) as made:
            yield made

    async def test_behind_a_pooler_a_transaction_holds_the_locks(self, migrated: tuple[str, str]) -> None:
        async with PgVectorStore(migrated[0] + "&pgbouncer=true") as pooled, PgVectorStore(migrated[0]) as direct:
            async with pooled.lock_sources(["/srv/a"], tenant="a") as check:
                await check()
                with pytest.raises(Overloaded):
                    async with direct.lock_sources(["/srv/a"], tenant="a"):
                        pass
            async with direct.lock_sources(["/srv/a"], tenant="a"):
                pass

    async def test_a_lost_connection_is_a_lost_lock(self, store: PgVectorStore, migrated: tuple[str, str]) -> None:
        owner = await asyncpg.connect(migrated[1])
        async with store.lock_sources(["/srv/a"], tenant="a") as check:
            await owner.execute("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'")
            with pytest.raises(StoreError, match="lock of the source was lost"):
                await check()
        await owner.close()

    async def test_row_level_security_isolates_the_records(
        self, store: PgVectorStore, migrated: tuple[str, str]
    ) -> None:
        await store.upsert([listed("one")], tenant="a")
        await store.upsert([listed("one"), listed("two")], tenant="b")
        plain = await asyncpg.connect(migrated[0])
        with pytest.raises(asyncpg.PostgresError, match=r"ragcore.tenant is not set"):
            await plain.fetch("select * from ragcore.origin")
        async with plain.transaction():
            await plain.execute("select set_config('ragcore.tenant', 'a', true)")
            assert [row["tenant"] for row in await plain.fetch("select * from ragcore.origin")] == ["a"]
            assert await plain.execute("delete from ragcore.origin where tenant = 'b'") == "DELETE 0"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with plain.transaction():
                await plain.execute("select set_config('ragcore.tenant', 'a', true)")
                await plain.execute("update ragcore.origin set tenant = 'b'")
        await plain.close()
        assert (await store.inspect()).findings() == []

    async def test_long_names_of_sources_and_entries_are_recorded(self, store: PgVectorStore) -> None:
        source, entry = "/" + "é" * 4_000, "ü" * 4_000
        await store.upsert([listed("one", source, entry)], tenant="ä" * 256)
        assert await store.count_of(source, tenant="ä" * 256) == 1
        assert list(await store.documents_of_entries(source, [entry], tenant="ä" * 256)) == ["one"]

    async def test_a_collection_that_is_embedded_again_keeps_the_records(
        self, store: PgVectorStore, migrated: tuple[str, str]
    ) -> None:
        await store.upsert([listed("one", version="v1"), embedded("by hand", "text")], tenant="a")
        async with FakeEmbedder(dimension=8) as embedder:
            embedder.model = "new"
            await reembed(migrated[1], source="ragcore", target="second", embedder=embedder, role="ragcore")
        async with PgVectorStore(migrated[0], schema="second") as second:
            assert await second.origins(["one", "by hand"], tenant="a") == {
                "one": Origin(source="/srv/a", entry="one", version="v1")
            }
            assert await second.delete_of("/srv/a", ["one"], tenant="a") == 1
        assert set(await store.hashes(None, tenant="a")) == {"by hand"}

    async def test_records_that_change_while_the_document_stays_are_copied_by_the_next_run(
        self, store: PgVectorStore, migrated: tuple[str, str]
    ) -> None:
        documents = [listed("one", version="v1"), listed("two"), listed("three"), embedded("four", "text")]
        await store.upsert(documents, tenant="a")
        await store.upsert([listed("one")], tenant="b")

        async def copied() -> dict[str, dict[str, Origin]]:
            """Copy, and return the records of the copy. A store would put the copy into use."""
            await copy_collection(migrated[1], source="ragcore", target="second", role="ragcore")
            owner = await asyncpg.connect(migrated[1])
            try:
                rows = await owner.fetch("select * from second.origin")
            finally:
                await owner.close()
            return {
                tenant: {
                    row["document_id"]: Origin(source=row["source"], entry=row["entry"], version=row["version"])
                    for row in rows
                    if row["tenant"] == tenant
                }
                for tenant in "ab"
            }

        async def right() -> dict[str, dict[str, Origin]]:
            return {
                tenant: dict(await store.origins(["one", "two", "three", "four"], tenant=tenant)) for tenant in "ab"
            }

        assert await copied() == await right()
        changed = {
            "one": Origin(source="/srv/a", entry="one", version="v2"),
            "two": Origin(source="/srv/b", entry="moved", takes_over=True),
            "four": Origin(source="/srv/b", entry="four"),
        }
        await store.record_origins(changed, tenant="a")
        found = await copied()
        assert found == await right()
        assert found["a"]["two"].source == "/srv/b"
        # A document that is written without a source loses its record.
        await store.upsert([embedded("three", "another text")], tenant="a")
        await store.upsert([replace(documents[2], document=replace(documents[2].document, origin=None))], tenant="a")
        found = await copied()
        assert found == await right()
        assert set(found["a"]) == {"one", "two", "four"}
