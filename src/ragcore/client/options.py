"""The options of a client's calls, in addition to those of a search. Each option is documented once, here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ragcore.retrieval.options import SearchOptions, SimilarityOptions, VectorOptions
from ragcore.types import Turn

__all__ = ["AnySchema", "AskOptions", "RetrieveOptions", "TimedSimilarityOptions", "TimedVectorOptions"]


# The schema of an answer's data: a pydantic model, a dataclass or a TypedDict, or a JSON schema.
AnySchema: TypeAlias = type[object] | Mapping[str, object]


class RetrieveOptions(SearchOptions, total=False):
    """The options of `retrieve`."""

    history: Sequence[Turn | Mapping[str, object]]
    """Earlier turns, oldest first: `Turn`s, or mappings with "role" and "content". The search for a follow-up question uses them: see `Settings.rewrite`."""

    timeout: float | None
    """Seconds for the whole call. None: `Settings.timeout` (30)."""


class AskOptions(RetrieveOptions, total=False):
    """The options of `ask` and `stream`."""

    instructions: str | None
    """Instructions for the answer, which replace `Settings.instructions`. None: those of the settings."""
    max_tokens: int | None
    """Largest number of tokens of the answer. None: the generator's own limit, else `Settings.max_tokens`."""
    temperature: float | None
    """How freely the model chooses its words, from 0 to 2. None: the generator's own (0)."""
    stop: str | Sequence[str] | None
    """Up to four texts. The answer ends before the first of them that the model writes. None: no such texts."""


class TimedSimilarityOptions(SimilarityOptions, total=False):
    """The options of a client's `similarity`."""

    timeout: float | None
    """Seconds for the whole call. None: `Settings.timeout` (30)."""


class TimedVectorOptions(VectorOptions, total=False):
    """The options of a client's `retrieve_by_vector`."""

    timeout: float | None
    """Seconds for the whole call. None: `Settings.timeout` (30)."""
