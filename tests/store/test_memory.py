"""`MemoryStore`: the contract of stores, and fusion."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import ConfigurationError, MemoryStore, NotOpen, Passage, Query
from ragcore.store.fusion import fused_scores, reciprocal_ranks

from .contract import StoreContract, check_shared_search, embedded


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

    async def test_a_shared_tenant_is_searched_if_it_is_named_and_marked(self, store: MemoryStore) -> None:
        await check_shared_search(store, mark=store.share, unmark=store.unshare)


@pytest.mark.anyio
async def test_before_start_it_says_so() -> None:
    with pytest.raises(NotOpen, match="async with"):
        await MemoryStore().count(tenant="a")


rankings = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(rankings, rankings)
def test_reciprocal_ranks_keep_each_key_once_and_a_common_leader_stays_first(one: list[str], other: list[str]) -> None:
    ranks = reciprocal_ranks(one, other)
    assert set(ranks) == {*one, *other}
    if one and other and one[0] == other[0]:
        assert max(ranks, key=lambda key: ranks[key]) == one[0]


scores = st.none() | st.floats(-1, 1, width=16)


@given(st.lists(st.tuples(scores, st.none() | st.floats(0.001, 100))))
def test_fused_scores_are_from_0_to_1_and_better_in_both_means_not_worse_in_sum(
    given_scores: list[tuple[float | None, float | None]],
) -> None:
    passages = [
        Passage(str(number), "d", "t", score=score, text_score=text)
        for number, (score, text) in enumerate(given_scores)
    ]
    fused = fused_scores(passages)
    assert all(0 <= score <= 1 + 1e-9 for score in fused)
    for one, first in zip(passages, fused, strict=True):
        for other, second in zip(passages, fused, strict=True):
            similar = (one.score is None, -(one.score or 0.0)) <= (other.score is None, -(other.score or 0.0))
            if similar and (one.text_score or 0.0) >= (other.text_score or 0.0):
                assert first >= second - 1e-9


def test_a_language_that_memory_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="english, simple"):
        MemoryStore(language="klingon")  # type: ignore[arg-type]
