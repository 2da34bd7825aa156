"""`TableStore`: the reading half of the contract on tables of other programs, mappings that don't fit, isolation, and plans."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import asyncpg
import numpy as np
import pytest

from ragcore import (
    ConfigurationError,
    Filter,
    Found,
    InvalidInput,
    Passage,
    PgVectorStore,
    RagcoreError,
    Store,
    StoreError,
    Table,
    TableStore,
    Unsupported,
    meta,
)
from ragcore.store import claim
from ragcore.store.postgres.table import propose
from ragcore.store.postgres.table.values import tenant_of
from ragcore.testing import FakeEmbedder
from ragcore.testing.fakes import embed_words

from .contract import DIMENSION, MODES, OLD, PLAN, StoreContract, embedded, query
from .tables import LANGCHAIN, LLAMA_INDEX, ORIGIN, FilledTable, Shape, uuid_of
from .test_plans import PLANNER

pytestmark = pytest.mark.system


async def create(owner_dsn: str, shape: Shape) -> None:
    owner = await asyncpg.connect(owner_dsn)
    try:
        await owner.execute("create extension if not exists vector")
        await owner.execute(shape.create.replace("{dimension}", str(DIMENSION)))
    finally:
        await owner.close()


@pytest.mark.thorough  # `test_table_writes.TestNotes` runs the contract over a table of the same kind
class TestOrigin(StoreContract):
    """The reading half of the contract. The tests of the other half are None."""

    shape = ORIGIN
    exact_rows: int | None = None

    # A table of others records no embedding text, expiry and content hashes, and its store deletes nothing.
    test_the_text_to_embed_for_a_chunk_is_recorded = None  # type: ignore[assignment]
    test_expired_documents_are_not_found_and_the_next_expire_removes_them = None  # type: ignore[assignment]
    test_an_expired_document_can_be_replaced_and_deleted = None  # type: ignore[assignment]
    test_deleting = None  # type: ignore[assignment]
    test_a_document_that_shrank_leaves_no_stale_chunks = None  # type: ignore[assignment]
    # The programs to which the tables belong write in other ways.
    test_of_equal_ids_in_one_batch_the_last_wins = None  # type: ignore[assignment]
    test_an_expired_document_has_no_chunks = None  # type: ignore[assignment]
    # What text search reads is for the table to say: here, the text alone.
    test_titles_are_searched_too = None  # type: ignore[assignment]

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def store(self, database: tuple[str, str]) -> AsyncIterator[FilledTable]:
        await create(database[1], self.shape)
        async with FilledTable(*database, self.shape, exact_rows=self.exact_rows) as made:
            yield made

    async def test_the_nearest_passage_comes_first_with_its_position_and_scores(self, store: Store) -> None:
        """The contract, without the place of the text in the document, which the table does not have."""
        await store.upsert([PLAN, OLD], tenant="a")
        best, second = await store.search(query("the deductible is 1500", top_k=2))
        assert (best.chunk_id, second.chunk_id) == ("plan#0", "old#0")
        assert (best.document_id, best.text, best.title, best.source) == (
            "plan",
            "the deductible is 1500",
            "Gold plan",
            "plan.md",
        )
        assert {"year": 2024, "kind": "plan", "part": 0}.items() <= best.metadata.items()
        assert best.score == pytest.approx(1.0, abs=1e-5)
        assert (best.start, best.end, best.text_score) == (None, None, None)

    @pytest.mark.parametrize("mode", MODES)
    async def test_tenants_never_see_each_other(self, store: Store, mode: str) -> None:
        await store.upsert([PLAN], tenant="a")
        await store.upsert([embedded("plan", "the deductible is 7777")], tenant="b")
        asked = query("deductible 7777", mode=mode)  # type: ignore[arg-type]
        assert all("7777" not in passage.text for passage in await store.search(asked))
        of_b = await store.search(query("deductible 1500", tenant="b", mode=mode))  # type: ignore[arg-type]
        assert [passage.text for passage in of_b] == ["the deductible is 7777"]
        assert await store.search(query("deductible", tenant="nobody", mode=mode)) == []  # type: ignore[arg-type]
        assert await store.hashes(None, tenant="b") == {"b:plan": ""}
        assert (await store.count(tenant="a")).chunks == 3
        assert list((await store.scores(embed_words("deductible", DIMENSION), tenant="b")).chunk_ids) == ["b:plan#0"]

    async def test_it_refuses_to_write(self, store: Store) -> None:
        with pytest.raises(Unsupported, match="only reads"):
            await store.upsert([PLAN], tenant="c")
        with pytest.raises(Unsupported, match="only reads"):
            await store.delete(["plan"], tenant="c")
        with pytest.raises(Unsupported, match="one tenant"):
            await store.count(tenant=None)


@pytest.mark.thorough
class TestOriginByIndex(TestOrigin):
    exact_rows = 0


@pytest.mark.thorough
class TestLangChain(TestOrigin):
    shape = LANGCHAIN
    # The table has no order of chunks.
    test_all_chunks_of_a_document_are_returned_in_the_order_of_the_text = None  # type: ignore[assignment]
    test_chunks_come_with_their_vectors_on_request = None  # type: ignore[assignment]
    test_texts_come_back_as_they_were_given = None  # type: ignore[assignment]
    test_the_chunks_around_a_passage_are_found_in_the_order_of_the_text = None  # type: ignore[assignment]

    async def test_the_chunks_around_a_passage_are_unsupported_without_an_order(self, store: FilledTable) -> None:
        with pytest.raises(Unsupported, match="order"):
            await store.adjacent([Passage("plan#0", "plan", "")], tenant="a", distance=1)
        with pytest.raises(Unsupported, match="order"):
            await store.document_chunks("plan", tenant="a")

    async def test_chunks_by_id_come_with_their_vectors(self, store: FilledTable) -> None:
        await store.upsert([PLAN], tenant="a")
        found = await store.chunks_by_id(["plan#1"], tenant="a", with_vectors=True)
        assert found.vectors is not None
        assert found.vectors[0] is not None
        np.testing.assert_allclose(found.vectors[0], PLAN.vectors[1], atol=1e-6)


@pytest.mark.thorough
class TestLangChainByIndex(TestLangChain):
    exact_rows = 0


@pytest.mark.thorough
class TestLlamaIndex(TestOrigin):
    shape = LLAMA_INDEX


@pytest.mark.thorough
class TestLlamaIndexByIndex(TestLlamaIndex):
    exact_rows = 0


# The origin of the requests for this store: ids are UUIDs, and the tenant is a column of the parent.
PLAIN = """
    create table documents (document_id uuid primary key, user_id uuid not null, title text);
    create table document_chunks (
        chunk_id uuid primary key default gen_random_uuid(), document_id uuid not null references documents, chunk_ord integer not null,
        text text not null, embedding vector(64), deleted boolean not null default false
    );
    create index chunk_vectors on document_chunks using hnsw (embedding vector_cosine_ops);
    create view seen as select * from document_chunks;
    create materialized view kept as select * from document_chunks;
    create foreign data wrapper none;
    create server far foreign data wrapper none;
    create foreign table far_chunks (chunk_id uuid, document_id uuid, chunk_ord integer, text text, embedding vector(64)) server far;
    create table bare as select chunk_id, document_id, chunk_ord, text, embedding from document_chunks;
    create table odd (id text primary key, text integer, embedding vector(64), owner char(3), "select" text, vague text collate vague);
    create index on odd using hnsw (embedding vector_cosine_ops);
    grant select on all tables in schema public to ragcore;
    create table hidden (id text primary key, text text, embedding vector(64), owner text);
    create domain person as uuid;
    create domain point as vector(64);
    create table "Mixed" (
        "Id" text primary key, text text, "Embedding" vector(64), owner uuid, made person, point point, short char(5), many text[], half sparsevec(64)
    );
    create index on "Mixed" using hnsw ("Embedding" vector_l2_ops);
    create table open (like bare including all, owner uuid);
    alter table open enable row level security;
    create policy everybody on open for select using (true);
    grant select on "Mixed", open to ragcore;
