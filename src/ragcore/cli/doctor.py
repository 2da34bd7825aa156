"""`ragcore doctor`: checks each part of an installation, and says how to repair parts that don't work."""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import anyio

from ragcore.cli.recommending import recommendation
from ragcore.cli.session import Options
from ragcore.client.rag import RAG
from ragcore.compat.distribution import describe_namesake, find_namesake, install_command
from ragcore.compat.extras import installed
from ragcore.config import EXTRACTIVE, Config
from ragcore.errors import ConfigurationError, DeadlineExceeded, RagcoreError
from ragcore.protocols import Embedder
from ragcore.resilience import deadline
from ragcore.retrieval.reranking.searcher import RerankedSearcher
from ragcore.store.postgres import Inspection, PgVectorStore
from ragcore.store.postgres.table import TableInspection, TableStore
from ragcore.text.tokens import TokenCounter
from ragcore.types.secret import without_credentials

__all__ = ["Check", "CheckResults", "examine"]

SECONDS = 10.0
# The recall of the index is measured with at most this many searches and seconds.
RECALL_SAMPLE, RECALL_SECONDS = 20, 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    status: Literal["ok", "warning", "error"]
    message: str


@dataclass(slots=True)
class CheckResults:
    """Results that later checks need."""

    config: Config | None = None
    database: Inspection | TableInspection | None = None


async def examine(options: Options, results: CheckResults | None = None) -> AsyncIterator[Check]:
    """Check all parts of an installation. Each part is checked after the parts that it depends on."""
    results = results or CheckResults()
    yield Check("interpreter", "ok", f"Python {platform.python_version()} on {sys.platform}")
    namesake = find_namesake()
    if namesake is not None:
        yield Check("distribution", "error", describe_namesake(namesake))
    yield _extras()
    yield _logging()
    async with AsyncExitStack() as stack:
        try:
            options.check_database()
        except ConfigurationError as error:
            # A check must not create the missing database. Instead, an empty database in a temporary folder shows whether one can be created.
            folder = stack.enter_context(TemporaryDirectory(prefix="ragcore-doctor-"))
            options = replace(options, data=Path(folder))
            yield Check("database", "warning", f"{error}; the next checks use an empty database in a temporary folder")
        async for check in _examine(options, results):
            yield check


async def _examine(options: Options, results: CheckResults) -> AsyncIterator[Check]:
    try:
        config = options.config()
    except ConfigurationError as error:
        yield Check("settings", "error", str(error))
        return
    results.config = config
    yield _settings(config)
    try:
        rag = RAG.from_config(config)
    except RagcoreError as error:
        yield Check("components", "error", str(error))
        return
    try:
        await rag.start()
    except RagcoreError as error:
        yield Check("reranker" if error.stage == "rerank" else "database", "error", str(error))
        return
    try:
        async for check in _database(rag, results):
            yield check
        yield await _embedder(rag)
        yield await _reranker(rag)
        yield _models(config)
        yield await _tokenizer(config)
    finally:
        with anyio.CancelScope(shield=True):
            await rag.aclose()


def _extras() -> Check:
    found = installed()
    missing = [extra for extra, there in found.items() if not there]
    if missing:
        return Check(
            "extras",
            "warning",
            f"not installed: {', '.join(missing)}; to install them: {install_command(*missing)}",
        )
    return Check("extras", "ok", f"installed: {', '.join(found)}")


def _logging() -> Check:
    logger = logging.getLogger("ragcore")
    if logger.isEnabledFor(logging.WARNING) and logger.hasHandlers():
        return Check("logging", "ok", "warnings of the logger 'ragcore' are logged")
    return Check(
        "logging",
        "warning",
        "warnings of the logger 'ragcore' are not logged: call logging.basicConfig(level='WARNING')",
    )


def _settings(config: Config) -> Check:
    return Check(
        "settings",
        "ok",
        f"embedding {config.embedding_model}, models {', '.join(config.models)}, mode {config.mode}, top_k {config.top_k}, "
        f"score_threshold {'none' if config.score_threshold is None else config.score_threshold}, "
        f"relative_threshold {'none' if config.relative_threshold is None else config.relative_threshold}",
    )


async def _database(rag: RAG, results: CheckResults) -> AsyncIterator[Check]:
    store = rag.retriever.store
    if isinstance(store, RerankedSearcher):
        store = store.searcher
    if isinstance(store, TableStore):
        async for check in _table(rag, store, results):
            yield check
        return
    assert isinstance(store, PgVectorStore)
    try:
        with deadline(SECONDS):
            found = await store.inspect()
    except RagcoreError as error:
        yield Check("database", "error", str(error))
        return
    results.database = found
    yield _server(found)
    yield _connection(found)
    for replica in found.replicas:
        if replica.error is None:
            lag = "an unknown lag" if replica.lag_bytes is None else f"a lag of {replica.lag_bytes:,} bytes"
            yield Check("replica", "ok", f"PostgreSQL {replica.server_version} at {replica.address}, {lag}")
    findings = found.findings(rag.retriever.embedder)
    if not findings:
        yield Check("role", "ok", f"{found.role} is not a superuser and owns nothing; row-level security is forced")
    if found.has_schema:
        others = [schema for schema in found.collections if schema != found.schema]
        yield Check(
            "schema",
            "ok",
            f"{found.schema}: {found.dimension} dimensions, made for {found.model}, language {found.language}, vector type {found.vector_type}"
            + (f"; other collections in this database: {', '.join(others)}" if others else ""),
        )
    for finding in findings:
        yield Check("role/schema", "error" if finding.severity == "error" else "warning", finding.message)
    if found.is_complete:
        yield await _documents(store)
        yield await _index(store, found)


