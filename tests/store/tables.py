"""Tables of other programs, for the tests of `TableStore`: their definitions, and how those programs fill them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import NAMESPACE_URL, uuid5

import asyncpg

from ragcore import EmbeddedDocument, Found, Passage, Query, Scores, Table, TableStore, Vector
from ragcore.types import Counts

__all__ = ["LANGCHAIN", "LLAMA_INDEX", "ORIGIN", "SHAPES", "FilledTable", "Shape", "uuid_of"]


def uuid_of(name: str) -> str:
    """Return the same UUID for the same name."""
    return str(uuid5(NAMESPACE_URL, name))


@dataclass(frozen=True)
class Shape:
    """A table of another program.

    Attributes:
        name: name of the program.
        table: the mapping.
        create: statements that create the tables; {dimension} is the dimension.
        insert: statement that adds a chunk. Its parameters are tenant, document id, chunk id, place, text, title, source, metadata and vector.
        remove: statement that removes a document. Its parameters are tenant and document id.
        named: whether the tenants of the table are UUIDs.
    """

    name: str
    table: Table
    create: str
    insert: str
    remove: str
    named: bool = False


ORIGIN = Shape(
    name="origin",
    table=Table(
        table="document_chunks",
        id="chunk_id",
        document="document_id",
        order="chunk_ord",
        metadata="details",
        title="parent.title",
        source="parent.path",
        parent="documents",
        tenant="parent.user_id",
        isolation="where",
    ),
    create="""
        create table documents (document_id text primary key, user_id uuid not null, title text, path text);
        create index on documents (user_id);
        create table document_chunks (
            chunk_id text primary key, document_id text not null references documents on delete cascade, chunk_ord integer not null,
            text text not null, details jsonb, embedding vector({dimension})
        );
        create index on document_chunks (document_id, chunk_ord);
        create index on document_chunks using hnsw (embedding vector_cosine_ops);
        create index on document_chunks using gin (to_tsvector('english', text));
        grant select on documents, document_chunks to ragcore;
    """,
    insert="""
        with parent as (
            insert into documents values ($2::text, $1::uuid, $6, $7) on conflict (document_id) do nothing
        )
        insert into document_chunks values ($3, $2, $4, $5, $8::jsonb, $9::text::vector)
    """,
    remove="delete from documents where user_id = $1::uuid and document_id = $2",
    named=True,
)
# As langchain-postgres 0.0.19 creates them; the index of the vectors is what its documentation recommends.
LANGCHAIN = Shape(
    name="langchain",
    table=Table(
        table="langchain_pg_embedding",
        text="document",
        metadata="cmetadata",
        tenant="cmetadata->>user",
        document="cmetadata->>doc",
        title="cmetadata->>title",
        source="cmetadata->>source",
        predicate="collection_id = '00000000-0000-0000-0000-000000000001'",
        isolation="where",
    ),
    create="""
        create table langchain_pg_collection (uuid uuid not null primary key, name varchar not null unique, cmetadata json);
        insert into langchain_pg_collection values ('00000000-0000-0000-0000-000000000001', 'mine'), ('00000000-0000-0000-0000-000000000002', 'other');
        create table langchain_pg_embedding (
            id varchar not null primary key, collection_id uuid references langchain_pg_collection (uuid) on delete cascade,
            embedding vector, document varchar, cmetadata jsonb
        );
        create index ix_cmetadata_gin on langchain_pg_embedding using gin (cmetadata jsonb_path_ops);
        create index on langchain_pg_embedding using hnsw ((embedding::vector({dimension})) vector_cosine_ops);
        grant select on langchain_pg_embedding to ragcore;
    """,
    insert="""
        insert into langchain_pg_embedding select
            $3, '00000000-0000-0000-0000-000000000001', $9::text::vector, $5,
            $8::jsonb || jsonb_build_object('user', $1::text, 'doc', $2::text, 'title', $6::text, 'source', $7::text, 'place', $4::integer)
    """,
    remove="delete from langchain_pg_embedding where cmetadata ->> 'user' = $1 and cmetadata ->> 'doc' = $2",
)
# As llama-index-vector-stores-postgres 0.9.0 creates it, with hybrid search.
LLAMA_INDEX = Shape(
    name="llama_index",
    table=Table(
        table="data_documents",
        id="node_id",
        metadata="metadata_",
        tenant="metadata_->>user",
        document="metadata_->>ref_doc_id",
        title="metadata_->>title",
        source="metadata_->>file_name",
        order="id",
        words="text_search_tsv",
        isolation="where",
    ),
    create="""
        create table data_documents (
            id bigserial not null primary key, text varchar not null, metadata_ json, node_id varchar, embedding vector({dimension}),
            text_search_tsv tsvector generated always as (to_tsvector('english', text)) stored
        );
        create index documents_idx on data_documents using gin (text_search_tsv);
        create index documents_idx_1 on data_documents ((metadata_ ->> 'ref_doc_id'));
        create index on data_documents using hnsw (embedding vector_cosine_ops) with (m = 16, ef_construction = 64);
        grant select on data_documents to ragcore;
    """,
    insert="""
        insert into data_documents (text, metadata_, node_id, embedding) select
            $5, ($8::jsonb || jsonb_build_object(
                'user', $1::text, 'ref_doc_id', $2::text, 'title', $6::text, 'file_name', $7::text, 'place', $4::integer
            ))::json, $3, $9::text::vector
    """,
    remove="delete from data_documents where metadata_ ->> 'user' = $1 and metadata_ ->> 'ref_doc_id' = $2",
)
SHAPES = (ORIGIN, LANGCHAIN, LLAMA_INDEX)
# Names that the contract uses for tenants. Others, such as blank ones, are passed on unchanged.
TENANTS = ("a", "b", "nobody")


class FilledTable(TableStore):
    """A `TableStore` whose documents the tests add, as the program does to which the table belongs.

    Chunks of two tenants may have the same id in the contract, but not in these tables, so ids of tenant "b" get a prefix.
    """

    def __init__(self, dsn: str, owner_dsn: str, shape: Shape, *, exact_rows: int | None = None) -> None:
        super().__init__(dsn, shape.table, exact_rows=exact_rows)
        self.shape = shape
        self.owner_dsn = owner_dsn

    def named(self, tenant: str) -> str:
        return uuid_of(tenant) if self.shape.named and tenant in TENANTS else tenant

    async def upsert(self, documents: Sequence[EmbeddedDocument], /, *, tenant: str) -> None:
        if tenant not in TENANTS:
            await super().upsert(documents, tenant=tenant)
        owner = await asyncpg.connect(self.owner_dsn)
        try:
            prefix = "b:" if tenant == "b" else ""
            for one in documents:
                document = one.document
                await owner.execute(self.shape.remove, self.named(tenant), prefix + document.id)
                for place, (chunk, vector) in enumerate(zip(one.chunks, one.vectors, strict=True)):
                    metadata = json.dumps({**document.metadata, **chunk.metadata})
                    await owner.execute(
                        self.shape.insert,
                        self.named(tenant),
                        prefix + document.id,
                        prefix + chunk.id,
                        place,
                        chunk.text,
                        document.title,
                        document.source,
                        metadata,
                        str([float(number) for number in vector]),
                    )
        finally:
            await owner.close()

    async def search(self, query: Query, /) -> Sequence[Passage]:
        return await super().search(replace(query, tenant=self.named(query.tenant)))

    async def hashes(self, document_ids: Sequence[str] | None, /, *, tenant: str) -> dict[str, str]:
        return dict(await super().hashes(document_ids, tenant=self.named(tenant)))

    async def count(self, *, tenant: str | None) -> Counts:
        return await super().count(tenant=None if tenant is None else self.named(tenant))

    async def scores(self, vector: Vector, /, *, tenant: str, limit: int | None = None) -> Scores:
        return await super().scores(vector, tenant=self.named(tenant), limit=limit)

    async def document_chunks(self, document_id: str, /, *, tenant: str, with_vectors: bool = False) -> Found:
        return await super().document_chunks(document_id, tenant=self.named(tenant), with_vectors=with_vectors)

    async def chunks_by_id(self, chunk_ids: Sequence[str], /, *, tenant: str, with_vectors: bool = False) -> Found:
        return await super().chunks_by_id(chunk_ids, tenant=self.named(tenant), with_vectors=with_vectors)

    async def adjacent(
        self, passages: Sequence[Passage], /, *, tenant: str, distance: int
    ) -> Sequence[Sequence[Passage]]:
        return await super().adjacent(passages, tenant=self.named(tenant), distance=distance)