"""
MAPPED = Table(
    table="document_chunks",
    id="chunk_id",
    document="document_id",
    order="chunk_ord",
    parent="documents",
    tenant="parent.user_id",
    title="parent.title",
    isolation="where",
)
MIXED = Table(table="Mixed", id="Id", embedding="Embedding", tenant="owner", isolation="where", exact=True)
# Predicates that are not one condition without parameters.
NO_CONDITIONS = (
    "true;",
    "(true",
    "count(*) > 0",
    "row_number() over () > 0",
    "generate_series(1, 2) > 0",
    "true order by 1",
    "true union select true",
    "select true",
    "exists (select from s)",
    "s.tenant is not null",
    "text = $a$x",
    "true -- \n) or (true",
    "true then true else (true",
    "variadic array[true]",
    "*",
    "default",
    "\\",
)
ODD = Table(table="odd", tenant="select", isolation="where")
# ANALYZE of the whole database fails with these.
FOREIGN_PARTITION = """
    create table parts (id text, text text, embedding vector(64), owner text) partition by hash (owner);
    create table parts_here partition of parts for values with (modulus 2, remainder 0);
    create foreign table parts_far partition of parts for values with (modulus 2, remainder 1) server far;
    grant select on parts to ragcore;
"""
BAD = {
    "missing table": (replace(MAPPED, table="chunks"), r"table: public\.chunks does not exist"),
    "missing schema": (replace(MAPPED, schema="Public", parent_schema="public"), "case-sensitive"),
    "missing parent": (replace(MAPPED, parent="document"), r"parent: public\.document does not exist"),
    "missing column": (
        replace(MAPPED, text="content"),
        r"text: public\.document_chunks has no column 'content'; it has chunk_id, ",
    ),
    "missing tenant": (replace(MAPPED, tenant="parent.owner"), r"tenant: public\.documents has no column 'owner'"),
    "missing key": (replace(MAPPED, join="document_id=id"), "join: public.documents has no column 'id'"),
    "key is not unique": (replace(MAPPED, join="document_id=user_id"), "no unique index"),
    "keys of two types": (
        replace(MAPPED, join="chunk_ord=document_id"),
        "chunk_ord is int4, and public.documents.document_id is uuid",
    ),
    "wrong type of text": (replace(ODD, text="text"), "text: public.odd.text is of type int4"),
    "wrong type of vectors": (replace(MAPPED, embedding="text"), "embedding: .* is of type text"),
    "wrong type of order": (replace(MAPPED, order="text"), "order: .* is of type text"),
    "wrong type of metadata": (
        replace(MAPPED, metadata="text"),
        "metadata: .* is of type text: metadata needs json or jsonb",
    ),
    "wrong type of words": (replace(MAPPED, words="text"), "words: .* is of type text: words needs tsvector"),
    "wrong type of tenant": (replace(ODD, text="id", tenant="owner"), "tenant: public.odd.owner is of type bpchar"),
    "tenants that are equal": (
        replace(ODD, text="id", tenant="vague"),
        "collation for which different texts are equal",
    ),
    "key of a column that is not JSON": (replace(MAPPED, tenant="text->>user"), "a key needs a column of type json"),
    "view": (replace(MAPPED, table="seen"), "public.seen is a view"),
    "materialized view": (replace(MAPPED, table="kept"), "is a materialized view"),
    "foreign table": (replace(MAPPED, table="far_chunks"), "is a foreign table"),
    "no index": (
        replace(MAPPED, table="bare"),
        r'no index of public.bare serves .* `create index concurrently on "public"."bare" using hnsw \("embedding" vector_cosine_ops\)`',
    ),
    "no right": (
        Table(table="hidden", tenant="owner", isolation="where", exact=True),
        'may not read id, text, embedding, owner of public.hidden: .* `grant select on "public"."hidden" to "ragcore"`',
    ),
    "no row-level security": (
        replace(MAPPED, isolation="rls"),
        "isolation: public.document_chunks has no row-level security",
    ),
    "unknown language": (replace(MAPPED, language="klingon"), "no text search configuration 'klingon'"),
    "predicate is no condition": (
        replace(MAPPED, predicate="chunk_ord + 1"),
        "predicate: 'chunk_ord \\+ 1' is not one boolean expression",
    ),
    "predicate is two conditions": (replace(MAPPED, predicate="true) or (true"), "not one boolean expression"),
    "predicate is a list": (replace(MAPPED, predicate="true, true"), "not one boolean expression"),
    "predicate has a second statement": (
        replace(MAPPED, predicate="true); drop table documents; --"),
        "not one boolean expression",
    ),
    "predicate ends in a comment": (replace(MAPPED, predicate="true /*"), "not one boolean expression"),
    "predicate has an open text": (replace(MAPPED, predicate="text = 'a"), "not one boolean expression"),
    "predicate has a parameter": (replace(MAPPED, predicate="document_id = $1"), "has parameters"),
    "predicate names an unknown column": (
        replace(MAPPED, predicate="user_id is null"),
        'column "user_id" does not exist',
    ),
    "predicate ends the CASE": (replace(MAPPED, predicate="true then true when true"), "not one boolean expression"),
    "predicate ends the array": (replace(MAPPED, predicate="true] || array[true"), "not one boolean expression"),
    **{
        f"predicate {text!r}": (replace(MAPPED, predicate=text), "not one boolean expression") for text in NO_CONDITIONS
    },
    "domain of tenants": (
        replace(MIXED, tenant="made"),
        "tenant: public.Mixed.made is of type person: a tenant needs one of text, varchar, uuid",
    ),
    "domain of vectors": (
        replace(MIXED, embedding="point"),
        "embedding: public.Mixed.point is of type point: embedding needs vector or halfvec",
    ),
    "padded tenants": (replace(MIXED, tenant="short"), "tenant: public.Mixed.short is of type bpchar"),
    "array of tenants": (replace(MIXED, tenant="many"), "tenant: public.Mixed.many is of type _text"),
    "sparse vectors": (replace(MIXED, embedding="half"), "embedding: public.Mixed.half is of type sparsevec"),
    "name in lower case": (replace(MIXED, table="mixed"), "public.mixed does not exist, .* case-sensitive"),
    "name in quotes": (replace(MIXED, table='"Mixed"'), 'public."Mixed" does not exist, .* case-sensitive'),
    "name with a schema": (replace(MIXED, table="public.Mixed"), "public.public.Mixed does not exist"),
    "column of the system": (replace(MIXED, tenant="ctid"), "tenant: public.Mixed has no column 'ctid'"),
    "index of another distance": (
        replace(MIXED, exact=False),
        r"Mixed_Embedding_idx \(vector_l2_ops\) does not serve cosine distance",
    ),
    "foreign partition": (
        Table(table="parts", tenant="owner", isolation="where", exact=True),
        "parts has the foreign table parts_far as a partition",
    ),
    "policy that shows every row": (
        Table(table="open", id="chunk_id", tenant="owner", exact=True),
        "the policy 'everybody' of public.open or its parent shows every row",
    ),
    "unknown role": (replace(MAPPED, role="nobody"), "role: .* 'nobody'"),
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def plain(database: tuple[str, str]) -> tuple[str, str]:
    owner = await asyncpg.connect(database[1])
    await owner.execute("create extension if not exists vector")
    # The embedded server has no ICU, so it can't create a collation for which different texts are equal; the catalogue can say that one is.
    await owner.execute("create collation vague (locale = 'C')")
    await owner.execute("update pg_collation set collisdeterministic = false where collname = 'vague'")
    await owner.execute(PLAIN)
    await owner.close()
    return database


@pytest.mark.anyio
async def test_each_mapping_that_does_not_fit_has_its_message(plain: tuple[str, str]) -> None:
    owner = await asyncpg.connect(plain[1])
    await owner.execute(FOREIGN_PARTITION)
    await owner.close()
    for name, (table, message) in BAD.items():
        async with TableStore(plain[0], table) as store:
            for call in (store.ping, partial(store.search, query("word", tenant=uuid_of("a"), mode="text"))):
                with pytest.raises(ConfigurationError, match=message):
                    await call()
            if name != "unknown role":
                problems = (await store.inspect()).problems
                assert [one.severity for one in problems].count("error") == 1, (name, problems)


@pytest.mark.anyio
async def test_a_mapping_that_fits_is_complete(plain: tuple[str, str]) -> None:
    async with TableStore(plain[0], MAPPED) as store:
        await store.ping()
        found = await store.first_look()
        assert found is not None
        assert (found.dimension, found.vector_type, found.tenant_type) == (64, "vector", "uuid")
        assert found.index is not None
        assert found.index.name == "chunk_vectors"
        assert [finding.severity for finding in found.findings()] == ["warning"]
        assert "WHERE clause alone" in found.unsafe[0]
        assert "dimensions" in found.misfits(FakeEmbedder(dimension=3))[0].message


INVALID = (
    ({"table": ""}, "table is ''"),
    ({"table": "x" * 64}, "1 to 63 bytes"),
    ({"text": "a\0b"}, "text is"),
    ({"tenant": "parent.user_id"}, "parent is not set"),
    ({"parent": "documents", "text": "parent.text"}, "must be a column of the table of chunks"),
    ({"parent": "documents"}, "join is ''"),
    ({"embedding": "data->>vector"}, "must be a column, not a JSON key"),
    ({"tenant": "data->>"}, "a key must follow"),
    ({"isolation": "none"}, "'rls' or 'where'"),
    ({"predicate": " "}, "predicate is empty"),
    ({"settings": {"role": str}}, "use role="),
    ({"settings": {"a', true), set_config('role": str}}, "name of a setting"),
)


@pytest.mark.parametrize(("changed", "message"), INVALID, ids=lambda value: str(value)[:40])
def test_a_mapping_that_contradicts_itself_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Table(**{"table": "chunks", "tenant": "owner", **changed})


AWKWARD = ('a"b', "x; drop table documents; --", "{tenant}", "{rows}", "$1", "a'b", "ünï", "select", "a\\b", "%s")


@pytest.mark.anyio
async def test_awkward_names_are_names_and_nothing_else(database: tuple[str, str]) -> None:
    """Names with quotes, semicolons and placeholders are used as they are."""
    owner = await asyncpg.connect(database[1])
    await owner.execute("create extension if not exists vector")
    for name in AWKWARD:
        quote = '"' + name.replace('"', '""') + '"'
        await owner.execute(f"create schema {quote}; grant usage on schema {quote} to ragcore")
        await owner.execute(
            f"create table {quote}.{quote} ({quote} text primary key, text text, embedding vector({DIMENSION}), data jsonb);"
            f"grant select on {quote}.{quote} to ragcore"
        )
        data = json.dumps({name: "a", "of": name})
        await owner.execute(
            f"insert into {quote}.{quote} values ($1, 'a word', $2::text::vector, $3), ('other', 'a word', $2::text::vector, '{{}}')",
            name,
            str([1.0] * DIMENSION),
            data,
        )
        table = Table(
            schema=name,
            table=name,
            id=name,
            tenant=f"data->>{name}",
            title="data->>of",
            metadata="data",
            exact=True,
            isolation="where",
            predicate=f"data ->> 'of' = '{name.replace(chr(39), 2 * chr(39))}' -- {{tenant}} {{filter}}",
        )
        async with TableStore(database[0], table) as store:
            for mode in MODES:
                found = await store.search(query("word", mode=mode))
                assert [(one.chunk_id, one.title, one.metadata["of"]) for one in found] == [(name, name, name)], (
                    name,
                    mode,
                )
    await owner.close()


async def fill(owner_dsn: str, *, tenants: int = 2, documents: int = 2, chunks: int = 3) -> None:
    """Fill the tables of `PLAIN`. Each chunk's text names its tenant."""
    owner = await asyncpg.connect(owner_dsn)
    for number in range(tenants):
        tenant = f"t{number}"
        for document in range(documents):
            id = uuid_of(f"{tenant}/{document}")
            await owner.execute("insert into documents values ($1, $2, $3)", id, uuid_of(tenant), f"of {tenant}")
            rows = []
            for place in range(chunks):
                text = f"secret of {tenant} part d{document} {place}"
                rows.append((id, place, text, str([float(x) for x in embed_words(text, DIMENSION)])))
            await owner.executemany(
                "insert into document_chunks (document_id, chunk_ord, text, embedding) values ($1, $2, $3, $4::text::vector)",
                rows,
            )
    await owner.close()


