"""Checks the vectors that an embedder returned: their number, their dimension, and that each is finite and not zero. Bad vectors are never replaced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ragcore.errors import EmbeddingError
from ragcore.protocols import Vector, Vectors

__all__ = ["check_vectors"]


def check_vectors(vectors: Vectors | Sequence[Vector], /, *, count: int, dimension: int, model: str) -> Vector:
    """Return the vectors as a (count, dimension) float32 array.

    Raises:
        EmbeddingError: the vectors are not numbers or have the wrong shape, or a vector is zero or not finite.
    """
    try:
        array = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise EmbeddingError(
            f"{model} returned something that is not {count} vectors of numbers", dependency=model, stage="embed"
        ) from error
    if count == 0:
        return np.zeros((0, dimension), np.float32)
    if array.shape != (count, dimension):
        raise EmbeddingError(
            f"{model} returned vectors of shape {array.shape} for {count} texts, expected ({count}, {dimension}): check that its dimension is {dimension}",
            dependency=model,
            stage="embed",
        )
    lengths = np.linalg.norm(array, axis=1)
    for what, bad in (("not finite", ~np.isfinite(lengths)), ("zero", lengths == 0)):
        if bad.any():
            raise EmbeddingError(
                f"{model} returned a vector that is {what}, for text {int(np.argmax(bad))} of {count}",
                dependency=model,
                stage="embed",
            )
    return array
