"""Isolation of tenants, with roles, policies and rights that occur in practice."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import asyncpg
import pytest

from ragcore import RAG, ConfigurationError, ExtractiveGenerator, PgVectorStore, Retriever, Settings
from ragcore.store import migrate, reembed
from ragcore.store.postgres import inspect
from ragcore.store.postgres.dsn import parse
from ragcore.testing import FakeEmbedder
from ragcore.testing.fakes import embed_words

from .contract import DIMENSION, OLD, PLAN, query

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]
Admin = asyncpg.Connection


@pytest.fixture
async def admin(migrated: tuple[str, str]) -> AsyncIterator[Admin]:
    connection = await asyncpg.connect(migrated[1])
    yield connection
    await connection.close()


@pytest.fixture
async def admin_of_empty(database: tuple[str, str]) -> AsyncIterator[Admin]:
    connection = await asyncpg.connect(database[1])
    yield connection
    await connection.close()


@asynccontextmanager
async def _role(admin: Admin) -> AsyncIterator[str]:
    name = f"role_{os.urandom(4).hex()}"
    await admin.execute(f"create role {name} login")
    yield name
    await admin.execute(f"drop owned by {name}; drop role {name}")


@pytest.fixture
async def role(admin: Admin) -> AsyncIterator[str]:
    """A role for one test."""
    async with _role(admin) as name:
        yield name


@pytest.fixture
async def role_of_empty(admin_of_empty: Admin) -> AsyncIterator[str]:
    """A role for one test of a database that is not migrated."""
    async with _role(admin_of_empty) as name:
        yield name


UNSAFE = {
    "superuser": ("alter role {role} superuser", "is a superuser"),
    "bypassrls": ("alter role {role} bypassrls", "has BYPASSRLS"),
    "member": ("create role {role}_up bypassrls; grant {role}_up to {role}", "may `set role` to {role}_up"),
    "member without inheritance": (
        "create role {role}_up superuser; alter role {role} noinherit; grant {role}_up to {role}",
        "may `set role` to {role}_up",
    ),
    "member of a member": (
        "create role {role}_mid; create role {role}_up bypassrls; grant {role}_up to {role}_mid; grant {role}_mid to {role}",
        "may `set role` to {role}_up",
    ),
    "an admin of a role it may not become": (
        "create role {role}_up bypassrls; grant {role}_up to {role} with admin true, set false",
        "may `set role` to {role}_up",
    ),
    "programs of the server": (
        "grant pg_execute_server_program to {role}",
        "may `set role` to pg_execute_server_program",
    ),
    "counting for everybody": (
        "alter policy counting on ragcore.chunk to public",
        "the policy counting on ragcore.chunk is not",
    ),
    "a policy of somebody else's": (
        "create policy all_rows on ragcore.chunk for select using (true)",
        "the policy all_rows on ragcore.chunk is not ragcore's",
    ),
    "a policy for this role": (
        "create policy mine on ragcore.document to {role} using (true)",
        "the policy mine on ragcore.document is not ragcore's",
    ),
    "a policy of ragcore's that was changed": (
        "alter policy own_rows on ragcore.posting using (true)",
        "the policy own_rows on ragcore.posting is not ragcore's",
    ),
    "security off": ("alter table ragcore.chunk disable row level security", "row-level security is not enabled"),
    "security not forced": (
        "alter table ragcore.posting no force row level security",
        "row-level security is not enabled",
    ),
}


@pytest.mark.parametrize("kind", UNSAFE)
async def test_a_role_that_security_does_not_bind_is_refused(
    migrated: tuple[str, str], admin: Admin, role: str, kind: str
) -> None:
    await migrate(migrated[1], model="fake", dimension=DIMENSION, role=role)
    change, said = (text.format(role=role) for text in UNSAFE[kind])
    await admin.execute(change)
    dsn = migrated[0].replace("ragcore@", f"{role}@")
    try:
        async with PgVectorStore(dsn) as store:
            found = await store.inspect()
            assert any(said in message for message in found.unsafe)
            assert [finding.severity for finding in found.findings() if said in finding.message] == ["error"]
            for call in (
                lambda: store.search(query("q")),
                lambda: store.hashes(None, tenant="a"),
                lambda: store.upsert([PLAN], tenant="a"),
                lambda: store.delete(["plan"], tenant="a"),
                lambda: store.count(tenant=None),
            ):
                with pytest.raises(ConfigurationError, match="allow_unsafe_role"):
                    await call()
            retriever = Retriever(store=store, embedder=FakeEmbedder(dimension=DIMENSION))
            async with RAG(
                retriever=retriever, generator=ExtractiveGenerator(), settings=Settings(watchdog=False)
            ) as rag:
                health = await rag.health()
                assert (health.ready, health.services["database"]) == (False, "unhealthy")
        async with PgVectorStore(dsn, allow_unsafe_role=True) as store:
            await store.upsert([PLAN], tenant="a")
            assert len(await store.search(query("deductible"))) == 3
    finally:
        await admin.execute(
            f"drop policy if exists all_rows on ragcore.chunk; drop policy if exists mine on ragcore.document;"
            f"drop role if exists {role}_up; drop role if exists {role}_mid"
        )


HOSTILE = """
    create function pg_temp.evil() returns boolean language plpgsql as $$ begin
        if current_user <> session_user then raise exception 'this ran as %', current_user; end if;
        return true;
    end $$;
    create domain pg_temp.{type} as pg_catalog.{type} check (pg_temp.evil());