ATTACKS = (
    "' or true --",
    "t0",
    "%",
    "*",
    uuid_of("t0").upper() + "'",
    uuid_of("t0").replace("-", ""),
    "{" + uuid_of("t0") + "}",
    "urn:uuid:" + uuid_of("t0"),
)


def test_a_tenant_has_one_spelling() -> None:
    """PostgreSQL reads both spellings of a UUID as one tenant. Limits, caches and the audit log would count them as two."""
    name = uuid_of("a")
    assert str(tenant_of(name, "uuid")) == name
    with pytest.raises(InvalidInput, match=f"write it as {name}"):
        tenant_of(name.upper(), "uuid")
    with pytest.raises(InvalidInput, match="is not a UUID"):
        tenant_of(name.replace("-", ""), "uuid")


@pytest.mark.anyio
@pytest.mark.parametrize("exact_rows", [0, None], ids=["index", "exact"])
async def test_no_call_returns_rows_of_another_tenant(plain: tuple[str, str], exact_rows: int | None) -> None:
    await fill(plain[1], tenants=3)
    mine, everything = uuid_of("t0"), 6
    async with TableStore(plain[0], MAPPED, exact_rows=exact_rows) as store:
        for mode in MODES:
            for filter in (None, meta("x").exists() | ~meta("x").exists(), ~Filter.documents([uuid_of("t0/0")])):
                found = await store.search(query("secret of t1 part", tenant=mine, mode=mode, top_k=50, filter=filter))
                assert {one.title for one in found} == {"of t0"}, (mode, filter)
                assert len(found) == (3 if filter is not None and "not" in filter.to_dict() else everything), (
                    mode,
                    filter,
                )
        vector = embed_words("secret of t1", DIMENSION)
        assert len((await store.scores(vector, tenant=mine)).scores) == everything
        assert (await store.count(tenant=mine)).chunks == everything
        assert set(await store.hashes(None, tenant=mine)) == {uuid_of("t0/0"), uuid_of("t0/1")}
        assert await store.hashes([uuid_of("t1/0")], tenant=mine) == {}
        [theirs] = await store.search(query("secret of t1 part d0 0", tenant=uuid_of("t1"), top_k=1))
        assert await store.adjacent([theirs], tenant=mine, distance=5) == [[]]
        assert await store.document_chunks(theirs.document_id, tenant=mine) == []
        assert await store.chunks_by_id([theirs.chunk_id], tenant=mine) == []
        [own] = await store.search(query("secret of t0 part d0 1", tenant=mine, top_k=1))
        assert [one.text[-3:] for one in (await store.adjacent([own], tenant=mine, distance=5))[0]] == [
            "0 0",
            "0 1",
            "0 2",
        ]
        for strange in ("' or true --", "", "%", "{}"):
            assert await store.adjacent([Passage(strange, "", "")], tenant=mine, distance=5) == [[]]
            assert (
                await store.document_chunks(strange, tenant=mine)
                == await store.chunks_by_id([strange], tenant=mine)
                == []
            )
        assert [one.text[-3:] for one in await store.document_chunks(own.document_id, tenant=mine)] == [
            "0 0",
            "0 1",
            "0 2",
        ]
        diagnosis = await store.diagnose(query("secret", tenant=uuid_of("nobody")))
        assert (diagnosis.chunks, diagnosis.store_chunks) == (0, None)
        for tenant in ATTACKS:
            with pytest.raises(InvalidInput, match="is not a UUID"):
                await store.search(query("secret", tenant=tenant, mode="text"))


