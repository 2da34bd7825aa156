"""Shared tenants in PostgreSQL: the policies alone decide what can be read, and nothing can be written."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import asyncpg
import pytest

from ragcore import ConfigurationError, PgVectorStore
from ragcore.store import migrate, reembed, share, unshare
from ragcore.testing import FakeEmbedder

from .contract import DIMENSION, check_shared_search, embedded, query

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]
NAMING = "select set_config('ragcore.tenant', 'a', false), set_config('ragcore.shared', '{plans,b}', false)"


@pytest.mark.parametrize("exact_rows", [None, 0])
async def test_a_shared_tenant_is_searched_if_it_is_named_and_marked(
    migrated: tuple[str, str], exact_rows: int | None
) -> None:
    async with PgVectorStore(migrated[0], exact_rows=exact_rows) as store:
        await check_shared_search(store, mark=partial(share, migrated[1]), unmark=partial(unshare, migrated[1]))


async def test_the_setting_alone_shows_marked_tenants_only_and_allows_no_write(migrated: tuple[str, str]) -> None:
    async with PgVectorStore(migrated[0]) as store:
        for tenant in ("a", "plans", "b"):
            await store.upsert([embedded("d", f"words of {tenant}")], tenant=tenant)
    await share(migrated[1], "plans")
    role = await asyncpg.connect(migrated[0])
    try:
        await role.execute(NAMING)
        for table in ("chunk", "posting"):
            rows = await role.fetch(f"select distinct tenant from ragcore.{table} order by 1")
            assert [row["tenant"] for row in rows] == ["a", "plans"]
        for write in (
            "update ragcore.chunk set text = 'changed' where tenant = 'plans'",
            "delete from ragcore.chunk where tenant = 'plans'",
            "delete from ragcore.document where tenant = 'plans'",
        ):
            assert (await role.execute(write)).endswith(" 0")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await role.execute(
                "insert into ragcore.chunk (tenant, id, document_id, position, text) values ('plans', 'x', 'd', 9, '')"
            )
        for write in ("insert into ragcore.shared_tenant values ('b')", "delete from ragcore.shared_tenant"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await role.execute(write)
        # If no own tenant is set, the statement shows no shared rows, but raises the error for a missing tenant.
        await role.execute("select set_config('ragcore.tenant', '', false)")
        with pytest.raises(asyncpg.PostgresError, match="ragcore.tenant is not set"):
            await role.fetch("select * from ragcore.chunk")
    finally:
        await role.close()


async def test_a_right_to_mark_tenants_is_reported(migrated: tuple[str, str]) -> None:
    owner = await asyncpg.connect(migrated[1])
    await owner.execute("grant insert on ragcore.shared_tenant to ragcore")
    await owner.close()
    async with PgVectorStore(migrated[0]) as store:
        assert (await store.inspect()).excess_rights == ("shared_tenant insert",)
    await migrate(migrated[1], model="fake", dimension=DIMENSION, role="ragcore")
    async with PgVectorStore(migrated[0]) as store:
        assert (await store.inspect()).findings() == []


async def test_the_application_may_not_share_and_a_missing_schema_is_named(migrated: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="shared_tenant"):
        await share(migrated[0], "plans")
    with pytest.raises(ConfigurationError, match="ragcore migrate"):
        await share(migrated[1], "plans", schema="absent")


async def test_a_new_collection_of_the_group_shares_the_same_tenants(migrated: tuple[str, str]) -> None:
    await share(migrated[1], "plans")
    async with FakeEmbedder(dimension=DIMENSION) as embedder:
        await reembed(migrated[1], source="ragcore", target="next", embedder=embedder, role="ragcore")
    async with PgVectorStore(migrated[0], schema="next") as store:
        assert await store.shared_tenants() == ["plans"]


async def test_a_shared_search_of_many_shapes_hides_no_row(migrated: tuple[str, str]) -> None:
    """The search is run with different plans: with fresh statistics, without statistics, and with each kind of scan forbidden."""
    async with PgVectorStore(migrated[0], pool_size=1) as store:
        for tenant in ("a", "plans", *(f"t{n}" for n in range(20))):
            await store.upsert([embedded(f"d{n}", f"words of {tenant} number{n}") for n in range(5)], tenant=tenant)
        await share(migrated[1], "plans")
        owner = await asyncpg.connect(migrated[1])
        for setting in (
            "",
            "enable_seqscan",
            "enable_indexscan",
            "enable_bitmapscan",
            "enable_nestloop",
            "enable_hashjoin",
        ):
            for analyzed in (False, True):
                if analyzed:
                    await owner.execute("analyze")
                if setting:
                    await owner.execute(f"alter role ragcore set {setting} = off")
                async with PgVectorStore(migrated[0], pool_size=1) as fresh:
                    for mode in ("vector", "text", "hybrid"):
                        asked = query("words number3", mode=mode, top_k=50)
                        found = await fresh.search(replace(asked, shared=("plans",)))
                        assert sorted((p.shared or "", p.document_id) for p in found) == [
                            (owner_name, f"d{n}") for owner_name in ("", "plans") for n in range(5)
                        ]
                if setting:
                    await owner.execute(f"alter role ragcore reset {setting}")
        await owner.close()
