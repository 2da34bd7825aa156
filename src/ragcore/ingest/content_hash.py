"""The hash by which a document is known to be unchanged."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC

from ragcore.text.redaction import Redact, key_of
from ragcore.types import Document, EmbedText

__all__ = ["content_hash"]

FORMAT = 2  # of the hash: raised when chunks are made differently, so that everything is made anew


def content_hash(
    document: Document,
    *,
    model: str,
    document_prefix: str,
    chunk_tokens: int,
    overlap_tokens: int,
    embed_text: EmbedText | None,
    redact: Redact | None,
) -> str:
    """Return the SHA-256 of all that chunks and vectors are made from, as 64 hexadecimal digits.

    Args:
        model: the embedder's.
        document_prefix: what the embedder puts before each chunk; "" for nothing.
        chunk_tokens, overlap_tokens, embed_text, redact: as in `Ingestor`.
    """
    parts = [
        FORMAT,
        model,
        chunk_tokens,
        overlap_tokens,
        document.title,
        document.source,
        dict(document.metadata),
        document.text,
    ]
    # What the embedder puts before each chunk, and what we do: only if there is any, so that the hashes of others stay.
    if document_prefix:
        parts.append(document_prefix)
    if embed_text not in (None, "text"):
        parts.append(embed_text)
    if redact is not None:
        parts.append(key_of(redact))
    if document.expires_at is not None:
        parts.append(document.expires_at.astimezone(UTC).isoformat())
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
