"""The text that is embedded for a chunk: its text alone, or preceded by title and headings. A collection records the choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, get_args

from ragcore.types import EmbedText

__all__ = ["DEFAULT_EMBED_TEXT", "EMBED_TEXTS", "text_to_embed"]

# The default of a new collection. Chosen with `python -m benchmarks chunks`; docs/tutorial/chunks.md has the figures.
DEFAULT_EMBED_TEXT: Final[EmbedText] = "headings+text"
EMBED_TEXTS: Final[tuple[EmbedText, ...]] = get_args(EmbedText)
JOINER = " › "
MOST_HEADINGS = 2_000


def text_to_embed(
    text: str,
    *,
    title: str,
    heading: str,
    embed_text: EmbedText,
    count_tokens: Callable[[str], int],
    most: int,
) -> str:
    """Return the text to embed for a chunk.

    Args:
        text: the chunk's text.
        title: the document's title; "" if it has none.
        heading: the chunk's headings, outermost first, joined with " › "; "" if it has none.
        embed_text: "text": the text alone. "title+text": the title, then the text. "headings+text": the title and the headings, then the text;
            headings with which the text itself begins are left out.
        count_tokens: the embedder's function that counts tokens.
        most: largest number of tokens of the result. Title and headings are left out if they have more than half of that number.

    Examples:
        >>> text_to_embed("It is two years.", title="Road bikes", heading="Service › Warranty", embed_text="headings+text", count_tokens=len, most=200)
        'Road bikes › Service › Warranty\\n\\nIt is two years.'
    """
    if embed_text == "text":
        return text
    parts = [title] if title else []
    if embed_text == "headings+text" and heading:
        parts += heading.split(JOINER)
    opening = _opening_lines(text)
    kept = [part for part in dict.fromkeys(parts) if part not in opening]
    if not kept:
        return text
    lead = JOINER.join(kept)
    if len(lead) > 32 * most or 2 * count_tokens(lead) > most:
        return text
    return f"{lead}\n\n{text}"


def _opening_lines(text: str) -> set[str]:
    """Return the first line of a text, and the headings that follow it directly."""
    found: set[str] = set()
    for line in text[:MOST_HEADINGS].splitlines():
        plain = line.strip()
        if not plain:
            continue
        if found and not plain.startswith("#"):
            break
        found.add(plain.strip("#").strip())
    return found
