"""`TableStore` on a table of documents and a table of chunks, beside the same SQL by hand."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
from pgvector.asyncpg import register_vector
from tests.support.squad import Squad

from ragcore import Query, Table, TableStore
from ragcore.loadtest.figures import Figures, say

__all__ = ["adopted"]

# Half of the documents are the user's.
USER, OTHER = (str(UUID(int=number)) for number in (1, 2))
TABLES = f"""
    create table public.documents (document_id text primary key, user_id uuid not null, title text);
    create table public.document_chunks (
        chunk_id text primary key, document_id text not null references public.documents, chunk_ord integer not null, text text not null,
        embedding vector(384)
    );
    insert into public.documents
        select id, case when hashtext(id) % 2 = 0 then '{USER}'::uuid else '{OTHER}' end, id from ragcore.document;
    insert into public.document_chunks select id, document_id, position, text, embedding from ragcore.chunk;
    create index on public.documents (user_id);
    create index on public.document_chunks (document_id, chunk_ord);
    create index adopted_vectors on public.document_chunks using hnsw (embedding vector_cosine_ops);
    analyze public.documents, public.document_chunks;
    grant select on public.documents, public.document_chunks to ragcore;
"""
BY_HAND = """
    select c.chunk_id, c.document_id, c.text, d.title, 1 - (c.embedding <=> $2) as score
    from document_chunks as c join documents as d using (document_id)
    where d.user_id = $1
    order by c.embedding <=> $2
    limit 10
"""
MAPPED = Table(
    table="document_chunks",
    id="chunk_id",
    document="document_id",
    order="chunk_ord",
    title="parent.title",
    parent="documents",
    tenant="parent.user_id",
    isolation="where",
)


async def adopted(
    squad: Squad,
    figures: Figures,
    *,
    calls_per_second: Callable[..., Awaitable[float]],
    quick: bool,
) -> None:
    """Compare searches a second with the same SQL through asyncpg's pool, in turn, 10 at once, both through the index with an ef_search of 40."""
    say("an existing table, compared with a hand-written statement …")
    # Without the last setting, PostgreSQL compares all vectors of the hand-written statement, which takes three times as long.
    settings = {"hnsw.ef_search": "40", "hnsw.iterative_scan": "relaxed_order", "enable_sort": "off"}
    async with asyncpg.create_pool(
        squad.owner_dsn, min_size=10, max_size=10, init=register_vector, server_settings=settings
    ) as pool:
        await pool.execute(TABLES)
        plan = await pool.fetch(f"explain {BY_HAND}", USER, squad.vectors[0])
        if not any("adopted_vectors" in row[0] for row in plan):
            figures.notes.append(
                "PostgreSQL did not use the index for the hand-written statement on the existing table"
            )

        async def by_hand(number: int) -> None:
            await pool.fetch(BY_HAND, USER, squad.vectors[number])

        async with TableStore(squad.store._address.dsn, MAPPED, exact_rows=0, ef_search=40) as store:

            async def ours(number: int) -> None:
                await store.search(_query(squad, number))

            explanation = await store.explain(_query(squad, 0))
            figures.expect(bool(explanation.uses_vector_index), "TableStore uses the index of the vectors")
            ratios = []
            for _ in range(3 if quick else 9):
                rate = await calls_per_second(ours, 10, seconds=0.4)
                ratios.append(rate / await calls_per_second(by_hand, 10, seconds=0.4))
            figures.values["adopted_qps_ratio"] = statistics.median(ratios)
            figures.values["adopted_recall_at_10"] = await _recall(squad, store, 40 if quick else 4)
    figures.expect(statistics.median(ratios) >= 0.85, "adopted_qps_ratio >= 0.85")


def _query(squad: Squad, number: int) -> Query:
    return Query(question=squad.questions[number], tenant=USER, mode="vector", top_k=10, vector=squad.vectors[number])


async def _recall(squad: Squad, store: TableStore, step: int) -> float:
    """Return recall@10 through the index, compared with all of the user's vectors."""
    shares = []
    for number in range(0, len(squad.questions), step):
        exact = (await store.scores(squad.vectors[number], tenant=USER, limit=10)).chunk_ids
        found = {passage.chunk_id for passage in await store.search(_query(squad, number))}
        shares.append(len({*exact} & found) / len(exact))
    return statistics.fmean(shares)
