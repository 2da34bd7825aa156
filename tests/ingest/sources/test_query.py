"""`QuerySource` against a real PostgreSQL."""

from __future__ import annotations

import tracemalloc
from typing import Any

import asyncpg
import pytest

import ragcore
from ragcore import ConfigurationError, Document, InvalidInput, StoreError, Unreadable
from ragcore.ingest import Entry, QuerySource
from ragcore.testing import FakeEmbedder, FakeGenerator

pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

TABLE = """
create table article (
    id integer, body text, title text, lang text, price numeric, tags text[], at timestamptz, extra jsonb, more json,
    until timestamptz
);
insert into article values
    (1, 'The first text.', 'One', 'en', 12.50, '{a,b}', '2026-01-02T03:04:05Z', '{"x": {"y": [1]}}', '{"z": 1}', null),
    (2, 'The second text.', null, null, 3, null, null, null, null, '2090-01-01T00:00:00Z'),
    (null, 'No id.', null, null, null, null, null, null, null, null),
    (4, null, null, null, null, null, null, null, null, null),
    (1, 'The first id again.', null, null, null, null, null, null, null, null),
    (6, 'Not a number.', null, null, 'NaN', null, null, null, null, null);
"""
QUERY = (
    "select id, body as text, title, lang, price, tags, at, extra as metadata, more, until as expires_at from article"
)


@pytest.fixture
async def dsn(database: tuple[str, str]) -> str:
    owner = await asyncpg.connect(database[1])
    await owner.execute(TABLE)
    await owner.close()
    return database[1]


async def listed(dsn: str, query: str = QUERY) -> list[Entry | Unreadable]:
    return [entry async for entry in QuerySource(query, dsn=dsn, name="articles").entries()]


async def test_each_row_is_a_document(dsn: str) -> None:
    found = await listed(dsn)
    first, second = (entry.document for entry in found[:2] if isinstance(entry, Entry))
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert (first.id, first.text, first.title, first.source) == ("1", "The first text.", "One", "query:articles/1")
    assert first.metadata == {
        "x": {"y": [1]},
        "more": {"z": 1},
        "lang": "en",
        "price": 12.5,
        "tags": ["a", "b"],
        "at": "2026-01-02T03:04:05+00:00",
    }
    assert (second.metadata, second.title, second.expires_at is not None) == ({"price": 3}, "", True)
    bad = [(one.id, one.reason) for one in found if isinstance(one, Unreadable)]
    assert bad[:2] == [("row 3", "its id is null or blank"), ("4", "its text is null")]
    assert bad[2][0] == "6"


@pytest.mark.parametrize("value", ["'Infinity'::numeric", "1e5000::numeric", "array['-Infinity'::numeric]"])
async def test_a_number_that_json_does_not_have_concerns_its_row_only(dsn: str, value: str) -> None:
    found = await listed(dsn, f"select 1 as id, 'A' as text, {value} as price union all select 2, 'B', null")
    assert [type(entry).__name__ for entry in found] == ["Unreadable", "Entry"]


async def test_a_value_that_python_does_not_have_is_one_clear_error(dsn: str) -> None:
    with pytest.raises(InvalidInput, match="a value of the query .* cast .* to text"):
        await listed(dsn, "select 1 as id, 'A' as text, date '20000-01-01' as published")


async def test_the_store_keeps_in_step_with_a_query(dsn: str, migrated: tuple[str, str]) -> None:
    owner = await asyncpg.connect(dsn)
    await owner.execute("insert into article select n, 'Text ' || n, 'T' from generate_series(10, 100) as n")
    async with ragcore.PgVectorStore(migrated[0]) as store, FakeEmbedder(dimension=64) as embedder:
        retriever = ragcore.Retriever(store=store, embedder=embedder)
        async with ragcore.RAG(retriever=retriever, generator=FakeGenerator()) as rag:
            source = QuerySource(QUERY, dsn=dsn, name="articles")
            report = await rag.ingest(source, tenant="a", sync=True)
            assert (report.added, len(report.failed)) == (93, 4)
            await owner.execute(
                "delete from article where id in (11, 12); update article set body = 'New' where id = 13"
            )
            report = await rag.ingest(source, tenant="a", sync=True)
            assert (report.updated, sorted(report.gone), report.deleted) == (1, ["11", "12"], 2)
            # A query that fails in the middle deletes nothing.
            broken = QuerySource(f"{QUERY} where id < 20 and 1 / (19 - id) is not null", dsn=dsn, name="articles")
            with pytest.raises(InvalidInput):
                await rag.ingest(broken, tenant="a", sync=True, confirmed=True)
            # A query without rows deletes nothing without a confirmation.
            empty = QuerySource(f"{QUERY} where false", dsn=dsn, name="articles")
            assert "lists nothing" in (await rag.ingest(empty, tenant="a", sync=True)).kept
            assert len(await rag.documents(tenant="a")) == 91
    await owner.close()


async def test_the_query_can_not_write_and_must_be_one_select(dsn: str) -> None:
    for query, message in (
        ("delete from article returning id, body as text", "read-only transaction"),
        ("select 1; select 2", "not one valid SELECT"),
        ("selec 1", "syntax error"),
        ("select * from missing", "does not exist"),
        ("select id from article", "no column 'text'; name|no column 'text': name"),
        ("select body from article where false", "no column 'id' and 'text'"),
        ("select id, body as text, id from article", "two columns of the same name"),
    ):
        with pytest.raises((InvalidInput, ConfigurationError), match=message):
            await listed(dsn, query)
    owner = await asyncpg.connect(dsn)
    assert await owner.fetchval("select count(*) from article") == 6
    await owner.close()


async def test_a_wrong_dsn_never_shows_its_password() -> None:
    with pytest.raises(StoreError) as caught:
        await listed("postgresql://user:canary-pass@127.0.0.1:9/x")
    assert (
        "canary-pass"
        not in f"{caught.value!r} {QuerySource('select 1', dsn='postgresql://u:canary-pass@h/x', name='n')!r}"
    )


async def test_wrong_names_and_types_are_refused(dsn: str) -> None:
    for name in ("", "a b", "a/b", "x" * 101):
        with pytest.raises(InvalidInput, match="name of a query"):
            QuerySource("select 1", dsn=dsn, name=name)
    with pytest.raises(InvalidInput, match="blank"):
        QuerySource(" ", dsn=dsn, name="n")
    for query, reason in (
        ("select 1 as id, 2 as text", "cast it to text"),
        ("select 1 as id, 'x' as text, '\\x00'::bytea as data", "which is not JSON"),
        ("select 1 as id, 'x' as text, '[1]'::jsonb as metadata", "not an object"),
        ("select 1 as id, 'x' as text, 'soon' as expires_at", "not of type timestamptz"),
        ("select 1 as id, 'x' as text, '2030-01-01'::timestamp as expires_at", "time zone"),
    ):
        (bad,) = await listed(dsn, query)
        assert isinstance(bad, Unreadable)
        assert reason in bad.reason


async def test_memory_does_not_grow_with_the_number_of_rows(dsn: str) -> None:
    query = "select n as id, repeat('x', 20000) as text from generate_series(1, 3000) as n"  # 60 MB
    count: Any = 0
    tracemalloc.start()
    try:
        async for _ in QuerySource(query, dsn=dsn, name="large").entries():
            count += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 3_000
    assert peak < 15_000_000
