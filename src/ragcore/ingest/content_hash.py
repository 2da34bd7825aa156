"""The hash that shows whether a document has changed."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC

from ragcore.text.redaction import Redact, key_of
from ragcore.types import Document, EmbedText

__all__ = ["content_hash"]

FORMAT = 2  # increased when chunking changes, so that all documents are embedded again


def content_hash(
    document: Document,
    *,
    model: str,
    document_prefix: str,
    chunk_tokens: int,
    overlap_tokens: int,
    embed_text: EmbedText | None,
    redact: Redact | None,
    split: bool = True,
) -> str:
    """Return the SHA-256 of all data that chunks and vectors depend on, as 64 hexadecimal digits.

    Args:
        model: name of the embedding model.
        document_prefix: text that the embedder puts before each chunk; "" for none.
        chunk_tokens, overlap_tokens, embed_text, redact: as in `Ingestor`.
        split: whether the document is cut into chunks.
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
    # Options at their defaults are left out, so that hashes from releases without these options stay valid.
    if document_prefix:
        parts.append(document_prefix)
    if embed_text not in (None, "text"):
        parts.append(embed_text)
    if redact is not None:
        parts.append(key_of(redact))
    if document.expires_at is not None:
        parts.append(document.expires_at.astimezone(UTC).isoformat())
    if not split:
        parts.append("one chunk")
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