# Values of type json that PostgreSQL can store and can't read, and one that only looks like them.
UNREADABLE = (r'{"user": "b", "x": "\u0000"}', r'{"user": "b", "x": "\ud800"}', r'{"user": "b", "x": "\\\u0000"}')
READABLE = r'{"user": "a", "x": "\\u0000 \\ud800 \ud83d\ude00"}'


@pytest.mark.anyio
@pytest.mark.parametrize("side", ["chunks", "parent"])
async def test_a_row_of_one_tenant_does_not_fail_the_searches_of_others(database: tuple[str, str], side: str) -> None:
    """JSON that can't be read, a text that is too long to search, and a vector of another dimension."""
    owner = await asyncpg.connect(database[1])
    await owner.execute("create extension vector")
    await owner.execute(
        """
        create table papers (id text primary key, owner text);
        create table pieces (id text, paper text, text text, data json, embedding vector);
        grant select on papers, pieces to ragcore;
        insert into papers values ('a', 'a'), ('b', 'b');
        """
    )
    vector = str([float(x) for x in embed_words("word", DIMENSION)])
    insert = "insert into pieces values ($1, $2, $3, $4::text::json, $5::text::vector)"
    await owner.execute(insert, "fine", "a", "a word", READABLE, vector)
    await owner.execute(
        insert, "long", "b", " ".join(f"w{number}" for number in range(300_000)), '{"user": "b"}', vector
    )
    await owner.execute(insert, "flat", "b", "a word", '{"user": "b"}', "[1, 2]")
    for number, data in enumerate(UNREADABLE):
        await owner.execute(insert, f"odd{number}", "b", "a word", data, vector)
    table = Table(table="pieces", tenant="data->>user", metadata="data", exact=True, isolation="where")
    if side == "parent":
        table = replace(table, tenant="parent.owner", parent="papers", join="paper=id")
    async with TableStore(database[0], table) as store:
        for mode in MODES:
            for filter in (None, meta("x").exists()):
                (found,) = await store.search(query("word", mode=mode, filter=filter))
                assert (found.chunk_id, found.metadata["x"]) == ("fine", "\\u0000 \\ud800 \U0001f600"), (mode, filter)
        assert (await store.count(tenant="a")).chunks == 1
        theirs = {one.chunk_id: one for one in await store.search(query("word w7", tenant="b", mode="text", top_k=50))}
        # No tenant sees a row whose tenant can't be read.
        assert theirs.keys() == ({"long", "flat", "odd0", "odd1", "odd2"} if side == "parent" else {"long", "flat"})
        assert all(one.metadata == {} for id, one in theirs.items() if id.startswith("odd"))
        assert {one.name for one in (await store.inspect()).unchecked_json} == {"data"}
    await owner.execute("truncate pieces; create index on pieces ((data ->> 'user'))")
    await owner.execute(insert, "fine", "a", "a word", READABLE, vector)
    await owner.execute("create index on pieces using gin (to_tsvector('english', text))")
    for data, text in ((UNREADABLE[0], "a word"), ("{}", " ".join(f"w{number}" for number in range(300_000)))):
        with pytest.raises(asyncpg.PostgresError):
            await owner.execute(insert, "new", "b", text, data, vector)
    async with TableStore(database[0], table) as store:
        found_now = await store.inspect()
        assert (found_now.unchecked_json, found_now.indexes_words) == ((), True)
        assert len(await store.search(query("word", mode="hybrid"))) == 1
    await owner.close()


