"""The made chunks, their way into a collection, and the model of a collection's size and speed."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.capacity.chunks import MODEL, Chunks, copy_in
from benchmarks.capacity.model import Point, Walk, build_time, index_bytes, left_out, search_time
from benchmarks.capacity.server import connected
from benchmarks.scenarios.million import Collection

from ragcore import PgVectorStore, Query
from ragcore.store import migrate
from ragcore.types import Mode

CHUNKS = Chunks(dimension=8, clusters=5)


def test_the_same_settings_make_the_same_chunks() -> None:
    one, again = (Chunks(dimension=8, clusters=5) for _ in range(2))
    assert np.array_equal(one.vectors("a", 20), again.vectors("a", 20))
    assert one.texts("a", 20) == again.texts("a", 20)
    assert not np.array_equal(one.vectors("a", 20), one.vectors("b", 20))
    assert np.allclose(np.linalg.norm(one.vectors("a", 20), axis=1), 1, atol=1e-6)


def test_a_chunk_is_the_part_of_its_document_between_start_and_end() -> None:
    documents = list(CHUNKS.documents("a", 120))
    assert [len(one.chunks) for one in documents] == [50, 50, 20]
    for one in documents:
        for chunk in one.chunks:
            assert chunk.start is not None
            assert one.document.text[chunk.start : chunk.end] == chunk.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_copied_documents_are_those_that_the_store_would_have_written(database: tuple[str, str]) -> None:
    dsn, owner_dsn = database
    documents = list(CHUNKS.documents("a", 120))
    await migrate(owner_dsn, model=MODEL, dimension=8, role="ragcore")
    async with PgVectorStore(dsn) as store, connected(owner_dsn) as owner:
        await store.upsert(documents, tenant="written")
        await copy_in(owner, "ragcore", "copied", iter(documents))
        columns = {
            "document": "id, content_hash, model, expires_at",
            "chunk": "id, document_id, position, text, title, source, start_char, end_char, metadata, embedding, words, expires_at",
            "posting": "lexeme, impact, chunk_id",
        }
        for table, names in columns.items():
            select = f"select {names} from ragcore.{table} where tenant = $1 order by {names.split(', ')[0]}, {names.split(', ')[-1]}"
            written, copied = [list(map(tuple, await owner.fetch(select, tenant))) for tenant in ("written", "copied")]
            assert len(written) >= 3
            assert written == copied
        modes: tuple[Mode, ...] = ("vector", "text", "hybrid")
        for mode in modes:
            asked = [
                Query(
                    question=documents[1].chunks[3].text,
                    tenant=tenant,
                    mode=mode,
                    top_k=5,
                    vector=documents[1].vectors[3],
                )
                for tenant in ("written", "copied")
            ]
            written, copied = [[(one.chunk_id, one.score) for one in await store.search(query)] for query in asked]
            assert written == copied
            assert written[0][0] == documents[1].chunks[3].id


def test_the_size_of_an_index_follows_from_the_layout_of_its_pages() -> None:
    # Elements in a page: 4 whole vectors, 7 half ones, or 23 of bits.
    assert index_bytes("vector", 4_000, 384) == 8_192 * 1_001
    assert index_bytes("halfvec", 7_000, 384) == 8_192 * 1_001
    assert index_bytes("binary", 23_000, 384) == 8_192 * 1_001


def test_the_model_is_found_and_predicts_a_point_that_it_was_not_fitted_to() -> None:
    walk = Walk("halfvec", 0.5, 0.0003, 0.2)
    points = [
        Point("halfvec", rows, dimension, walk(rows, dimension))
        for rows in (1_000, 2_000, 4_000)
        for dimension in (384, 1_536)
    ]
    assert search_time(points)(1_000_000, 768) == pytest.approx(walk(1_000_000, 768))
    wrong = [*points[:-1], Point("halfvec", 4_000, 1_536, 2 * points[-1].value)]
    assert left_out(wrong, search_time)[-1][1] == pytest.approx(points[-1].value)
    builds = [Point(one.kind, one.rows, one.dimension, one.rows * one.value) for one in points]
    assert build_time(builds)(1_000_000, 768) == pytest.approx(1e6 * walk(1_000_000, 768))


def test_a_million_chunks_have_a_large_tenant_ten_middle_ones_and_a_thousand_small_ones() -> None:
    collection = Collection.of("many", 1_000_000)
    sizes = {size: list(tenants.values()) for size, tenants in collection.tenants.items()}
    assert sizes["large"] == [200_000]
    assert sizes["middle"] == [10_000] * 10
    assert set(sizes["small"]) == {700}
    assert len(sizes["small"]) == 1_000
    assert collection.rows == 1_000_000
