"""Generators: OpenAI and compatible servers, quotation without a model, a list of fallbacks, or your own function."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragcore.generation.extractive import ExtractiveGenerator as ExtractiveGenerator
    from ragcore.generation.fallback import FallbackGenerator as FallbackGenerator
    from ragcore.generation.openai import OpenAIGenerator as OpenAIGenerator
    from ragcore.generation.prompt import render as render
    from ragcore.generation.streams import at_once as at_once
    from ragcore.generation.sync import from_sync as from_sync
else:
    _HOME = {
        "ExtractiveGenerator": "extractive",
        "FallbackGenerator": "fallback",
        "OpenAIGenerator": "openai",
        "at_once": "streams",
        "from_sync": "sync",
        "render": "prompt",
    }

    def __getattr__(name: str) -> object:
        import importlib

        if name in _HOME:
            return getattr(importlib.import_module(f"ragcore.generation.{_HOME[name]}"), name)
        raise AttributeError(f"module 'ragcore.generation' has no attribute {name!r}")


__all__ = ["ExtractiveGenerator", "FallbackGenerator", "OpenAIGenerator", "at_once", "from_sync", "render"]
