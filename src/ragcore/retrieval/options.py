"""The options of a search, with their types and meanings. Retrievers, clients, views and streams share them.

A method takes them as `**options: Unpack[SearchOptions]`, which editors and type checkers understand. `spelled_out` shows them in `help`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict, TypeVar, get_type_hints
from uuid import UUID

from ragcore.filters import Filter
from ragcore.types import Mode

__all__ = ["SearchOptions", "SimilarityOptions", "VectorOptions", "check_options", "spelled_out"]

F = TypeVar("F", bound=Callable[..., object])


class SimilarityOptions(TypedDict, total=False):
    """The options of `similarity`."""

    score_threshold: float | Literal[False] | None
    """Lowest cosine similarity of a passage, in [-1, 1]. In mode "hybrid", it applies to passages of text search, too. None: the retriever's
    threshold. False or -1: no threshold."""
    filter: Filter | None
    """A condition that each passage must match, such as `ragcore.meta("year").ge(2024)`. None: no condition."""


class VectorOptions(SimilarityOptions, total=False):
    """The options of a search by vector alone."""

    top_k: int | None
    """Largest number of passages, 1 to 1,000. None: the retriever's value."""
    shared: Sequence[str | UUID] | None
    """Shared tenants whose documents are searched as well. Never let a user or a model choose them. None: the retriever's."""
    diversity: float | None
    """From 0, the best passages, to 1, passages that differ as much as possible from each other. None: the retriever's value."""
    neighbours: int | None
    """Number of chunks before and after each passage that become part of it, 0 to 10. None: the retriever's number."""
    relative_threshold: float | Literal[False] | None
    """Lowest share of the best score, from 0 to 1. A passage is dropped if its cosine similarity is lower than this share of the best passage's similarity.
    The best passage always stays. Text search ignores this option. None: the retriever's share. False or 0: no relative threshold."""


class SearchOptions(VectorOptions, total=False):
    """The options of a search."""

    query: str | None
    """The text to search for instead of the question, such as a stand-alone form of a follow-up question. None: the question.
    The answer is still an answer to the question."""
    mode: Mode | None
    """"vector", "text" or "hybrid". None: the retriever's mode."""
    rerank: bool | None
    """Whether the retriever's reranker sorts the passages. False: the passages keep the order of the search, for example to compare both orders. None: True.
    Without a reranker, the option has no effect."""
    degrade: bool | None
    """Whether to use a fallback when a stage fails, such as full-text search while the embedder is down. False: raise an error instead. None: the
    default of the client or retriever."""


def check_options(options: Mapping[str, object], kind: type, method: str) -> None:
    """Reject unknown options, as Python rejects an unknown keyword.

    Raises:
        TypeError: there is no such option.
    """
    for name in options:
        if name not in _names(kind):
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}")


def spelled_out(kind: type) -> Callable[[F], F]:
    """Show each option of a method in `help` and `inspect.signature`."""

    def decorate(method: F) -> F:
        found = inspect.signature(method)
        own = [one for one in found.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        options = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=() if name == "history" else None, annotation=annotation
            )
            for name, annotation in _annotations(kind).items()
        ]
        method.__signature__ = found.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        return method

    return decorate


def _names(kind: type) -> frozenset[str]:
    return kind.__required_keys__ | kind.__optional_keys__  # type: ignore[attr-defined, no-any-return]


def _annotations(kind: type) -> dict[str, Any]:
    """Return the annotations of the options: first those that a client's method adds to the options of a search, then the others."""
    found = get_type_hints(kind)
    first = [
        name for name in ("timeout", "history", "instructions", "max_tokens", "temperature", "stop") if name in found
    ]
    return {name: found[name] for name in (*first, *(name for name in found if name not in first))}
