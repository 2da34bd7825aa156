"""Checks the vectors that an embedder returned or that a caller passes: their number, their dimension, and that each is finite and not zero.

Bad vectors are never replaced.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ragcore.errors import EmbeddingError, InvalidInput
from ragcore.protocols import Vector, Vectors

__all__ = ["check_vector", "check_vectors"]


def check_vectors(vectors: Vectors | Sequence[Vector], /, *, count: int, dimension: int, model: str) -> Vector:
    """Return the vectors as a (count, dimension) float32 array.

    Raises:
        EmbeddingError: the vectors are not numbers or have the wrong shape, or a vector is zero or not finite.
    """
    try:
        array = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
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


def check_vector(vector: Vector | Sequence[float], /, *, dimension: int | None) -> Vector:
    """Return a caller's vector as a float32 array of shape (dimension,).

    Args:
        vector: the vector.
        dimension: the dimension that it must have; None: any.

    Raises:
        InvalidInput: the vector does not consist of numbers, has another dimension, or is zero or not finite.
    """
    try:
        array = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput("the vector does not consist of numbers") from error
    if array.ndim != 1 or array.size == 0 or (dimension is not None and len(array) != dimension):
        wanted = "one dimension" if dimension is None else f"({dimension},)"
        raise InvalidInput(f"the vector has the shape {array.shape}: it must have {wanted}, like those of the embedder")
    length = np.linalg.norm(array)
    if not np.isfinite(length) or length == 0:
        raise InvalidInput("the vector is zero or not finite, so it has no direction to compare")
    return array
