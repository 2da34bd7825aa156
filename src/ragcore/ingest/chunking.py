"""A text cut into chunks along its own joints: headings, paragraphs, sentences, rows; measured in the embedder's own tokens.

A chunk is a contiguous piece of the text, `text[start:end]`, so that a citation points into the source. Where it begins within a table, the table's header rows
stand before it. A heading stays with what follows it. What follows within a section overlaps, so that a sentence's neighbours are found with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ragcore.ingest.blocks import PAGE_BREAK
from ragcore.ingest.measure import Measure
from ragcore.ingest.packer import Packer, path_of
from ragcore.ingest.units import units
from ragcore.types import Chunk, Document, EmbedText

__all__ = ["Cut", "cut"]


@dataclass(frozen=True, slots=True)
class Cut:
    """A document in chunks.

    Attributes:
        chunks: in the order of the text.
        texts: what is embedded for each.
        tokens: of all texts together.
    """

    chunks: tuple[Chunk, ...]
    texts: tuple[str, ...]
    tokens: int


def cut(
    document: Document,
    *,
    count_tokens: Callable[[str], int],
    chunk_tokens: int,
    overlap_tokens: int,
    embed_text: EmbedText = "text",
) -> Cut:
    """Cut a document into chunks.

    Args:
        count_tokens: the embedder's.
        chunk_tokens: of what is embedded for a chunk, at most.
        overlap_tokens: of the section's last sentences, at most, that the next chunk of the same section begins with. In scripts without blanks, and where a
            sentence is longer than a chunk, the end of the last sentence.
        embed_text: what is embedded for a chunk. Default: its text.
    """
    measure = Measure(document.title, count_tokens, chunk_tokens, overlap_tokens, embed_text)
    packer = Packer(document.text, measure)
    for unit in units(document.text, measure):
        packer.add(unit)
    packer.flush()
    has_pages = PAGE_BREAK in document.text
    chunks = []
    for number, (parts, text, _) in enumerate(packer.chunks):
        metadata: dict[str, Any] = {}
        path = path_of(parts)
        if path:
            metadata["heading"] = " › ".join(path)
        if has_pages:
            metadata["page"] = parts[-1].page
        start, end = parts[0].start, parts[-1].end
        chunks.append(Chunk(id=f"{document.id}#{number}", text=text, start=start, end=end, metadata=metadata))
    return Cut(tuple(chunks), tuple(embedded for _, _, embedded in packer.chunks), packer.tokens)
