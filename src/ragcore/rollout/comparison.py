"""Compares two answers to the same question: whether both found something, give the same figures, and cite the same documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from ragcore.explore.grounding import ground
from ragcore.types import Answer

__all__ = ["DIFFERENCES", "Difference", "differences"]

Difference: TypeAlias = Literal["found", "figures", "citations"]
DIFFERENCES: tuple[Difference, ...] = ("found", "figures", "citations")


def differences(question: str, stable: object, candidate: object) -> tuple[Difference, ...]:
    """Return how two answers differ; () if they agree.

    - "found": only one of them has an answer.
    - "figures": each contains an amount, a date or a number that the other one lacks. A longer answer with additional figures does not differ.
    - "citations": both cite documents, and no document in common.

    The rules for figures are those of `explore.answers`: "$1,500" equals "1500 dollars", and figures of the question don't count. If a side is a function
    that returns texts, only the figures are compared.
    """
    return tuple(_differences(question, stable, candidate))


def _differences(question: str, stable: object, candidate: object) -> Iterator[Difference]:
    if isinstance(stable, Answer) and isinstance(candidate, Answer):
        if stable.found != candidate.found:
            yield "found"
            return
        if not stable.found:
            return
        cited = [{one.passage.document_id for one in answer.citations} for answer in (stable, candidate)]
        if all(cited) and not cited[0] & cited[1]:
            yield "citations"
    texts = [answer.text if isinstance(answer, Answer) else answer for answer in (stable, candidate)]
    if isinstance(texts[0], str) and isinstance(texts[1], str):
        lacks = ground(texts[0], [texts[1]], question=question).missing_figures
        if lacks and ground(texts[1], [texts[0]], question=question).missing_figures:
            yield "figures"