@pytest.mark.anyio
async def test_chunks_without_an_id_or_a_document(database: tuple[str, str]) -> None:
    owner = await asyncpg.connect(database[1])
    await owner.execute("create extension vector")
    # The names of the columns are also names in the statements.
    await owner.execute(
        f"create table t (row_place text, row_table text, t text, tenant text, embedding vector({DIMENSION}), place integer); grant select on t to ragcore"
    )
    rows = [("one", "d"), ("two", "d"), ("alone", None), (None, "d"), (None, None)]
    vector = str([float(x) for x in embed_words("word", DIMENSION)])
    for id, document in rows:
        await owner.execute("insert into t values ($1, $2, 'a word', 'a', $3::text::vector)", id, document, vector)
    await owner.close()
    table = Table(
        table="t", id="row_place", document="row_table", text="t", tenant="tenant", exact=True, isolation="where"
    )
    async with TableStore(database[0], table) as store:
        for mode in MODES:
            found = await store.search(query("word", mode=mode, top_k=50))
            assert {(one.chunk_id, one.document_id) for one in found} == {
                ("one", "d"),
                ("two", "d"),
                ("alone", "alone"),
            }
            others = await store.search(query("word", mode=mode, top_k=50, filter=~Filter.documents(["d"])))
            assert [one.chunk_id for one in others] == ["alone"]
        assert (await store.count(tenant="a")).chunks == 3
        assert [one.chunk_id for one in await store.chunks_by_id(["two", "missing", "one"], tenant="a")] == [
            "two",
            "one",
        ]
    async with TableStore(database[0], replace(table, order="place")) as store:
        assert {one.chunk_id for one in await store.document_chunks("d", tenant="a")} == {"one", "two"}
        assert [one.chunk_id for one in await store.document_chunks("alone", tenant="a")] == ["alone"]
        assert await store.document_chunks("one", tenant="a") == await store.document_chunks("d", tenant="b") == []


