"""Measures how near sentences are to a question by their embeddings, on a scale that is the same for all embedders.

The same two texts have a cosine of 0.1 with one embedder and of 0.75 with another. `Scale` measures an embedder with known questions and answers. Its 0 is the
mean cosine of a question and an answer to another question, and its 1 is the mean cosine of a question and its own answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from ragcore.embedding.cache import MEBI, CachedEmbedder
from ragcore.lifecycle.part import Part, Parts
from ragcore.lifecycle.stages import Stopwatch
from ragcore.protocols import Embedder, Vector
from ragcore.resilience.flow import flow
from ragcore.text.redacting import Redacting
from ragcore.text.redaction import Redact, redacted

__all__ = ["Near", "Nearness", "Scale"]

# Everyday questions with their answers, all about different things.
PAIRS: Final = (
    ("When does the library close on Saturdays?", "On Saturdays the library is open until 4 p.m."),
    ("Who wrote the novel?", "The novel was written by a teacher from Bristol."),
    ("How do I reset the alarm clock?", "To reset the alarm clock, hold both buttons for five seconds."),
    ("What causes earthquakes?", "Earthquakes occur when plates of the Earth's crust slip past each other."),
    ("How many players are on a volleyball team?", "Each volleyball team has six players on the court."),
    ("Which metal is liquid at room temperature?", "Mercury is the only metal that is liquid at room temperature."),
    ("Where are penguins found in the wild?", "Wild penguins live almost only in the southern hemisphere."),
    ("Can I return shoes that I have worn?", "Worn shoes can't be sent back."),
    ("What language do people speak in Brazil?", "Most Brazilians speak Portuguese."),
    ("How long should the rice cook?", "Simmer the rice for twelve minutes."),
    ("Why was the flight delayed?", "Fog at the airport held the flight up for two hours."),
    ("What does the orchestra play first?", "The concert opens with an overture by Rossini."),
    ("How is steel protected against rust?", "A coat of zinc keeps steel from rusting."),
    ("Which vaccine do dogs need every year?", "Dogs are vaccinated against rabies once a year."),
    ("What was the king's punishment for traitors?", "Traitors were banished by the king."),
    ("How deep is the lake?", "At its deepest point the lake measures 230 metres."),
)
# The mean cosine of a question and its own answer must exceed the mean cosine of a question and another answer by this many standard deviations. Otherwise
# the embedder does not compare meanings.
LEAST_DEVIATIONS: Final = 4.0
# Size of the cache for the vectors of sentences: about 2,000 vectors of 1,536 dimensions.
CACHE_BYTES: Final = 12 * MEBI
# Longer sentences are cut before they are embedded.
MOST_CHARACTERS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Scale:
    """The mean cosine of unrelated texts and of a question with its answer."""

    unrelated: float
    answer: float

    @classmethod
    def of(cls, questions: Vector, answers: Vector) -> Self | None:
        """Measure an embedder by the vectors of `PAIRS`, each of shape (len(PAIRS), dimension). Returns None if the embedder does not compare meanings."""
        cosines = _unit(questions) @ _unit(answers).T
        own, others = np.diag(cosines), cosines[~np.eye(len(cosines), dtype=bool)]
        scale = cls(float(others.mean()), float(own.mean()))
        return scale if scale.answer - scale.unrelated > LEAST_DEVIATIONS * float(others.std()) else None

    def __call__(self, cosine: float) -> float:
        """Return a cosine on the scale, from 0 (unrelated) to 1 (an answer)."""
        return min(1.0, max(0.0, (cosine - self.unrelated) / (self.answer - self.unrelated)))


@dataclass(frozen=True, slots=True)
class Near:
    """How near each sentence is to the question, from 0 to 1, in the order of the sentences, and the scale for other cosines."""

    sentences: tuple[float, ...]
    scale: Scale


class Nearness(Part):
    """Embeds a question and sentences, and compares them. Keeps the vectors of sentences, separately for each tenant.

    Args:
        embedder: the embedder; started and closed with this component. If it is a `CachedEmbedder`, the question is usually cached already.
        redact: function that replaces parts of the texts before the embedder gets them; None: no redaction.
    """

    def __init__(self, embedder: Embedder, /, *, redact: Redact | None = None) -> None:
        self._cache = CachedEmbedder(embedder, max_bytes=CACHE_BYTES, kinds=("document",))
        self._redact = redact
        self._redacting = Redacting()
        self._parts = Parts()
        self._scale: Scale | None = None
        self._measured = False

    async def near(self, question: str, texts: Sequence[str]) -> tuple[Near | None, int]:
        """Return how near `texts` are to a question (None: the embedder does not compare meanings), and the number of embedded tokens.

        The first call also embeds `PAIRS`; their tokens are not counted.

        Raises:
            Exception: any error of the embedder or of the redaction.
        """
        if not self._measured:
            self._scale, self._measured = await self._measure(), True
        scale = self._scale
        if scale is None:
            return None, 0
        question, *texts = await self._redacting.run(
            self._redact, lambda: [redacted(self._redact, text[:MOST_CHARACTERS]) for text in (question, *texts)]
        )
        sent = [*self._cache.missing([question], kind="query"), *self._cache.missing(texts, kind="document")]
        asked = _unit(await self._cache.embed([question], kind="query"))[0]
        cosines = _unit(await self._cache.embed(texts, kind="document")) @ asked
        tokens = self._cache.count_tokens("\n".join(sent)) if sent else 0
        Stopwatch.embedded(tokens)
        return Near(tuple(scale(float(cosine)) for cosine in cosines), scale), tokens

    async def _measure(self) -> Scale | None:
        """Measure the embedder. The vectors are cached without a tenant, so if a measurement runs out of time, the next call continues it."""
        with flow(""):
            questions, answers = zip(*PAIRS, strict=True)
            vectors = await self._cache.embed(questions, kind="query")
            return Scale.of(vectors, await self._cache.embed(answers, kind="document"))

    def clear(self, *, tenant: str | None = None) -> int:
        """Delete the vectors of a tenant's sentences (None: of all tenants) and return their number."""
        return self._cache.clear(tenant=tenant)

    async def _open(self) -> None:
        await self._parts.start(self._cache)

    async def _close(self) -> None:
        await self._parts.aclose()


def _unit(vectors: Vector) -> Vector:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vector = vectors / lengths
    return unit
