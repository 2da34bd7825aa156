"""Embedders, which turn texts into vectors: OpenAI and compatible servers, a local model, or your own function."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragcore.embedding.cache import CachedEmbedder as CachedEmbedder
    from ragcore.embedding.local import LocalEmbedder as LocalEmbedder
    from ragcore.embedding.openai import OpenAIEmbedder as OpenAIEmbedder
    from ragcore.embedding.shared_vectors import SharedVectors as SharedVectors
    from ragcore.embedding.sync import from_sync as from_sync
else:
    _HOME = {
        "CachedEmbedder": "cache",
        "LocalEmbedder": "local",
        "OpenAIEmbedder": "openai",
        "SharedVectors": "shared_vectors",
        "from_sync": "sync",
    }

    def __getattr__(name: str) -> object:
        import importlib

        if name in _HOME:
            return getattr(importlib.import_module(f"ragcore.embedding.{_HOME[name]}"), name)
        raise AttributeError(f"module 'ragcore.embedding' has no attribute {name!r}")


__all__ = ["CachedEmbedder", "LocalEmbedder", "OpenAIEmbedder", "SharedVectors", "from_sync"]
