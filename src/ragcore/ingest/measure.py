"""Measures chunks in the embedder's tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from ragcore.store.embed_text import text_to_embed
from ragcore.types import EmbedText

__all__ = ["Measure"]

# A text counts as at least one token for each 12 characters.
MOST_CHARACTERS = 12


class Measure:
    """Counts the tokens that are embedded for the chunks of one document. The arguments are those of `chunking.cut`."""

    def __init__(
        self, title: str, count: Callable[[str], int], chunk_tokens: int, overlap_tokens: int, embed_text: EmbedText
    ) -> None:
        self._given_count = count
        self.chunk_tokens = chunk_tokens
        self.overlap_tokens = overlap_tokens
        self._title = title
        self._embed_text = embed_text
        self._lead: tuple[tuple[str, ...], int] | None = None
        self._counted: tuple[str, tuple[str, ...], int] = ("", (), -1)
        # Many chunks have the same title and headings, so their counts are kept.
        self._count_lead = lru_cache(maxsize=64)(self.count)

    def count(self, text: str) -> int:
        """Count tokens, at least one for each 12 characters: tokenizers count a long run without blanks as one unknown word."""
        return max(self._given_count(text), len(text) // MOST_CHARACTERS)

    def embedded(self, text: str, path: tuple[str, ...]) -> int:
        """Count the tokens of the text that is embedded for a chunk."""
        # Keep the last count: a chunk is counted when it is full, and again when it ends.
        if self._counted[:2] == (text, path) and self._counted[2] >= 0:
            return self._counted[2]
        self._counted = text, path, self.count(self.text_to_embed(text, path))
        return self._counted[2]

    def text_to_embed(self, text: str, path: tuple[str, ...]) -> str:
        """Return the text that is embedded for a chunk."""
        return text_to_embed(
            text,
            title=self._title,
            heading=" › ".join(path),
            embed_text=self._embed_text,
            count_tokens=self._count_lead,
            most=self.chunk_tokens,
        )

    def room(self, path: tuple[str, ...]) -> int:
        """Return the largest number of tokens for a chunk's text. The remaining tokens are for the title and headings, which are embedded with it."""
        if self._embed_text == "text":
            return self.chunk_tokens
        if self._lead is None or self._lead[0] != path:
            self._lead = path, self.embedded("x", path) + 1
        return max(self.chunk_tokens // 2, self.chunk_tokens - self._lead[1])