@pytest.mark.anyio
@pytest.mark.parametrize("switches", [True, False], ids=["role", "settings"])
async def test_a_cancelled_call_leaves_no_role_and_no_claims_behind(plain: tuple[str, str], switches: bool) -> None:
    await fill(plain[1])
    owner = await asyncpg.connect(plain[1])
    role = f"authenticated_{os.urandom(4).hex()}"
    await owner.execute(f"create role {role}; grant {role} to ragcore with inherit false")
    try:
        await protect(plain[1], to=role)
        slow = "(select pg_catalog.pg_sleep(0.03)) is not null or true"
        settings = {"request.jwt.claims": claim("sub", role=role)}
        table = replace(MAPPED, predicate=slow, settings=settings, role=role if switches else None)
        async with TableStore(plain[0], table, pool_size=1) as store:
            await store.first_look()
            for milliseconds in (1, 2, 4, 8, 16, 32, 64):
                with anyio.move_on_after(milliseconds / 1000), suppress(RagcoreError):
                    await store.count(tenant=uuid_of("t0"))
                left = await store._access.opened().run(
                    lambda connection: connection.fetchrow(
                        "select current_user, current_setting('request.jwt.claims', true), current_setting('transaction_read_only')"
                    )
                )
                assert left is not None
                assert (left[0], left[1] or "", left[2]) == ("ragcore", "", "off"), milliseconds
    finally:
        await owner.execute(f"drop owned by {role}; drop role {role}")
        await owner.close()


@pytest.mark.anyio
async def test_the_predicate_and_a_partial_index_go_together(plain: tuple[str, str]) -> None:
    await fill(plain[1], documents=20, chunks=20)
    owner = await asyncpg.connect(plain[1])
    await owner.execute("drop index chunk_vectors; update document_chunks set deleted = chunk_ord > 9")
    await owner.execute(
        "create index partial on document_chunks using hnsw (embedding vector_cosine_ops) where (not deleted); analyze"
    )
    await owner.close()
    async with TableStore(plain[0], replace(MAPPED, predicate="not deleted"), exact_rows=0) as store:
        explanation = await store.explain(query("secret of t0", tenant=uuid_of("t0")))
        assert explanation.uses_vector_index
        assert "partial" in explanation.indexes
        assert (await store.count(tenant=uuid_of("t0"))).chunks == 200
        found = await store.search(query("secret of t0 part d3 15", tenant=uuid_of("t0"), mode="hybrid", top_k=500))
        assert len(found) <= 200
        assert all(int(one.text.split()[-1]) <= 9 for one in found)


@pytest.mark.anyio
async def test_explain_names_the_index_that_is_missing(plain: tuple[str, str]) -> None:
    await fill(plain[1], documents=30, chunks=10)
    async with TableStore(plain[0], replace(MAPPED, exact=True)) as store:
        explanation = await store.explain(query("secret", tenant=uuid_of("t0"), mode="hybrid"))
        assert explanation.uses_vector_index is False or "chunk_vectors" in explanation.indexes
        assert any(
            'create index concurrently on "public"."document_chunks" ("document_id")' in one
            for one in explanation.advice
        )
        assert "Node Type" in explanation.plan
        with pytest.raises(InvalidInput, match="needs a vector"):
            await store.explain(replace(query("secret"), vector=None))
        with pytest.raises(Unsupported, match="no shared tenants"):
            await store.explain(replace(query("secret"), shared=("b",)))


@pytest.mark.anyio
async def test_the_statements_that_explain_names_can_be_executed(plain: tuple[str, str]) -> None:
    owner = await asyncpg.connect(plain[1])
    await owner.execute("""
        create table "Json" (id text primary key, "Data" jsonb, embedding vector(64));
        insert into "Json" select n::text, '{"text": "a secret", "user": "a"}', array_fill(0.1, array[64])::vector from generate_series(1, 50) as n;
        grant select on "Json" to ragcore;
        analyze "Json";
    """)
    mapping = Table(table="Json", text="Data->>text", tenant="Data->>user", isolation="where", exact=True)
    async with TableStore(plain[0], mapping) as store:
        advice = (await store.explain(query("secret", mode="hybrid"))).advice
    statements = [statement for one in advice for statement in re.findall("`(.*?)`", one)]
    assert len(statements) == 2
    for statement in statements:
        await owner.execute(statement)
    await owner.close()


@pytest.mark.anyio
async def test_recall_is_measured_for_a_tenant(plain: tuple[str, str]) -> None:
    await fill(plain[1], documents=20, chunks=20)
    mine = uuid_of("t0")
    async with TableStore(plain[0], MAPPED, exact_rows=0) as store:
        measured = await store.measure_recall(tenant=mine, sample=20)
        assert (measured.samples, measured.complete, set(measured.by_tenant)) == (20, True, {mine})
        assert measured.recall == measured.indexed_recall == 1.0  # the index of so few chunks misses none
        assert measured.index_ms is not None
        one = await store.measure_recall(tenant=mine, vectors=[embed_words("secret", DIMENSION)])
        assert (one.samples, one.recall) == (1, 1.0)
        early = await store.measure_recall(tenant=mine, sample=1_000, seconds=0.001)
        assert not early.complete
        assert (await store.measure_recall(tenant=uuid_of("nobody"))).recall is None
        with pytest.raises(InvalidInput, match="top_k is 0"):
            await store.measure_recall(tenant=mine, top_k=0)
        with pytest.raises(InvalidInput, match="not a UUID"):
            await store.measure_recall(tenant="nobody")
    async with TableStore(plain[0], replace(MAPPED, exact=True)) as store:
        measured = await store.measure_recall(tenant=mine, sample=5)
        assert (measured.recall, measured.exact, measured.index_ms) == (1.0, 5, None)


@pytest.mark.anyio
async def test_a_poor_index_has_a_low_recall(database: tuple[str, str]) -> None:
    owner = await asyncpg.connect(database[1])
    await owner.execute(
        """
        create extension vector;
        create table chunks (id integer primary key, tenant text not null, text text not null, embedding vector(16) not null);
        select setseed(0.5);
        insert into chunks select n, 'a', 'a text', (select array_agg(random() - 0.5) from generate_series(1, 16) where n > 0)::real[]::vector(16)
            from generate_series(1, 3000) as n;
        create index on chunks (tenant);
        create index on chunks using ivfflat (embedding vector_cosine_ops) with (lists = 100);
        grant select on chunks to ragcore;
        analyze chunks;
        """
    )
    await owner.close()
    async with TableStore(
        database[0], Table(table="chunks", tenant="tenant", isolation="where"), exact_rows=0
    ) as store:
        measured = await store.measure_recall(tenant="a", sample=50)
        assert measured.recall is not None
        assert 0.05 < measured.recall < 0.8  # one of 100 lists is read at first


