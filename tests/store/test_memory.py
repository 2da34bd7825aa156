"""`MemoryStore`: the contract of stores, and fusion."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import MemoryStore, NotOpen, Passage, Query
from ragcore.store.fusion import fuse

from .contract import StoreContract, embedded


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def store(self, anyio_backend: str) -> AsyncIterator[MemoryStore]:
        async with MemoryStore() as made:
            yield made

    async def test_a_zero_vector_never_reaches_a_result(self, store: MemoryStore) -> None:
        document = embedded("d", "words")
        document.vectors[:] = 0
        await store.upsert([document], tenant="a")
        ones = np.ones(64, np.float32)
        assert await store.search(Query(question="q", tenant="a", mode="vector", top_k=1, vector=ones)) == []
        assert len((await store.scores(ones, tenant="a")).scores) == 0


@pytest.mark.anyio
async def test_before_start_it_says_so() -> None:
    with pytest.raises(NotOpen, match="async with"):
        await MemoryStore().count(tenant="a")


rankings = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(rankings, rankings)
def test_fusion_keeps_each_passage_once_and_a_common_leader_stays_first(one: list[str], other: list[str]) -> None:
    by_vector = [Passage(i, "d", "t", score=1.0) for i in one]
    by_text = [Passage(i, "d", "t", text_score=1.0) for i in other]
    fused = fuse(by_vector, by_text)
    assert sorted(p.chunk_id for p in fused) == sorted({*one, *other})
    assert all(
        (p.score is not None) == (p.chunk_id in one) and (p.text_score is not None) == (p.chunk_id in other)
        for p in fused
    )
    if one and other and one[0] == other[0]:
        assert fused[0].chunk_id == one[0]
