"""`TableStore` on tables to which it may write: the contract, isolation of the tenants, and mappings that don't fit."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import asyncpg
import pytest

from ragcore import (
    ConfigurationError,
    EmbeddedDocument,
    InvalidInput,
    Overloaded,
    StoreError,
    Table,
    TableStore,
    Unsupported,
)
from ragcore.store import claim

from .contract import DIMENSION, MODES, OLD, PLAN, StoreContract, embedded, query
from .tables import uuid_of

pytestmark = [pytest.mark.system, pytest.mark.anyio]

NOTES = Table(
    table="notes", document="doc", order="place", title="title", source="data->>source", metadata="data", tenant="data->>owner",
    content_hash="hash", exact=True, isolation="where", writable=True, constants={"kind": "note"}, predicate="kind = 'note'",
)  # fmt: skip
FILES = Table(
    table="pieces", id="piece", document="file", order="place", title="parent.title", source="parent.path", metadata="data", parent="files", join="file=id",
    tenant="parent.owner", content_hash="parent.hash", exact=True, isolation="where", writable=True,
)  # fmt: skip
TABLES = f"""
    create extension vector;
    create table notes (
        number bigserial primary key, id text not null, doc text not null, place integer not null, text text not null, title text, data jsonb not null,
        hash text, kind text not null, embedding vector({DIMENSION})
    );
    create unique index on notes ((data ->> 'owner'), id);
    create table files (
        id uuid primary key, owner uuid not null, title text, path text, hash text, made timestamptz not null default now(), stars integer not null default 3
    );
    create table pieces (
        piece uuid primary key default gen_random_uuid(), file uuid not null references files, place integer not null, text text not null, data json,
        embedding halfvec({DIMENSION}), words tsvector generated always as (to_tsvector('english', text)) stored
    );
    grant select, insert, delete on notes, files, pieces to ragcore;
    grant update on files to ragcore;
    grant usage on sequence notes_number_seq to ragcore;