@pytest.mark.anyio
async def test_a_measurement_without_a_server_is_a_store_error(anyio_backend_name: str) -> None:
    nowhere = "postgresql://u@127.0.0.1:9/d"
    async with TableStore(nowhere, MAPPED) as table, PgVectorStore(nowhere) as collection:
        for store in (table, collection):
            with pytest.raises(StoreError, match="127.0.0.1"):
                await store.measure_recall(tenant=uuid_of("a"))


async def protect(owner_dsn: str, *, to: str) -> None:
    """Protect the tables of `PLAIN` as Supabase's documentation does: a policy for a role compares the claim."""
    owner = await asyncpg.connect(owner_dsn)
    await owner.execute(
        f"""
        create schema auth; grant usage on schema auth to public;
        create function auth.uid() returns uuid language sql stable as
            $$ select (nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::pg_catalog.jsonb ->> 'sub')::pg_catalog.uuid $$;
        alter table documents enable row level security;
        alter table document_chunks enable row level security;
        create policy own on documents for select to {to} using ((select auth.uid()) = user_id);
        create policy own on document_chunks for select to {to}
            using (exists (select from documents as d where d.document_id = document_chunks.document_id and d.user_id = (select auth.uid())));
        grant select on documents, document_chunks to {to};
        """
    )
    await owner.close()


@pytest.mark.anyio
@pytest.mark.parametrize("exact_rows", [0, None], ids=["index", "exact"])
async def test_policies_of_the_table_apply_with_the_settings_of_the_statement(
    plain: tuple[str, str], exact_rows: int | None
) -> None:
    await fill(plain[1])
    await protect(plain[1], to="ragcore")
    mine = uuid_of("t0")
    safe = replace(MAPPED, isolation="rls", settings={"request.jwt.claims": claim("sub")})
    async with TableStore(plain[0], safe, exact_rows=exact_rows) as store:
        assert (await store.inspect()).unsafe == ()
        for mode in MODES:
            assert len(await store.search(query("secret part", tenant=mine, mode=mode, top_k=50))) == 6, mode
        assert (await store.count(tenant=mine)).chunks == 6
        assert len((await store.scores(embed_words("secret", DIMENSION), tenant=mine)).scores) == 6
        [own] = await store.search(query("secret of t0 part d0 1", tenant=mine, top_k=1))
        assert len((await store.adjacent([own], tenant=mine, distance=5))[0]) == 3
        assert len(await store.document_chunks(own.document_id, tenant=mine)) == 3
        assert len(await store.chunks_by_id([own.chunk_id], tenant=mine)) == 1
    # The policy decides, not the WHERE clause: with another tenant's claim, nothing is found.
    wrong = replace(safe, settings={"request.jwt.claims": lambda tenant: claim("sub")(uuid_of("t1"))})
    async with TableStore(plain[0], wrong, exact_rows=exact_rows) as store:
        for mode in MODES:
            assert await store.search(query("secret part", tenant=mine, mode=mode, top_k=50)) == []
        assert (await store.count(tenant=mine)).chunks == 0
        assert await store.document_chunks(own.document_id, tenant=mine) == []
        assert await store.chunks_by_id([own.chunk_id], tenant=mine) == []
    # Nothing of an earlier statement stays on the connection.
    async with TableStore(plain[0], safe, pool_size=1) as store:
        await store.count(tenant=mine)
        pool = store._access.opened()
        left = await pool.run(
            lambda connection: connection.fetchval("select current_setting('request.jwt.claims', true)")
        )
        assert left in (None, "")


@pytest.mark.anyio
async def test_policies_of_another_role_apply_after_the_switch(plain: tuple[str, str]) -> None:
    await fill(plain[1])
    owner = await asyncpg.connect(plain[1])
    role = f"authenticated_{os.urandom(4).hex()}"
    await owner.execute(f"create role {role}; grant {role} to ragcore with inherit false")
    try:
        await protect(plain[1], to=role)
        mine = uuid_of("t0")
        switched = replace(MAPPED, isolation="rls", role=role, settings={"request.jwt.claims": claim("sub", role=role)})
        async with TableStore(plain[0], switched, pool_size=1) as store:
            assert (await store.inspect()).role == role
            for mode in MODES:
                assert len(await store.search(query("secret part", tenant=mine, mode=mode, top_k=50))) == 6
            with pytest.raises(InvalidInput):
                await store.count(tenant="x")
            assert (await store.count(tenant=mine)).chunks == 6
            user = await store._access.opened().run(lambda connection: connection.fetchval("select current_user"))
            assert user == "ragcore"
        # Without the switch, no policy is for the connection's role, so it sees nothing.
        async with TableStore(plain[0], replace(switched, role=None)) as store:
            assert (await store.count(tenant=mine)).chunks == 0
        wrong = replace(switched, settings={"request.jwt.claims": lambda tenant: claim("sub")(uuid_of("t1"))})
        async with TableStore(plain[0], wrong) as store:
            assert (await store.count(tenant=mine)).chunks == 0
    finally:
        await owner.execute(f"drop owned by {role}; drop role {role}")
        await owner.close()


@pytest.mark.anyio
async def test_a_table_that_changes_is_a_configuration_error(plain: tuple[str, str]) -> None:
    async with TableStore(plain[0], MAPPED) as store:
        await store.ping()
        owner = await asyncpg.connect(plain[1])
        await owner.execute("alter table document_chunks rename column chunk_ord to place")
        await owner.close()
        with pytest.raises(ConfigurationError, match="does not fit the database"):
            await store.adjacent([Passage(uuid_of("x"), "", "")], tenant=uuid_of("a"), distance=1)


