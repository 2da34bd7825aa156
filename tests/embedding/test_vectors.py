"""Checks of vectors from embedders, and of scores from rerankers."""

from __future__ import annotations

import numpy as np
import pytest

from ragcore import EmbeddingError, InvalidInput, OpenAIEmbedder, RerankingError
from ragcore.embedding import from_sync
from ragcore.embedding.openai import _vectors
from ragcore.embedding.vectors import check_vector, check_vectors
from ragcore.lifecycle.part import Part
from ragcore.retrieval.reranking.searcher import _checked
from ragcore.wire.refusal import Undecodable

TOO_LARGE = 10**400


def test_a_whole_number_that_is_too_large_for_a_float_is_reported_like_any_other_bad_vector() -> None:
    with pytest.raises(InvalidInput):
        check_vector([TOO_LARGE, 1], dimension=2)
    with pytest.raises(EmbeddingError):
        check_vectors([[TOO_LARGE, 1]], count=1, dimension=2, model="m")
    with pytest.raises(Undecodable):
        _vectors({"data": [{"embedding": [TOO_LARGE, 1]}]}, 1)
    with pytest.raises(RerankingError):
        _checked([TOO_LARGE], 1, "m")


@pytest.mark.anyio
async def test_one_text_instead_of_a_list_is_refused_and_not_embedded_letter_by_letter() -> None:
    own = from_sync(lambda texts: np.ones((len(texts), 2)), model="own", dimension=2, max_tokens=100)
    assert isinstance(own, Part)
    async with own, OpenAIEmbedder("text-embedding-3-small", api_key="none", base_url="http://127.0.0.1:9") as openai:
        for embedder in (own, openai):
            for kind in ("query", "document"):
                with pytest.raises(InvalidInput, match="a single str: pass a list"):
                    await embedder.embed("text", kind=kind)