"""
A, B = uuid_of("a"), uuid_of("b")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def tables(database: tuple[str, str]) -> tuple[str, str]:
    owner = await asyncpg.connect(database[1])
    await owner.execute(TABLES)
    await owner.close()
    return database


async def fetch(dsn: str, statement: str, *values: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(statement, *values))
    finally:
        await connection.close()


class TestNotes(StoreContract):
    """The contract. The tenant, the source and the metadata are in one JSON column."""

    # A table of others records no embedding text and no expiry, and no place of a chunk in the text.
    test_the_text_to_embed_for_a_chunk_is_recorded = None  # type: ignore[assignment]
    test_expired_documents_are_not_found_and_the_next_expire_removes_them = None  # type: ignore[assignment]
    test_an_expired_document_can_be_replaced_and_deleted = None  # type: ignore[assignment]
    test_an_expired_document_has_no_chunks = None  # type: ignore[assignment]
    test_the_nearest_passage_comes_first_with_its_position_and_scores = None  # type: ignore[assignment]
    # What text search reads is for the table to say: here, the text alone.
    test_titles_are_searched_too = None  # type: ignore[assignment]

    @pytest.fixture
    async def store(self, tables: tuple[str, str]) -> AsyncIterator[TableStore]:
        async with TableStore(tables[0], NOTES) as made:
            yield made

    async def test_each_field_is_in_its_column(self, store: TableStore, tables: tuple[str, str]) -> None:
        # The metadata can't name another tenant.
        await store.upsert(
            [embedded("d", "a text", title="T", metadata={"owner": "b", "year": 1}, hash="h1")], tenant="a"
        )
        (row,) = await fetch(tables[1], "select * from notes")
        assert (row["id"], row["doc"], row["place"], row["text"], row["title"]) == ("d#0", "d", 0, "a text", "T")
        assert (row["hash"], row["kind"]) == ("h1", "note")
        assert json.loads(row["data"]) == {"owner": "a", "source": "d.md", "year": 1, "part": 0}
        assert await store.hashes(None, tenant="b") == {}


def uuid_document(name: str, *texts: str, **options: Any) -> EmbeddedDocument:
    return embedded(uuid_of(name), *texts, **options)


async def test_a_parent_has_a_row_for_each_document(tables: tuple[str, str]) -> None:
    plan = uuid_document(
        "plan", "the deductible is 1500", "a copay is 40", title="Plan", hash="1", metadata={"year": 1}
    )
    async with TableStore(tables[0], FILES) as store:
        await store.upsert([plan, uuid_document("old", "the deductible was 900")], tenant=A)
        await fetch(tables[1], "update files set stars = 5")
        for mode in MODES:
            found = await store.search(query("the deductible is 1500", tenant=A, mode=mode))
            assert (found[0].document_id, found[0].title, found[0].source) == (
                plan.document.id,
                "Plan",
                f"{plan.document.id}.md",
            )
            assert found[0].metadata == {"year": 1, "part": 0}
            assert await store.search(query("the deductible is 1500", tenant=B, mode=mode)) == []
        assert await store.hashes(None, tenant=A) == {plan.document.id: "1", uuid_of("old"): "h"}
        before = [one.chunk_id for one in await store.document_chunks(plan.document.id, tenant=A)]
        await store.upsert([uuid_document("plan", "another text", title="New", hash="2")], tenant=A)
        chunks = await store.document_chunks(plan.document.id, tenant=A)
        assert [(one.text, one.title) for one in chunks] == [("another text", "New")]
        assert chunks[0].chunk_id == before[0]
        # The other columns of the row stay.
        assert {row["stars"] for row in await fetch(tables[1], "select stars from files")} == {5}
        assert await store.delete([plan.document.id, "no uuid"], tenant=B) == 0
        assert await store.delete([plan.document.id, plan.document.id, "no uuid"], tenant=A) == 1
        assert [row["id"] for row in await fetch(tables[1], "select id::text from files")] == [uuid_of("old")]
        with pytest.raises(InvalidInput, match="'plan' is not a value of the type uuid"):
            await store.upsert([PLAN], tenant=A)


async def everything(dsn: str) -> list[str]:
    rows = await fetch(
        dsn,
        "select t::text from files as t union all select t::text from pieces as t union all select t::text from notes as t order by 1",
    )
    return [row[0] for row in rows]


async def test_a_document_of_another_tenant_is_never_changed(tables: tuple[str, str]) -> None:
    """With the id of a document, with that of a chunk, and by deleting."""
    async with TableStore(tables[0], FILES) as store:
        await store.upsert([uuid_document("d", "a's text")], tenant=A)
        (chunk,) = await store.document_chunks(uuid_of("d"), tenant=A)
        before = await everything(tables[1])
        theirs = uuid_document("d", "b's text")
        with pytest.raises(InvalidInput, match="taken in public.pieces, perhaps by another tenant"):
            await store.upsert([uuid_document("e", "fine"), theirs], tenant=B)
        same = uuid_document("f", "b's text")
        same = replace(same, chunks=(replace(same.chunks[0], id=chunk.chunk_id),))
        with pytest.raises(InvalidInput, match="taken"):
            await store.upsert([same], tenant=B)
        assert await store.delete([uuid_of("d")], tenant=B) == 0
        assert await everything(tables[1]) == before
        assert "a's text" not in str(await store.search(query("text", tenant=B, mode="text")))
    async with TableStore(tables[0], NOTES) as store:
        await store.upsert([embedded("d", "a's text")], tenant="a")
        await fetch(tables[1], "update notes set kind = 'other'")
        before = await everything(tables[1])
        # Rows that the predicate leaves out are other programs' rows.
        assert await store.delete(["d"], tenant="a") == 0
        with pytest.raises(InvalidInput, match="taken"):
            await store.upsert([embedded("d", "new")], tenant="a")
        assert await everything(tables[1]) == before


async def test_a_document_that_moves_to_another_tenant_meanwhile_is_not_written(tables: tuple[str, str]) -> None:
    """The parent's row changes its owner between the statements of the transaction, in a trigger."""
    owner = await asyncpg.connect(tables[1])
    await owner.execute(
        f"""
        create function steal() returns trigger language plpgsql security definer as
            $$ begin update public.files set owner = '{B}' where id = new.file; return new; end $$;
        create trigger steal after insert on pieces for each row execute function steal();
        """
    )
    await owner.close()
    async with TableStore(tables[0], FILES) as store:
        with pytest.raises(ConfigurationError, match="find 0 of the 1 chunks in public.pieces, so nothing was written"):
            await store.upsert([uuid_document("d", "text")], tenant=A)
        assert await everything(tables[1]) == []


