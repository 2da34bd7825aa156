"""What a call of the client can be told beside what its search is told: each option with its type and its meaning, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ragcore.retrieval.options import SearchOptions, SimilarityOptions
from ragcore.types import Turn

__all__ = ["AskOptions", "RetrieveOptions", "TimedSimilarityOptions"]


class RetrieveOptions(SearchOptions, total=False):
    """The options of `retrieve`."""

    timeout: float | None
    """Seconds for the whole call. None: as set (30)."""


class AskOptions(RetrieveOptions, total=False):
    """The options of `ask` and `stream`."""

    history: Sequence[Turn | Mapping[str, object]]
    """Earlier turns, oldest first; {"role", "content"} mappings do too."""
    instructions: str | None
    """What the answer should be like, in place of what is set. None: as set."""
    max_tokens: int | None
    """Of the answer. None: as set."""
    temperature: float | None
    """How freely the model chooses its words, from 0 to 2. None: as the generator has it (0)."""
    stop: str | Sequence[str] | None
    """Up to four texts that end the answer where they would come. None: none."""


class TimedSimilarityOptions(SimilarityOptions, total=False):
    """The options of a client's `similarity`."""

    timeout: float | None
    """Seconds for the whole call. None: as set (30)."""