"""


@pytest.mark.parametrize("type", ["text", "float8", "int4", "int2", "bool", "int8", "tsvector", "name"])
async def test_temporary_types_of_a_session_never_run_as_the_owner(
    migrated: tuple[str, str], admin: Admin, type: str
) -> None:
    """If a function's search path does not name pg_temp, PostgreSQL searches it first."""
    async with FakeEmbedder(dimension=8) as embedder:
        embedder.model = "second"
        await reembed(migrated[1], source="ragcore", target="second", embedder=embedder, role="ragcore")
    plain = await asyncpg.connect(migrated[0])
    try:
        await plain.execute(HOSTILE.format(type=type))
        for schema in ("ragcore", "second"):
            async with plain.transaction():
                await plain.execute("select set_config('ragcore.tenant', 'a', true)")
                await plain.execute(f"insert into {schema}.document values ('a', 'd', 'h', 'm')")
                await plain.execute(
                    f"insert into {schema}.chunk (tenant, id, document_id, position, text) values ('a', 'd#0', 'd', 0, 'word 世界 word')"
                )
                await plain.execute(f"update {schema}.chunk set text = 'other 世界'")
                await plain.execute(f"delete from {schema}.document where id = 'd'")
            await plain.execute(f"select * from {schema}.count_all()")
            await plain.execute(f"select {schema}.use_collection()")
    finally:
        await plain.close()
    unnamed = """
        select p.oid::regprocedure::text from pg_proc as p join pg_namespace as n on n.oid = pronamespace
        where nspname in ('ragcore', 'second') and proname <> 'is_of'
            and not coalesce(proconfig, '{}') @> array['search_path=pg_catalog, pg_temp']
    """
    assert [row[0] for row in await admin.fetch(unnamed)] == []


async def test_objects_in_public_do_not_run_in_a_migration_or_a_search(
    database: tuple[str, str], admin_of_empty: Admin, role_of_empty: str
) -> None:
    await admin_of_empty.execute(f"grant create on schema public to {role_of_empty}; create extension vector")
    hostile = await asyncpg.connect(database[0].replace("ragcore@", f"{role_of_empty}@"))
    await hostile.execute(
        """
        create function public.evil(integer, float8) returns float8 language plpgsql as
            $$ begin raise exception 'this ran as %', current_user; end $$;
        create operator public.- (leftarg = integer, rightarg = float8, function = public.evil);
        create function public.pg_relation_size(text) returns bigint language plpgsql as
            $$ begin raise exception 'this ran as %', current_user; end $$;
        """
    )
    await hostile.close()
    await migrate(database[1], model="fake", dimension=DIMENSION, role="ragcore")
    for pooled in ("", "&pgbouncer=true"):
        async with PgVectorStore(database[0] + pooled) as store:
            await store.upsert([PLAN], tenant="a")
            for mode in ("vector", "text", "hybrid"):
                assert (await store.search(query("deductible", mode=mode)))[0].chunk_id == "plan#0"
            assert len((await store.scores(embed_words("q", DIMENSION), tenant="a")).scores) == 3


async def test_a_schema_of_another_role_is_not_migrated(
    database: tuple[str, str], admin_of_empty: Admin, role_of_empty: str
) -> None:
    await admin_of_empty.execute(f"create schema theirs authorization {role_of_empty}")
    with pytest.raises(ConfigurationError, match=f"belongs to {role_of_empty}"):
        await migrate(database[1], model="fake", dimension=3, role="ragcore", schema="theirs")


