"""Options of reading and chunking: their defaults and their checks."""

from __future__ import annotations

import math
from typing import Final, get_args

from ragcore.errors import ConfigurationError
from ragcore.types import EmbedText

__all__ = [
    "CHUNK_TOKENS",
    "OVERLAP_TOKENS",
    "READ_SECONDS",
    "check_chunking",
    "check_read_timeout",
]

CHUNK_TOKENS: Final = 200
OVERLAP_TOKENS: Final = 40
LEAST_CHUNK_TOKENS: Final = 8
READ_SECONDS: Final = 120.0


def check_chunking(chunk_tokens: int, overlap_tokens: int, embed_text: EmbedText | None) -> None:
    """Check the options of chunks.

    Raises:
        ConfigurationError: an option has an invalid value.
    """
    if not (isinstance(chunk_tokens, int) and chunk_tokens >= LEAST_CHUNK_TOKENS):
        raise ConfigurationError(
            f"chunk_tokens is {chunk_tokens!r}: it must be a whole number, at least {LEAST_CHUNK_TOKENS}"
        )
    if not (isinstance(overlap_tokens, int) and 0 <= overlap_tokens < chunk_tokens):
        raise ConfigurationError(
            f"overlap_tokens is {overlap_tokens!r}: it must be a whole number, at least 0 and less than chunk_tokens ({chunk_tokens})"
        )
    if embed_text is not None and embed_text not in get_args(EmbedText):
        raise ConfigurationError(
            f"embed_text is {embed_text!r}: it must be one of {', '.join(get_args(EmbedText))}, or None"
        )


def check_read_timeout(seconds: float) -> None:
    """Check the timeout for reading a file.

    Raises:
        ConfigurationError: the number is not positive and finite.
    """
    if isinstance(seconds, bool) or not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
        raise ConfigurationError(f"read_timeout is {seconds!r}: it must be a positive, finite number of seconds")
