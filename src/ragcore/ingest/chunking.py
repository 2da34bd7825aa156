"""Cuts a text into chunks at headings, paragraphs, sentences and rows. Sizes are in the embedder's tokens.

A chunk is a contiguous piece of the text, `text[start:end]`, so that a citation points into the source. A chunk that begins within a table starts with the
table's header rows. A heading stays with the text that follows it. Chunks of the same section overlap, so that a sentence is found with its neighbours.
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

__all__ = ["Cut", "cut", "uncut"]


@dataclass(frozen=True, slots=True)
class Cut:
    """The chunks of a document.

    Attributes:
        chunks: the chunks in the order of the text.
        texts: the text that is embedded for each chunk.
        tokens: number of tokens of all these texts.
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
        count_tokens: counts tokens as the embedder does.
        chunk_tokens: largest number of tokens that are embedded for a chunk.
        overlap_tokens: largest number of tokens that a chunk repeats from the end of the previous chunk of its section: whole sentences, or the end of the last
            sentence if the script has no blanks or the sentence is longer than a chunk.
        embed_text: the text that is embedded for a chunk. Default: the chunk's text.
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


def uncut(
    document: Document,
    *,
    count_tokens: Callable[[str], int],
    chunk_tokens: int,
    overlap_tokens: int,
    embed_text: EmbedText = "text",
) -> Cut:
    """Make the whole document one chunk. A document without any text has none. The arguments are those of `cut`."""
    if not document.text.strip():
        return Cut((), (), 0)
    measure = Measure(document.title, count_tokens, chunk_tokens, overlap_tokens, embed_text)
    chunk = Chunk(id=f"{document.id}#0", text=document.text, start=0, end=len(document.text))
    embedded = measure.text_to_embed(document.text, ())
    return Cut((chunk,), (embedded,), count_tokens(embedded))