async def _table(rag: RAG, store: TableStore, results: CheckResults) -> AsyncIterator[Check]:
    """Check an existing table: the database, the connection, and the mapping."""
    try:
        with deadline(SECONDS):
            found = await store.inspect()
    except RagcoreError as error:
        yield Check("database", "error", str(error))
        return
    results.database = found
    yield _server(found)
    yield _connection(found)
    if found.is_complete:
        about = "not analyzed" if found.about_chunks is None else f"about {found.about_chunks:,} chunks"
        index = "no index" if found.index is None else f"index {found.index.name}"
        yield Check(
            "table",
            "ok",
            f"{found.relation}: {found.vector_type}({found.dimension}), {about}, {index}, isolation {found.isolation}",
        )
    for finding in found.findings(rag.retriever.embedder):
        yield Check("table", "error" if finding.severity == "error" else "warning", finding.message)


def _server(found: Inspection | TableInspection) -> Check:
    about = f"PostgreSQL {found.server_version} at {found.address}, pgvector {found.pgvector or 'missing'}"
    return Check("database", "ok", about)


def _connection(found: Inspection | TableInspection) -> Check:
    if found.local:
        return Check("connection", "ok", "a socket of this machine")
    if found.encrypted and found.verified:
        return Check("connection", "ok", "encrypted, and the server's certificate is verified")
    if found.encrypted:
        return Check(
            "connection",
            "warning",
            "encrypted, but the server is not verified: use sslmode=verify-full with sslrootcert in the DSN",
        )
    return Check(
        "connection",
        "warning",
        "not encrypted: use sslmode=verify-full in the DSN, unless the network to the server is private",
    )


async def _documents(store: PgVectorStore) -> Check:
    try:
        with deadline(SECONDS):
            counts = await store.count(tenant=None)
    except DeadlineExceeded:
        return Check("documents", "ok", f"not counted: counting them takes more than {SECONDS:g} s")
    except RagcoreError as error:
        return Check("documents", "error", str(error))
    if not counts.documents:
        return Check(
            "documents",
            "warning",
            "none: add some with `ragcore ingest PATH --tenant T`, or check the database's address",
        )
    missing = f", {counts.not_embedded:,} not embedded" if counts.not_embedded else ""
    return Check(
        "documents", "ok", f"all tenants together have {counts.documents:,} with {counts.chunks:,} chunks{missing}"
    )


async def _index(store: PgVectorStore, found: Inspection) -> Check:
    """Measure the recall of the index over a few chunks, and recommend what the numbers suggest."""
    measured = None
    try:
        measured = await store.measure_recall(sample=RECALL_SAMPLE, seconds=RECALL_SECONDS)
    except RagcoreError as error:
        return Check("index", "error", str(error))
    status, message = recommendation(found, measured, ef_search=store.ef_search)
    return Check("index", status, message)


async def _embedder(rag: RAG) -> Check:
    embedder: Embedder | None = rag.retriever.embedder
    if embedder is None:
        return Check("embedder", "warning", "none: text search only")
    began = anyio.current_time()
    try:
        with deadline(SECONDS):
            await embedder.embed(["What is my warranty?"], kind="query")
    except RagcoreError as error:
        return Check("embedder", "error", str(error))
    return Check(
        "embedder",
        "ok",
        f"{embedder.model}: {embedder.dimension} dimensions, {1000 * (anyio.current_time() - began):.0f} ms",
    )


async def _reranker(rag: RAG) -> Check:
    store = rag.retriever.store
    if not isinstance(store, RerankedSearcher):
        return Check("reranker", "ok", "none: passages have the order of the search")
    reranker = store.reranker
    began = anyio.current_time()
    try:
        with deadline(SECONDS):
            scores = await reranker.rerank(
                "What is my warranty?", ["The weather is fine.", "The warranty is two years."]
            )
    except RagcoreError as error:
        return Check("reranker", "error", str(error))
    taken = f"{1000 * (anyio.current_time() - began):.0f} ms for two texts"
    if not scores[1] > scores[0]:
        return Check(
            "reranker",
            "warning",
            f"{reranker.model}: it prefers a wrong text to the right one ({scores[0]:.3f} and {scores[1]:.3f}); check that the model is a reranker",
        )
    return Check("reranker", "ok", f"{reranker.model}: {taken}, {store.candidates} candidates")


def _models(config: Config) -> Check:
    remote = [model for model in config.models if model != EXTRACTIVE]
    if not remote:
        return Check(
            "model",
            "ok",
            "answers are quoted from the documents, without a model; to use a model, set OPENAI_API_KEY and RAGCORE_MODELS",
        )
    return Check(
        "model",
        "ok",
        f"{', '.join(remote)} at {without_credentials(config.base_url) if config.base_url else 'OpenAI'}; not tested, since a request costs money",
    )


async def _tokenizer(config: Config) -> Check:
    model = next((model for model in config.models if model != EXTRACTIVE), None)
    if model is None:
        return Check("tokenizer", "ok", "not needed: no model is configured")
    counter = TokenCounter(model)
    for _ in range(20):
        if counter.exact or not counter.loading:
            break
        await anyio.sleep(0.1)
    if counter.exact:
        return Check("tokenizer", "ok", f"tiktoken counts the tokens of {model} exactly")
    return Check(
        "tokenizer",
        "warning",
        f"the tokens of {model} are estimated: set TIKTOKEN_CACHE_DIR to a folder with tiktoken's encoding files",
    )