async def test_policies_of_the_table_apply_to_writes(tables: tuple[str, str]) -> None:
    owner = await asyncpg.connect(tables[1])
    claims = "((nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub') = data ->> 'owner')"
    await owner.execute(
        f"alter table notes enable row level security; create policy own on notes to ragcore using {claims} with check {claims}"
    )
    await owner.close()
    table = replace(NOTES, isolation="rls", settings={"request.jwt.claims": claim("sub")})
    async with TableStore(tables[0], table, pool_size=1) as store:
        await store.upsert([PLAN, OLD], tenant="a")
        assert await store.delete(["old"], tenant="b") == 0
        assert await store.delete(["old"], tenant="a") == 1
        assert (await store.count(tenant="a")).chunks == 3
        left = await store._access.opened().run(
            lambda connection: connection.fetchval("select current_setting('request.jwt.claims', true)")
        )
        assert left in (None, "")
    wrong = replace(table, settings={"request.jwt.claims": lambda tenant: claim("sub")("b")})
    async with TableStore(tables[0], wrong) as store:
        with pytest.raises(ConfigurationError, match="row-level security policy"):
            await store.upsert([embedded("new", "text")], tenant="a")
        assert await store.delete(["plan"], tenant="a") == 0


async def test_a_write_that_is_cancelled_changes_nothing_and_the_next_one_works(tables: tuple[str, str]) -> None:
    many = embedded("many", *(f"text {number}" for number in range(1_200)))
    async with TableStore(tables[0], NOTES, pool_size=1) as store:
        await store.upsert([embedded("many", "old text")], tenant="a")
        for milliseconds in (1, 2, 4, 8, 16, 32):
            with anyio.move_on_after(milliseconds / 1000) as scope, suppress(Overloaded):
                await store.upsert([many], tenant="a")
            if scope.cancelled_caught:
                assert (await store.count(tenant="a")).chunks == 1, milliseconds
                assert await store.hashes(None, tenant="a") == {"many": "h"}
        await store.upsert([many], tenant="a")
        assert (await store.count(tenant="a")).chunks == 1_200


async def test_writers_of_the_same_document_wait_for_each_other(tables: tuple[str, str]) -> None:
    async with TableStore(tables[0], NOTES) as store, anyio.create_task_group() as group:
        for number in range(12):
            batch = [
                embedded("d", *(f"text {n} of {number}" for n in range(number + 1)), hash=str(number)),
                embedded("e", "other"),
            ]
            group.start_soon(partial(store.upsert, batch[:: 1 if number % 2 else -1], tenant="a"))
    async with TableStore(tables[0], NOTES) as store:
        (number,) = {int(one.text.split()[-1]) for one in await store.document_chunks("d", tenant="a")}
        assert (await store.count(tenant="a")).chunks == number + 2
        assert (await store.hashes(["d"], tenant="a")) == {"d": str(number)}


