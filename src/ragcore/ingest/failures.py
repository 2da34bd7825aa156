"""Decides which error of an ingest counts, and whether one document caused it."""

from __future__ import annotations

from ragcore.errors import DeadlineExceeded, DependencyError, InvalidInput, RagcoreError

__all__ = ["blames_a_document", "one_of"]

BLAMES_THE_DOCUMENT = (400, 413, 422)


def blames_a_document(error: RagcoreError) -> bool:
    """Return whether one document of a batch caused the error, so that the others can be added without it."""
    return isinstance(error, InvalidInput) or (
        isinstance(error, DependencyError) and error.status in BLAMES_THE_DOCUMENT and not error.of_configuration
    )


def one_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error of a task group to raise: the first that is not a `DeadlineExceeded`; if there is none, the first."""
    errors: list[BaseException] = []

    def collect(error: BaseException) -> None:
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                collect(inner)
        else:
            errors.append(error)

    collect(group)
    return next((error for error in errors if not isinstance(error, DeadlineExceeded)), errors[0])