@pytest.mark.anyio
@pytest.mark.parametrize("type_", ["halfvec", "vector without a dimension", "half precision of vectors", "none"])
async def test_each_kind_of_index_serves_the_searches(plain: tuple[str, str], type_: str) -> None:
    await fill(plain[1], documents=20, chunks=20)
    owner = await asyncpg.connect(plain[1])
    await owner.execute("drop index chunk_vectors")
    await owner.execute("drop view seen; drop materialized view kept")
    index, exact = "embedding vector_cosine_ops", type_ == "none"
    if type_ == "halfvec":
        await owner.execute("alter table document_chunks alter embedding type halfvec(64) using embedding::halfvec(64)")
        index = "embedding halfvec_cosine_ops"
    elif type_ == "vector without a dimension":
        await owner.execute("alter table document_chunks alter embedding type vector")
        index = "(embedding::vector(64)) vector_cosine_ops"
    elif type_ == "half precision of vectors":
        index = "(embedding::halfvec(64)) halfvec_cosine_ops"
    if not exact:
        await owner.execute(f"create index vectors on document_chunks using hnsw ({index})")
    await owner.execute("create index on document_chunks (document_id); create index on documents (user_id); analyze")
    await owner.close()
    mine = uuid_of("t0")
    async with TableStore(plain[0], replace(MAPPED, exact=exact), exact_rows=0) as store:
        asked = replace(query("secret of t0 part d3 15", tenant=mine, top_k=5), with_vectors=True)
        found = await store.search(asked)
        assert isinstance(found, Found)
        assert found[0].text == "secret of t0 part d3 15"
        assert found.scan == ("exact" if exact else "index")
        assert found.vectors is not None
        assert found.vectors[0] is not None
        assert asked.vector is not None
        assert np.abs(found.vectors[0] - asked.vector).max() < 1e-3
        explanation = await store.explain(asked)
        assert explanation.uses_vector_index is (not exact)
        assert (await store.inspect()).dimension == 64
        with pytest.raises(ConfigurationError, match="dimension"):
            await store.search(replace(asked, vector=np.ones(3, np.float32)))


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["rls", pytest.param("where", marks=pytest.mark.thorough)])
async def test_statements_are_right_with_each_plan(plain: tuple[str, str], isolation: str) -> None:
    """Each setting of the planner is tried alone, before and after ANALYZE. `MemoryStore` knows the right chunks."""
    await fill(plain[1], tenants=5, documents=4, chunks=5)
    table = MAPPED
    if isolation == "rls":
        await protect(plain[1], to="ragcore")
        table = replace(MAPPED, isolation="rls", settings={"request.jwt.claims": claim("sub")})
    owner = await asyncpg.connect(plain[1])
    await owner.execute("create index on document_chunks (document_id); create index on documents (user_id)")
    await owner.execute("create index on document_chunks using gin (to_tsvector('english', text))")
    name = await owner.fetchval("select current_database()")
    asked = query("secret t1 d2", tenant=uuid_of("t1"), top_k=50)
    rows = await owner.fetch(
        "select chunk_id::text, text from document_chunks join documents using (document_id) where user_id = $1",
        uuid_of("t1"),
    )
    scores = {
        row["chunk_id"]: float(embed_words(row["text"], DIMENSION) @ embed_words(asked.question, DIMENSION))
        for row in rows
    }
    assert len(scores) == 20
    for analyzed in (False, True):
        if analyzed:
            await owner.execute("analyze")
        for setting in PLANNER:
            await owner.execute(f"alter database {name} reset all")
            if setting:
                await owner.execute(f"alter database {name} set {setting}")
            pooled = "&pgbouncer=true" if "custom" in setting else ""
            async with (
                TableStore(plain[0] + pooled, table) as store,
                TableStore(plain[0] + pooled, table, exact_rows=0) as indexed,
            ):
                for tried in (store, indexed):
                    where = (setting, analyzed, tried.exact_rows)
                    for mode in MODES:
                        one = replace(asked, mode=mode, vector=None if mode == "text" else asked.vector)
                        for filter in (None, Filter.documents([uuid_of("t1/2"), uuid_of("t2/2")])):
                            found = await tried.search(replace(one, filter=filter))
                            assert len(found) == (20 if filter is None else 5), (where, mode, filter)
                            assert {passage.chunk_id for passage in found} <= scores.keys(), where
                            if mode != "text":
                                assert {p.chunk_id: p.score for p in found} == pytest.approx(
                                    {p.chunk_id: scores[p.chunk_id] for p in found}, abs=1e-5
                                ), (where, mode)
                assert (await store.count(tenant=uuid_of("t1"))).chunks == 20, setting
                assert len((await store.scores(asked.vector, tenant=uuid_of("t1"))).scores) == 20, setting  # type: ignore[arg-type]
    await owner.close()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_proposal_says_what_to_do_about_missing_keys_and_indexes(database: tuple[str, str]) -> None:
    owner = await asyncpg.connect(database[1])
    await owner.execute("""
        create extension if not exists vector;
        create table documents (document_id uuid, user_id uuid, title text);
        create table document_chunks (chunk_id uuid, document_id uuid, chunk_ord integer, text text, embedding vector(384));
        grant select on documents, document_chunks to ragcore;
    """)
    bare = await propose(database[0], "document_chunks")
    assert bare.missing == ("id", "tenant")
    assert bare.lines[1] == "RAGCORE_TABLE_COLUMNS=id=…,tenant=…,document=document_id,order=chunk_ord"
    id_, tenant, index = bare.advice
    assert "chunk_id has no unique index" in id_
    assert "no foreign key to a parent table" in tenant
    assert "using hnsw" in index
    await owner.execute(id_.split("`")[1])
    await owner.execute("alter table documents add primary key (document_id)")
    await owner.execute("alter table document_chunks add foreign key (document_id) references documents")
    await owner.execute(index.split("`")[1])
    complete = await propose(database[0], "document_chunks")
    await owner.close()
    assert (complete.missing, complete.advice) == ((), ())
    assert complete.lines[1] == (
        "RAGCORE_TABLE_COLUMNS=id=chunk_id,tenant=parent.user_id,document=document_id,order=chunk_ord,title=parent.title"
    )