async def test_the_database_may_refuse_a_change(tables: tuple[str, str]) -> None:
    owner = await asyncpg.connect(tables[1])
    await owner.execute(
        "create table marks (file uuid references files); alter table notes add constraint short check (length(text) < 20)"
    )
    async with TableStore(tables[0], FILES) as store:
        await store.upsert([uuid_document("d", "text")], tenant=A)
        await owner.execute("insert into marks values ($1)", uuid_of("d"))
        with pytest.raises(ConfigurationError, match=r"does not accept the change \(marks_file_fkey\)"):
            await store.delete([uuid_of("d")], tenant=A)
        assert (await store.count(tenant=A)).chunks == 1
    async with TableStore(tables[0], NOTES) as store:
        with pytest.raises(ConfigurationError, match=r"does not accept the change \(short\)") as raised:
            await store.upsert([embedded("d", "a secret text that is long")], tenant="a")
        assert "secret" not in str(raised.value)
        with pytest.raises(Unsupported, match="expires_at"):
            await store.upsert(
                [replace(PLAN, document=replace(PLAN.document, expires_at=datetime.now(UTC)))], tenant="a"
            )
        with pytest.raises(ConfigurationError, match="dimension"):
            await store.upsert([replace(PLAN, vectors=PLAN.vectors[:, :3])], tenant="a")
        assert await everything(tables[1]) != []
    async with TableStore(tables[0], replace(NOTES, constants={"kind": "other"})) as store:
        with pytest.raises(ConfigurationError, match="find 0 of the 1 chunks"):
            await store.upsert([embedded("d", "text")], tenant="a")
    await owner.close()


BAD = {
    "a column needs a value": (
        replace(NOTES, constants={}, predicate=None),
        "table: the columns kind of public.notes must have a value",
    ),
    "unknown constant": (
        replace(NOTES, constants={"kind": "note", "sort": "x"}),
        "constants: public.notes has no column 'sort'",
    ),
    "constant of the mapping": (
        replace(NOTES, constants={"kind": "note", "doc": "x"}),
        "constants: doc is a column of the mapping already",
    ),
    "number as id": (
        replace(NOTES, id="place", order=None, constants={"kind": "note", "id": "x"}),
        "id: public.notes.place is of type int4: to write",
    ),
    "number as title": (replace(FILES, title="parent.stars"), "title: stars is of type int4"),
    "no right": (
        replace(FILES, table="locked", id="id", document="file"),
        r"table: ragcore may not delete and insert rows of public.locked: .*`grant delete, insert on",
    ),
    "no right to the parent": (
        replace(FILES, parent="locked_files"),
        "parent: ragcore may not delete and insert and update rows of public.locked_files",
    ),
}


async def test_each_mapping_that_can_not_be_written_has_its_message(tables: tuple[str, str]) -> None:
    owner = await asyncpg.connect(tables[1])
    await owner.execute(
        f"create table locked (id text primary key, file uuid, place integer, text text, data jsonb, embedding vector({DIMENSION}));"
        "create table locked_files (like files including all); grant select on locked, locked_files to ragcore"
    )
    await owner.close()
    for name, (table, message) in BAD.items():
        async with TableStore(tables[0], table) as store:
            with pytest.raises(ConfigurationError, match=message):
                await store.upsert([PLAN], tenant=A)
            problems = (await store.inspect()).problems
            assert [one.severity for one in problems].count("error") == 1, (name, problems)
        # Without writing, it fits.
        async with TableStore(tables[0], replace(table, writable=False, constants={})) as store:
            await store.ping()
            with pytest.raises(Unsupported, match="writable"):
                await store.delete(["x"], tenant=A)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"document": None, "join": "file=id"}, "document is not set"),
        ({"document": "place", "join": "file=id"}, "needs the column that joins the parent"),
        ({"tenant": "data->>owner"}, "needs the tenant in the parent"),
        ({"constants": {"data->>x": "y"}}, "name a column"),
    ],
)
def test_a_writable_mapping_that_contradicts_itself_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        replace(FILES, **changed)


async def test_a_lost_connection_is_retried_without_a_second_row(tables: tuple[str, str]) -> None:
    async with TableStore(tables[0], NOTES, pool_size=1) as store:
        await store.upsert([PLAN], tenant="a")
        await fetch(
            tables[1],
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'ragcore' and datname = current_database()",
        )
        await store.upsert([PLAN], tenant="a")
        assert (await store.count(tenant="a")).chunks == 3
    await fetch(tables[1], "drop table notes")
    async with TableStore(tables[0], NOTES) as store:
        with pytest.raises((ConfigurationError, StoreError)):
            await store.upsert([PLAN], tenant="a")
