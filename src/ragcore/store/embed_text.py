"""What is embedded for a chunk: its text, or its text with what stands over it. A collection records which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, get_args

from ragcore.types import EmbedText

__all__ = ["DEFAULT_EMBED_TEXT", "EMBED_TEXTS", "text_to_embed"]

# Of a new collection. Chosen by `python -m benchmarks chunks`; docs/tutorial/chunks.md has the figures.
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
    """Return what is embedded for a chunk.

    Args:
        text: the chunk's.
        title: the document's; "" for none.
        heading: the chunk's headings, outermost first, with " › " between them; "" for none.
        embed_text: "text"; "title+text": the title, then the text; "headings+text": the title and the headings that the text does not begin with itself.
        count_tokens: the embedder's.
        most: tokens of the result. What stands over the text is left out where it has more than half as many.

    Example:
        >>> text_to_embed("It is two years.", title="Road bikes", heading="Service › Warranty", embed_text="headings+text", count_tokens=len, most=200)
        'Road bikes › Service › Warranty\\n\\nIt is two years.'
    """
    if embed_text == "text":
        return text
    over = [title] if title else []
    if embed_text == "headings+text" and heading:
        over += heading.split(JOINER)
    begins = _begins(text)
    kept = [part for part in dict.fromkeys(over) if part not in begins]
    if not kept:
        return text
    lead = JOINER.join(kept)
    if len(lead) > 32 * most or 2 * count_tokens(lead) > most:
        return text
    return f"{lead}\n\n{text}"


def _begins(text: str) -> set[str]:
    """The first line of a text, and the headings that follow each other from there."""
    found: set[str] = set()
    for line in text[:MOST_HEADINGS].splitlines():
        plain = line.strip()
        if not plain:
            continue
        if found and not plain.startswith("#"):
            break
        found.add(plain.strip("#").strip())
    return found
