"""The scale makes the scores of different embedders comparable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import EmbeddingError
from ragcore.generation.nearness import PAIRS, Nearness, Scale
from ragcore.protocols import Vector
from ragcore.resilience import flow
from ragcore.testing import Fail, FakeEmbedder
from ragcore.text.matching import Wanted, split_words

COUNT = len(PAIRS)


def vectors(*, answer: float, noise: float = 0.0, seed: int = 0) -> tuple[Vector, Vector]:
    """Return questions and answers in 64 dimensions. The cosine of a question and its answer is `answer`, and others are nearly 0."""
    draw = np.random.default_rng(seed)
    questions = np.eye(COUNT, 64, dtype=np.float32)
    answers = answer * questions + np.sqrt(1 - answer**2) * np.eye(COUNT, 64, k=COUNT, dtype=np.float32)
    return questions, (answers + noise * draw.normal(size=answers.shape)).astype(np.float32)


@given(st.floats(0.2, 1.0), st.floats(0.0, 0.9), st.floats(0.1, 9.0))
def test_neither_a_shift_of_the_cosines_nor_the_length_of_the_vectors_changes_the_scale(
    answer: float, floor: float, length: float
) -> None:
    questions, answers = vectors(answer=answer)
    plain = Scale.of(questions, answers)

    def shifted(rows: Vector) -> Vector:
        constant = np.full((len(rows), 1), np.sqrt(floor), np.float32)
        return (length * np.hstack([np.sqrt(1 - floor) * rows, constant])).astype(np.float32)

    other = Scale.of(shifted(questions), shifted(answers))
    assert plain is not None
    assert other is not None
    for cosine in (0.0, answer / 2, answer):
        assert other(floor + (1 - floor) * cosine) == pytest.approx(plain(cosine), abs=1e-3)


def test_the_scale_goes_from_unrelated_texts_to_an_answer() -> None:
    scale = Scale(0.1, 0.6)
    assert [scale(cosine) for cosine in (-1.0, 0.1, 0.35, 0.6, 1.0)] == pytest.approx([0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("kind", ["constant", "random", "opposite"])
def test_an_embedder_that_does_not_compare_meanings_has_no_scale(kind: str) -> None:
    draw = np.random.default_rng(1)
    questions = draw.normal(size=(COUNT, 64)).astype(np.float32)
    answers = draw.normal(size=(COUNT, 64)).astype(np.float32)
    if kind == "constant":
        questions = answers = np.ones_like(answers)
    if kind == "opposite":
        answers = -questions
    assert Scale.of(questions, answers) is None


def test_the_pairs_are_about_different_things() -> None:
    for number, (question, _) in enumerate(PAIRS):
        wanted = Wanted(question)
        for other, (_, answer) in enumerate(PAIRS):
            if other != number:
                covered = wanted.coverage(wanted.find(split_words(answer)).words, {}, around_weight=0.0)
                assert covered < 0.5, (question, answer)


@pytest.mark.anyio
async def test_a_measurement_that_fails_is_repeated_and_belongs_to_no_tenant() -> None:
    embedder = FakeEmbedder(dimension=384)
    async with embedder, Nearness(embedder) as nearness:
        with flow("tenant"):
            embedder.faults.next(Fail(503))
            with pytest.raises(EmbeddingError):
                await nearness.near("What does it cost?", ["It costs $40."])
            near, tokens = await nearness.near("What does it cost?", ["It costs $40.", "Parking is free."])
        assert near is not None
        assert near.sentences[0] > near.sentences[1]
        assert tokens > 0
        assert nearness.clear(tenant="tenant") == 2
        assert nearness.clear() == COUNT