async def test_excess_rights_are_named_and_revoked(migrated: tuple[str, str], admin: Admin) -> None:
    await admin.execute(
        "grant all on all tables in schema ragcore to ragcore; grant create on schema ragcore to ragcore"
    )
    async with PgVectorStore(migrated[0]) as store:
        found = await store.inspect()
        assert {"chunk truncate", "document trigger", "posting delete", "schema create"} <= set(found.excess_rights)
        await migrate(migrated[1], model="fake", dimension=DIMENSION, role="ragcore")
        assert (await store.inspect()).findings() == []


async def test_the_health_check_finds_isolation_that_breaks_at_run_time(
    migrated: tuple[str, str], admin: Admin
) -> None:
    async with PgVectorStore(migrated[0]) as store:
        await store.upsert([PLAN], tenant="a")
        await admin.execute("create policy all_rows on ragcore.chunk using (true)")
        with pytest.raises(ConfigurationError, match="all_rows"):
            await store.ping()
        with pytest.raises(ConfigurationError, match="all_rows"):
            await store.search(query("q"))
        await admin.execute("drop policy all_rows on ragcore.chunk")
        await store.ping()
        assert len(await store.search(query("q"))) == 3


RIGHTS = {
    "row_security": ("alter role {role} set row_security = off", "alter role .* reset row_security"),
    "schema": ("revoke usage on schema ragcore from {role}", "grant usage on schema ragcore to"),
    "chunk": ("revoke select on ragcore.chunk from {role}", "grant select"),
    "document": ("revoke delete on ragcore.document from {role}", "grant .*delete"),
    "posting": ("revoke select on ragcore.posting from {role}", "grant select"),
}


@pytest.mark.parametrize("kind", RIGHTS)
async def test_a_missing_right_is_named_with_its_grant(
    migrated: tuple[str, str], admin: Admin, role: str, kind: str
) -> None:
    await migrate(migrated[1], model="fake", dimension=DIMENSION, role=role)
    taken, said = RIGHTS[kind]
    await admin.execute(taken.format(role=role))
    dsn = migrated[0].replace("ragcore@", f"{role}@")
    async with PgVectorStore(dsn) as store:
        with pytest.raises(ConfigurationError, match=said):
            await store.ping()
        with pytest.raises(ConfigurationError, match=said):
            await store.search(query("q", mode="text"))
            await store.delete(["plan"], tenant="a")
    if kind != "row_security":
        await migrate(migrated[1], model="fake", dimension=DIMENSION, role=role)
        async with PgVectorStore(dsn) as store:
            await store.ping()


async def test_a_schema_of_pgvector_that_the_role_may_not_use_is_reported(
    database: tuple[str, str], admin_of_empty: Admin
) -> None:
    await admin_of_empty.execute("create schema extensions; create extension vector schema extensions")
    await migrate(database[1], model="fake", dimension=DIMENSION, role="ragcore")  # grants the rights that it may grant
    async with PgVectorStore(database[0]) as store:
        await store.upsert([PLAN], tenant="a")
        assert len(await store.search(query("deductible", mode="hybrid"))) == 3
    await admin_of_empty.execute("revoke usage on schema extensions from ragcore")
    async with PgVectorStore(database[0]) as store:
        for call in (lambda: store.ping(), lambda: store.search(query("q"))):
            with pytest.raises(ConfigurationError, match='grant usage on schema "?extensions"? to'):
                await call()


async def test_pgvector_that_is_too_old_is_found_everywhere(migrated: tuple[str, str], admin: Admin) -> None:
    async with PgVectorStore(migrated[0]) as warm:
        await warm.search(query("q"))
        await admin.execute("update pg_extension set extversion = '0.7.4' where extname = 'vector'")
        with pytest.raises(ConfigurationError, match=r"0\.7\.4 is too old.*alter extension vector update"):
            await warm.ping()
        assert not (await warm.inspect()).is_complete
    async with PgVectorStore(migrated[0]) as store:
        with pytest.raises(ConfigurationError, match=r"0\.7\.4 is too old"):
            await store.search(query("q"))
    with pytest.raises(ConfigurationError, match=r"0\.7\.4 is too old"):
        await migrate(migrated[1], model="fake", dimension=DIMENSION, role="ragcore")


