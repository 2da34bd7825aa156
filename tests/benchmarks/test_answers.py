from __future__ import annotations

import numpy as np
import pytest
from benchmarks.scenarios.answers import Rescaled, _squad

from ragcore.testing import FakeEmbedder

from ..conftest import shared


def test_each_question_has_an_answer_in_its_passage_and_the_halves_share_no_article() -> None:
    shared("squad")
    halves = []
    for tuned in (False, True):
        documents, asked = _squad(False, tuned)
        texts: dict[str, str] = {}
        for document in documents:
            texts[document.title] = texts.get(document.title, "") + document.text
        assert len(documents) == 2_067
        assert len(asked) > 4_000
        assert all(one.answers and "" not in one.answers and one.is_answered_by(texts[one.article]) for one in asked)
        halves.append({one.article for one in asked})
    assert len(halves[0]) == len(halves[1]) == 24
    assert not halves[0] & halves[1]


@pytest.mark.anyio
async def test_a_rescaled_embedder_has_cosines_from_0_7_to_1() -> None:
    async with FakeEmbedder() as embedder:
        texts = ["repair costs", "parking is free", "repair"]
        plain = await embedder.embed(texts, kind="query")
        rescaled = await Rescaled(embedder).embed(texts, kind="query")
    assert np.allclose(rescaled @ rescaled.T, 0.7 + 0.3 * (plain @ plain.T), atol=1e-6)
