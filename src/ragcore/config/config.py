"""`Config`: the components of a client, and its settings."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Literal, Self, TypeAlias, cast, get_args

from ragcore.config.environment import Environment, boolean
from ragcore.config.settings import Settings
from ragcore.errors import ConfigurationError, InvalidInput
from ragcore.ingest.options import CHUNK_TOKENS, OVERLAP_TOKENS, READ_SECONDS, check_chunking, check_read_timeout
from ragcore.retrieval.reranking.apis import RerankAPI
from ragcore.store.table import Table
from ragcore.types import EmbedText, Fusion, Mode
from ragcore.types.secret import Secret, without_credentials
from ragcore.types.validation import (
    MAX_TOP_K,
    check_diversity,
    check_fusion,
    check_mode,
    check_neighbours,
    check_relative_threshold,
    check_shared,
    check_threshold,
    check_top_k,
)

__all__ = ["EMBEDDED_SCHEME", "EXTRACTIVE", "Config"]

LOCAL_EMBEDDING_MODELS = ("all-MiniLM-L6-v2", "local")
EXTRACTIVE = "extractive"
EMBEDDED_SCHEME = "embedded:"
RerankerKind: TypeAlias = RerankAPI | Literal["local"]
RERANKERS: tuple[RerankerKind, ...] = (*get_args(RerankAPI), "local")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The components of a client, and its settings. `dataclasses.replace` makes a changed copy.

    Attributes:
        dsn: the address and login of PostgreSQL. The role must own nothing.
        read_dsn: DSNs of read replicas, as in `PgVectorStore`.
        read_your_writes: as in `PgVectorStore`.
        api_key, base_url: key and URL of the OpenAI-compatible server; None: the defaults of OpenAI's SDK.
        embedding_api_key, embedding_base_url, generation_api_key, generation_base_url: key and URL of a separate server for embedding or for generation;
            None: `api_key` and `base_url`.
        embedding_model: "all-MiniLM-L6-v2" runs on this machine, any other model on the server.
        embedding_dimension: length of a vector; None: the known length for OpenAI's models. Required for other models on a server.
        embedding_cache_mb, embedding_cache_ttl: for the cache of questions' vectors, its size in MiB (0: no cache) and the seconds for which it keeps a vector.
        embedding_cache_key: a secret of at least 16 characters, the same in all processes: they then share these vectors through the database, as in
            `SharedVectors`. None: each process has its own.
        models: the models that write answers; each is the fallback for the previous one. "extractive" quotes the documents without a model; the client
            always adds it as the last resort.
        top_k, score_threshold, relative_threshold, mode, fusion, shared, diversity, neighbours: defaults of each search, as in `Retriever`.
        reranker: sorts the passages of each search again. "cohere", "jina", "voyage", "vllm" and "tei": a server with that API, as in `HTTPReranker`.
            "local": a cross-encoder on this machine, as in `LocalReranker`. None: no reranker.
        rerank_model: the reranker's model on the server; for "local", the folder of the model. Only "tei" needs none.
        rerank_base_url, rerank_api_key: URL and key of the reranker's server. The URL may be missing for "cohere", "jina" and "voyage".
        rerank_candidates: number of passages to rerank, 2 to 1,000.
        chunk_tokens, overlap_tokens, embed_text: settings for cutting documents into chunks, as in `Ingestor`. A change applies to documents that are added
            later; a document that is added again is cut and embedded again.
        read_timeout: seconds for reading each file, as in `ingest.read`.
        schema: the collection in PostgreSQL. `store.migrate` or `ragcore migrate` creates it.
        language: language of full-text search in a collection that the embedded database creates: a text search configuration of PostgreSQL, such as
            "german" or "simple". None: "english" for a new collection; an existing collection keeps its own.
        pool_size, ef_search, exact_rows, allow_unsafe_role: as in `PgVectorStore`.
        table: the mapping of an existing table, which `TableStore` searches; None: a collection of ragcore. `schema`, `allow_unsafe_role` and the settings for
            cutting documents do not apply to it.
        settings: timeouts, limits and texts.
    """

    dsn: Secret | None = None
    read_dsn: tuple[Secret, ...] = ()
    read_your_writes: float = 30.0
    api_key: Secret | None = None
    base_url: str | None = None
    embedding_api_key: Secret | None = None
    embedding_base_url: str | None = None
    generation_api_key: Secret | None = None
    generation_base_url: str | None = None
    embedding_model: str = "text-embedding-3-small"
    embedding_dimension: int | None = None
    embedding_cache_mb: int = 32
    embedding_cache_ttl: float = 3600.0
    embedding_cache_key: Secret | None = None
    models: tuple[str, ...] = ("gpt-4o-mini",)
    top_k: int = 5
    score_threshold: float | Literal[False] | None = None
    mode: Mode = "hybrid"
    fusion: Fusion = "score"
    shared: tuple[str, ...] = ()
    diversity: float = 0.0
    neighbours: int = 0
    reranker: RerankerKind | None = None
    rerank_model: str | None = None
    rerank_base_url: str | None = None
    rerank_api_key: Secret | None = None
    rerank_candidates: int = 50
    relative_threshold: float | Literal[False] | None = None
    chunk_tokens: int = CHUNK_TOKENS
    overlap_tokens: int = OVERLAP_TOKENS
    embed_text: EmbedText | None = None
    read_timeout: float = READ_SECONDS
    schema: str = "ragcore"
    language: str | None = None
    pool_size: int = 10
    ef_search: int = 100
    exact_rows: int | None = None
    allow_unsafe_role: bool = False
    table: Table | None = None
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        check_chunking(self.chunk_tokens, self.overlap_tokens, self.embed_text)
        check_read_timeout(self.read_timeout)
        try:
            check_top_k(self.top_k)
            check_mode(self.mode)
            check_fusion(self.fusion)
            check_shared(self.shared)
            check_diversity(self.diversity)
            check_neighbours(self.neighbours)
            if self.score_threshold is not None:
                check_threshold(self.score_threshold)
            if self.relative_threshold is not None:
                check_relative_threshold(self.relative_threshold)
        except InvalidInput as error:
            raise ConfigurationError(str(error)) from None
        if not (isinstance(self.embedding_cache_mb, int) and self.embedding_cache_mb >= 0):
            raise ConfigurationError(
                f"embedding_cache_mb is {self.embedding_cache_mb!r}: it must be a whole number of MiB, or 0 for no cache"
            )
        if not (isinstance(self.embedding_cache_ttl, int | float) and 0 < self.embedding_cache_ttl < math.inf):
            raise ConfigurationError(
                f"embedding_cache_ttl is {self.embedding_cache_ttl!r}: it must be a positive, finite number of seconds"
            )
        if self.embedding_cache_key is not None and not self.embedding_cache_mb:
            raise ConfigurationError(
                "embedding_cache_key is set, but embedding_cache_mb is 0: set it to 32, or unset RAGCORE_EMBEDDING_CACHE_KEY"
            )
        self._check_reranker()
        if not self.models:
            raise ConfigurationError("models is empty: name a model, or 'extractive' for quotation without a model")

    def _check_reranker(self) -> None:
        if self.reranker is None:
            if self.rerank_model is not None:
                raise ConfigurationError(
                    f"rerank_model is {self.rerank_model!r}, but reranker is not set: set it to {', '.join(RERANKERS)}"
                )
        elif self.reranker not in RERANKERS:
            raise ConfigurationError(f"reranker is {self.reranker!r}: it must be one of {', '.join(RERANKERS)}")
        elif self.rerank_model is None and self.reranker != "tei":
            what = "folder of the model" if self.reranker == "local" else "model's name on the server"
            raise ConfigurationError(
                f"reranker is {self.reranker!r}, but rerank_model is not set: set it to the {what}"
            )
        if not (isinstance(self.rerank_candidates, int) and 2 <= self.rerank_candidates <= MAX_TOP_K):
            raise ConfigurationError(
                f"rerank_candidates is {self.rerank_candidates!r}: it must be a whole number from 2 to {MAX_TOP_K:,}"
            )

    def __repr__(self) -> str:
        """Return the fields, without credentials in addresses."""
        shown = []
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name.endswith("base_url") and value is not None:
                value = without_credentials(str(value))
            shown.append(f"{one.name}={value!r}")
        return f"Config({', '.join(shown)})"

    @property
    def embeds_locally(self) -> bool:
        """Whether the embedding model runs on this machine."""
        return self.embedding_model in LOCAL_EMBEDDING_MODELS

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, /) -> Self:
        """Read the configuration from environment variables. It never falls back to local components.

        The variables are DATABASE_URL or the PG* variables of libpq, OPENAI_API_KEY, OPENAI_BASE_URL, and:
        RAGCORE_READ_DSN (several separated by blanks) and RAGCORE_READ_YOUR_WRITES;
        RAGCORE_EMBEDDING_API_KEY, RAGCORE_EMBEDDING_BASE_URL, RAGCORE_GENERATION_API_KEY and RAGCORE_GENERATION_BASE_URL, which replace OPENAI_API_KEY and
        OPENAI_BASE_URL for embedding or for generation;
        RAGCORE_EMBEDDING_MODEL, RAGCORE_EMBEDDING_DIMENSION, RAGCORE_EMBEDDING_CACHE_MB, RAGCORE_EMBEDDING_CACHE_TTL, RAGCORE_EMBEDDING_CACHE_KEY,
        RAGCORE_MODELS (separated by commas),
        RAGCORE_TOP_K, RAGCORE_SCORE_THRESHOLD, RAGCORE_RELATIVE_THRESHOLD, RAGCORE_MODE, RAGCORE_FUSION,
        RAGCORE_SHARED (separated by commas), RAGCORE_DIVERSITY, RAGCORE_NEIGHBOURS, RAGCORE_RERANKER, RAGCORE_RERANK_MODEL,
        RAGCORE_RERANK_BASE_URL, RAGCORE_RERANK_API_KEY, RAGCORE_RERANK_CANDIDATES,
        RAGCORE_CHUNK_TOKENS, RAGCORE_OVERLAP_TOKENS, RAGCORE_EMBED_TEXT, RAGCORE_READ_TIMEOUT,
        RAGCORE_SCHEMA, RAGCORE_LANGUAGE, RAGCORE_POOL_SIZE, RAGCORE_EF_SEARCH, RAGCORE_EXACT_ROWS and RAGCORE_ALLOW_UNSAFE_ROLE;
        RAGCORE_TABLE, RAGCORE_TABLE_COLUMNS, RAGCORE_TABLE_PARENT, RAGCORE_TABLE_JOIN, RAGCORE_TABLE_PREDICATE, RAGCORE_TABLE_ISOLATION,
        RAGCORE_TABLE_EXACT, RAGCORE_TABLE_ROLE, RAGCORE_TABLE_CLAIM, RAGCORE_TABLE_WRITABLE and RAGCORE_TABLE_CONSTANTS for the mapping of an existing table;
        and RAGCORE_ with the name of each field of `Settings`.

        Args:
            environ: the variables; None: those of the process.

        Raises:
            ConfigurationError: a variable is missing or has an invalid value, or the name of a RAGCORE_ variable is misspelt.
        """
        env = Environment(os.environ if environ is None else environ)
        env.check_names()
        config = cls(
            dsn=env.dsn(),
            read_dsn=env.secrets("RAGCORE_READ_DSN"),
            read_your_writes=env.read("RAGCORE_READ_YOUR_WRITES", float, 30.0),
            api_key=env.secret("OPENAI_API_KEY"),
            base_url=env.text("OPENAI_BASE_URL"),
            embedding_api_key=env.secret("RAGCORE_EMBEDDING_API_KEY"),
            embedding_base_url=env.text("RAGCORE_EMBEDDING_BASE_URL"),
            generation_api_key=env.secret("RAGCORE_GENERATION_API_KEY"),
            generation_base_url=env.text("RAGCORE_GENERATION_BASE_URL"),
            embedding_model=env.text("RAGCORE_EMBEDDING_MODEL") or "text-embedding-3-small",
            embedding_dimension=env.read("RAGCORE_EMBEDDING_DIMENSION", int, None),
            embedding_cache_mb=env.read("RAGCORE_EMBEDDING_CACHE_MB", int, 32),
            embedding_cache_ttl=env.read("RAGCORE_EMBEDDING_CACHE_TTL", float, 3600.0),
            embedding_cache_key=env.secret("RAGCORE_EMBEDDING_CACHE_KEY"),
            models=env.names("RAGCORE_MODELS") or ("gpt-4o-mini",),
            top_k=env.read("RAGCORE_TOP_K", int, 5),
            score_threshold=env.read("RAGCORE_SCORE_THRESHOLD", float, None),
            mode=env.read("RAGCORE_MODE", check_mode, "hybrid"),
            fusion=env.read("RAGCORE_FUSION", check_fusion, "score"),
            shared=env.names("RAGCORE_SHARED"),
            diversity=env.read("RAGCORE_DIVERSITY", float, 0.0),
            neighbours=env.read("RAGCORE_NEIGHBOURS", int, 0),
            reranker=cast("RerankerKind | None", env.text("RAGCORE_RERANKER")),
            rerank_model=env.text("RAGCORE_RERANK_MODEL"),
            rerank_base_url=env.text("RAGCORE_RERANK_BASE_URL"),
            rerank_api_key=env.secret("RAGCORE_RERANK_API_KEY"),
            rerank_candidates=env.read("RAGCORE_RERANK_CANDIDATES", int, 50),
            relative_threshold=env.read("RAGCORE_RELATIVE_THRESHOLD", float, None),
            chunk_tokens=env.read("RAGCORE_CHUNK_TOKENS", int, CHUNK_TOKENS),
            overlap_tokens=env.read("RAGCORE_OVERLAP_TOKENS", int, OVERLAP_TOKENS),
            embed_text=cast("EmbedText | None", env.read("RAGCORE_EMBED_TEXT", str, None)),
            read_timeout=env.read("RAGCORE_READ_TIMEOUT", float, READ_SECONDS),
            schema=env.text("RAGCORE_SCHEMA") or "ragcore",
            language=env.text("RAGCORE_LANGUAGE"),
            pool_size=env.read("RAGCORE_POOL_SIZE", int, 10),
            ef_search=env.read("RAGCORE_EF_SEARCH", int, 100),
            exact_rows=env.read("RAGCORE_EXACT_ROWS", int, None),
            allow_unsafe_role=env.read("RAGCORE_ALLOW_UNSAFE_ROLE", boolean, False),
            table=env.table(),
            settings=env.settings(),
        )
        if config.dsn is None:
            raise ConfigurationError(
                "DATABASE_URL is not set: set it to postgresql://user:password@host:port/database, with a role that owns nothing"
            )
        remote = [] if config.generation_api_key else [model for model in config.models if model != EXTRACTIVE]
        if not config.embeds_locally and config.embedding_api_key is None:
            remote.append(config.embedding_model)
        if remote and config.api_key is None:
            raise ConfigurationError(
                f"OPENAI_API_KEY is not set, and {' and '.join(remote)} {'need' if len(remote) > 1 else 'needs'} it "
                "(set it to 'none' for a server without keys; RAGCORE_MODELS=extractive quotes the documents without a model)"
            )
        return config

    @classmethod
    def local(cls, folder: str | PathLike[str], /) -> Self:
        """Return a configuration that runs on this machine: embedded PostgreSQL in `folder`, the local embedder, quotation without a model.

        Needs the extras `embedded` and `local`.
        """
        return cls(
            dsn=Secret(EMBEDDED_SCHEME + str(Path(folder))),
            embedding_model=LOCAL_EMBEDDING_MODELS[0],
            models=(EXTRACTIVE,),
        )
