"""What a search can be told: each option with its type and its meaning, once for retriever, clients, views and streams.

A method takes them as `**options: Unpack[SearchOptions]`, which editors and type checkers know, and `spelled_out` shows them to `help`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict, TypeVar, get_type_hints

from ragcore.filters import Filter
from ragcore.types import Mode

__all__ = ["SearchOptions", "SimilarityOptions", "check_options", "spelled_out"]

F = TypeVar("F", bound=Callable[..., object])


class SimilarityOptions(TypedDict, total=False):
    """The options of `similarity`."""

    score_threshold: float | Literal[False] | None
    """Least cosine similarity of what is found by vector, in [-1, 1]. None: as the retriever has it; False, or -1: none."""
    filter: Filter | None
    """Only passages that it matches, such as `ragcore.meta("year").ge(2024)`. None: all."""


class SearchOptions(SimilarityOptions, total=False):
    """The options of a search."""

    top_k: int | None
    """Passages at most, 1 to 1,000. None: as the retriever has it."""
    mode: Mode | None
    """"vector", "text" or "hybrid". None: as the retriever has it."""
    degrade: bool | None
    """Whether another way is taken when a stage fails, such as full-text search while the embedder is down. None: as set; False raises instead."""


def check_options(options: Mapping[str, object], kind: type, method: str) -> None:
    """What Python says to an unknown keyword.

    Raises:
        TypeError: there is no such option.
    """
    for name in options:
        if name not in _names(kind):
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}")


def spelled_out(kind: type) -> Callable[[F], F]:
    """Show the options of a method one by one to `help` and `inspect.signature`."""

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
    """In the order in which a reader needs them: its own first."""
    found = get_type_hints(kind)
    first = [
        name for name in ("timeout", "history", "instructions", "max_tokens", "temperature", "stop") if name in found
    ]
    return {name: found[name] for name in (*first, *(name for name in found if name not in first))}
