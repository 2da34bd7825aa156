"""ragcore: answers questions about private documents, within a deadline.

    import ragcore

    async with ragcore.RAG.from_config(ragcore.Config.from_env()) as rag:
        answer = await rag.ask("What is my warranty?", tenant="acme", timeout=30)

Names are imported when they are first used (PEP 562), so that `import ragcore` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragcore.compat.distribution import warn_about_namesake
from ragcore.compat.moved import find_moved_modules

__version__ = "0.2.0"

find_moved_modules()
warn_about_namesake()

if TYPE_CHECKING:
    from ragcore.client.many import Answers as Answers
    from ragcore.client.rag import RAG as RAG
    from ragcore.client.rag import TenantView as TenantView
    from ragcore.client.stream import AnswerStream as AnswerStream
    from ragcore.config import Config as Config
    from ragcore.config import Policies as Policies
    from ragcore.config import Settings as Settings
    from ragcore.embedding import CachedEmbedder as CachedEmbedder
    from ragcore.embedding import LocalEmbedder as LocalEmbedder
    from ragcore.embedding import OpenAIEmbedder as OpenAIEmbedder
    from ragcore.embedding import SharedVectors as SharedVectors
    from ragcore.errors import CircuitOpen as CircuitOpen
    from ragcore.errors import ConfigurationError as ConfigurationError
    from ragcore.errors import DeadlineExceeded as DeadlineExceeded
    from ragcore.errors import DependencyError as DependencyError
    from ragcore.errors import EmbeddingError as EmbeddingError
    from ragcore.errors import GenerationError as GenerationError
    from ragcore.errors import InvalidAnswer as InvalidAnswer
    from ragcore.errors import InvalidInput as InvalidInput
    from ragcore.errors import LimitExceeded as LimitExceeded
    from ragcore.errors import NotOpen as NotOpen
    from ragcore.errors import Overloaded as Overloaded
    from ragcore.errors import RagcoreError as RagcoreError
    from ragcore.errors import RerankingError as RerankingError
    from ragcore.errors import StoreError as StoreError
    from ragcore.errors import Unsupported as Unsupported
    from ragcore.errors import WrongEventLoop as WrongEventLoop
    from ragcore.filters import Filter as Filter
    from ragcore.filters import MetaField as MetaField
    from ragcore.filters import meta as meta
    from ragcore.generation import ExtractiveGenerator as ExtractiveGenerator
    from ragcore.generation import FallbackGenerator as FallbackGenerator
    from ragcore.generation import OpenAIGenerator as OpenAIGenerator
    from ragcore.ingest import Ingestor as Ingestor
    from ragcore.protocols import Diagnosis as Diagnosis
    from ragcore.protocols import Diagnostician as Diagnostician
    from ragcore.protocols import EmbeddedDocument as EmbeddedDocument
    from ragcore.protocols import Embedder as Embedder
    from ragcore.protocols import Found as Found
    from ragcore.protocols import Generator as Generator
    from ragcore.protocols import Query as Query
    from ragcore.protocols import Reranker as Reranker
    from ragcore.protocols import Scores as Scores
    from ragcore.protocols import Searcher as Searcher
    from ragcore.protocols import Store as Store
    from ragcore.protocols import Vector as Vector
    from ragcore.protocols import Vectors as Vectors
    from ragcore.retrieval.reranking.http import HTTPReranker as HTTPReranker
    from ragcore.retrieval.reranking.local import LocalReranker as LocalReranker
    from ragcore.retrieval.reranking.searcher import RerankedSearcher as RerankedSearcher
    from ragcore.retrieval.retriever import Retriever as Retriever
    from ragcore.store import MemoryStore as MemoryStore
    from ragcore.store import PgVectorStore as PgVectorStore
    from ragcore.store import Table as Table
    from ragcore.store import TableStore as TableStore
    from ragcore.text.redaction import Redaction as Redaction
    from ragcore.text.tokens import estimate_tokens as estimate_tokens
    from ragcore.types import Answer as Answer
    from ragcore.types import Asked as Asked
    from ragcore.types import AskProgress as AskProgress
    from ragcore.types import CallInfo as CallInfo
    from ragcore.types import Chunk as Chunk
    from ragcore.types import Citation as Citation
    from ragcore.types import Counts as Counts
    from ragcore.types import Degradation as Degradation
    from ragcore.types import Delta as Delta
    from ragcore.types import Document as Document
    from ragcore.types import Done as Done
    from ragcore.types import Doubt as Doubt
    from ragcore.types import EmbedText as EmbedText
    from ragcore.types import EmptyReason as EmptyReason
    from ragcore.types import Erased as Erased
    from ragcore.types import Generation as Generation
    from ragcore.types import Health as Health
    from ragcore.types import IngestReport as IngestReport
    from ragcore.types import Kind as Kind
    from ragcore.types import LimitState as LimitState
    from ragcore.types import Mode as Mode
    from ragcore.types import Origin as Origin
    from ragcore.types import Passage as Passage
    from ragcore.types import Price as Price
    from ragcore.types import Prompt as Prompt
    from ragcore.types import Retrieval as Retrieval
    from ragcore.types import Retrieved as Retrieved
    from ragcore.types import Scalar as Scalar
    from ragcore.types import SimilarityReport as SimilarityReport
    from ragcore.types import Stats as Stats
    from ragcore.types import StreamEvent as StreamEvent
    from ragcore.types import Turn as Turn
    from ragcore.types import Unreadable as Unreadable
    from ragcore.types import Usage as Usage
    from ragcore.types import UsedTokens as UsedTokens
    from ragcore.types.secret import Secret as Secret
    from ragcore.value import Timings as Timings
else:
    _PACKAGES = (
        "audit",
        "blocking",
        "embedding",
        "events",
        "explore",
        "generation",
        "ingest",
        "resilience",
        "rollout",
        "store",
        "testing",
    )
    _HOMES = {
        "config": ("Config", "Policies", "Settings"),
        "embedding": ("CachedEmbedder", "LocalEmbedder", "OpenAIEmbedder", "SharedVectors"),
        "errors": (
            "CircuitOpen", "ConfigurationError", "DeadlineExceeded", "DependencyError", "EmbeddingError", "GenerationError", "InvalidAnswer", "InvalidInput",
            "LimitExceeded", "NotOpen", "Overloaded", "RagcoreError", "RerankingError", "StoreError", "Unsupported", "WrongEventLoop",
        ),
        "filters": ("Filter", "MetaField", "meta"),
        "generation": ("ExtractiveGenerator", "FallbackGenerator", "OpenAIGenerator"),
        "ingest": ("Ingestor",),
        "protocols": (
            "Diagnosis",
            "Diagnostician",
            "EmbeddedDocument",
            "Embedder",
            "Found",
            "Generator",
            "Query",
            "Reranker",
            "Scores",
            "Searcher",
            "Store",
            "Vector",
            "Vectors",
        ),
        "client.rag": ("RAG", "TenantView"),
        "text.redaction": ("Redaction",),
        "retrieval.reranking.http": ("HTTPReranker",),
        "retrieval.reranking.local": ("LocalReranker",),
        "retrieval.reranking.searcher": ("RerankedSearcher",),
        "retrieval.retriever": ("Retriever",),
        "types.secret": ("Secret",),
        "store": ("MemoryStore", "PgVectorStore", "Table", "TableStore"),
        "client.many": ("Answers",),
        "client.stream": ("AnswerStream",),
        "value": ("Timings",),
        "text.tokens": ("estimate_tokens",),
        "types": (
            "Answer", "AskProgress", "Asked",
            "CallInfo", "Chunk", "Citation", "Counts", "Degradation", "Delta", "Document", "Done", "Doubt", "EmbedText", "EmptyReason", "Erased",
            "Generation",
            "Health", "IngestReport", "Kind", "LimitState", "Mode", "Origin", "Passage", "Price", "Prompt", "Retrieval", "Retrieved", "Scalar",
            "SimilarityReport",
            "Stats",
            "StreamEvent", "Turn", "Unreadable", "Usage", "UsedTokens",
        ),
    }  # fmt: skip
    _HOME = {name: home for home, names in _HOMES.items() for name in names}

    def __getattr__(name: str) -> object:
        import importlib

        if name in _PACKAGES:
            return importlib.import_module(f"ragcore.{name}")
        if name in _HOME:
            value = getattr(importlib.import_module(f"ragcore.{_HOME[name]}"), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module 'ragcore' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOME, *_PACKAGES})


__all__ = [
    "RAG",
    "Answer",
    "AnswerStream",
    "Answers",
    "AskProgress",
    "Asked",
    "CallInfo",
    "Chunk",
    "CircuitOpen",
    "Citation",
    "Config",
    "ConfigurationError",
    "Counts",
    "DeadlineExceeded",
    "Degradation",
    "Delta",
    "DependencyError",
    "Document",
    "Done",
    "Doubt",
    "EmbedText",
    "EmbeddedDocument",
    "Embedder",
    "EmbeddingError",
    "EmptyReason",
    "Erased",
    "ExtractiveGenerator",
    "FallbackGenerator",
    "Filter",
    "Generation",
    "GenerationError",
    "Generator",
    "HTTPReranker",
    "Health",
    "IngestReport",
    "Ingestor",
    "InvalidAnswer",
    "InvalidInput",
    "Kind",
    "LimitExceeded",
    "LimitState",
    "LocalEmbedder",
    "LocalReranker",
    "MemoryStore",
    "MetaField",
    "Mode",
    "NotOpen",
    "OpenAIEmbedder",
    "OpenAIGenerator",
    "Origin",
    "Overloaded",
    "Passage",
    "PgVectorStore",
    "Policies",
    "Price",
    "Prompt",
    "Query",
    "RagcoreError",
    "Redaction",
    "RerankedSearcher",
    "Reranker",
    "RerankingError",
    "Retrieval",
    "Retrieved",
    "Retriever",
    "Scalar",
    "Scores",
    "Searcher",
    "Secret",
    "Settings",
    "SharedVectors",
    "SimilarityReport",
    "Stats",
    "Store",
    "StoreError",
    "StreamEvent",
    "Table",
    "TableStore",
    "TenantView",
    "Timings",
    "Turn",
    "Unreadable",
    "Unsupported",
    "Usage",
    "UsedTokens",
    "Vector",
    "Vectors",
    "WrongEventLoop",
    "estimate_tokens",
    "meta",
]