async def test_migrations_beside_another_application_that_creates_the_extension(server: tuple[str, str]) -> None:
    admin = await asyncpg.connect(server[1])
    for number in range(4):
        name = f"beside_{os.urandom(4).hex()}"
        await admin.execute(f"create database {name}")
        owner = server[1].replace("/ragcore?", f"/{name}?")
        other = await asyncpg.connect(owner)
        try:
            async with anyio.create_task_group() as group:
                transaction = other.transaction()
                await transaction.start()
                await other.execute("create extension vector")
                group.start_soon(partial(migrate, owner, model="fake", dimension=3, role="ragcore"))
                await anyio.sleep(0.02 * number + 0.02)
                await transaction.commit()
            assert (await inspect(other, parse(owner))).is_complete
        finally:
            await other.close()
            await admin.execute(f"drop database {name} with (force)")
    await admin.close()


async def test_settings_of_the_session_change_nothing(migrated: tuple[str, str], admin: Admin) -> None:
    name = await admin.fetchval("select current_database()")
    for setting in (
        "standard_conforming_strings = off",
        "search_path = nowhere",
        "default_text_search_config = 'pg_catalog.german'",
        "array_nulls = off",
        "transform_null_equals = on",
        "DateStyle = 'German'",
        "bytea_output = escape",
        "default_transaction_isolation = serializable",
        "default_transaction_deferrable = on",
    ):
        await admin.execute(f"alter database {name} reset all")
        await admin.execute(f"alter database {name} set {setting}")
        async with PgVectorStore(migrated[0]) as store:
            await store.upsert([PLAN, OLD], tenant="a")
            for mode in ("vector", "text", "hybrid"):
                found = await store.search(query("the 'deductible' is \\ 1500", mode=mode))
                assert found[0].chunk_id == "plan#0", setting
            assert await store.delete(["old"], tenant="a") == 1


async def test_row_level_security_binds_an_owner_that_is_not_a_superuser(
    database: tuple[str, str], admin_of_empty: Admin
) -> None:
    """Such an owner can count and migrate. Without a tenant it sees no row."""
    name = await admin_of_empty.fetchval("select current_database()")
    owner_role = f"owner_of_{name}"
    await admin_of_empty.execute(
        f"create role {owner_role} login; create extension vector; alter database {name} owner to {owner_role}"
    )
    dsn = database[1].replace("postgres@", f"{owner_role}@")
    await migrate(dsn, model="fake", dimension=DIMENSION, role="ragcore")
    async with PgVectorStore(database[0]) as store:
        await store.upsert([PLAN, OLD], tenant="a")
        await store.upsert([PLAN], tenant="b")
        assert (await store.count(tenant=None)).chunks == 8
        assert (await store.inspect()).unsafe == ()
    owner = await asyncpg.connect(dsn)
    with pytest.raises(asyncpg.PostgresError, match=r"ragcore\.tenant is not set"):
        await owner.fetch("select * from ragcore.chunk")
    await owner.close()
    await migrate(dsn, model="fake", dimension=DIMENSION, role="ragcore")


async def test_a_role_that_counts_without_being_the_owner_sees_nothing(migrated: tuple[str, str]) -> None:
    async with PgVectorStore(migrated[0]) as store:
        await store.upsert([PLAN], tenant="a")
    plain = await asyncpg.connect(migrated[0])
    try:
        for table in ("document", "chunk", "posting"):
            async with plain.transaction():
                await plain.execute("select set_config('ragcore.counting', 'on', true)")
                with pytest.raises(asyncpg.PostgresError, match=r"ragcore\.tenant is not set"):
                    async with plain.transaction():
                        await plain.fetch(f"select * from ragcore.{table}")
                await plain.execute("select set_config('ragcore.tenant', 'b', true)")
                assert await plain.fetch(f"select * from ragcore.{table}") == []
        for function in (
            "ragcore.add_postings(array['a'], array['x'], array['y'::tsvector])",
            "ragcore.remove_postings(array['a'], array['plan#0'])",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await plain.execute(f"select {function}")
    finally:
        await plain.close()


async def test_inspecting_needs_no_schema(database: tuple[str, str], admin_of_empty: Admin) -> None:
    await admin_of_empty.execute("create extension vector")
    plain = await asyncpg.connect(database[0])
    found = await inspect(plain, parse(database[0]))
    await plain.close()
    assert not found.has_schema
    assert found.collections == ()
    assert ["schema ragcore" in finding.message for finding in found.findings()] == [True]
