"""Embed a collection again into a second one, or copy it, while the first stays in use. No files are read, and an interrupted run can be continued.

The two collections form a group: deleting a document in one deletes it in the other, and only one of them is in use. The schema of a client selects
it. A switch is refused while the two differ, so that each question finds all documents.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import asyncpg
import numpy as np

from ragcore.embedding.vectors import check_vectors
from ragcore.errors import ConfigurationError, EmbeddingError, RagcoreError
from ragcore.protocols import Embedder, Vector
from ragcore.resilience import deadline
from ragcore.resilience.threads import Threads
from ragcore.store.embed_text import text_to_embed
from ragcore.store.postgres.connection import Connection, again_after_deadlocks, connect, transaction
from ragcore.store.postgres.dsn import Address, parse
from ragcore.store.postgres.extension import encode_vector, find_extension
from ragcore.store.postgres.groups import link
from ragcore.store.postgres.index import Index
from ragcore.store.postgres.inspection import read_settings
from ragcore.store.postgres.origins import align_origins
from ragcore.store.postgres.schema import migrate
from ragcore.store.postgres.sharing import copy_shared
from ragcore.store.postgres.statements import SQL, check_schema, quoted, statement
from ragcore.store.postgres.translate import translate
from ragcore.text.redaction import Redact, redacted
from ragcore.types import EmbedText
from ragcore.types.secret import Secret
from ragcore.value import Value

__all__ = ["Reembedding", "copy_collection", "reembed"]

logger: logging.Logger = logging.getLogger("ragcore.store")

# The number of documents that are read at once, the number of texts in one request to the embedder, and the seconds for such a request.
DOCUMENTS_AT_ONCE = 256
EMBED_AT_ONCE = 256
STEP_SECONDS = 120.0
STATEMENT_SECONDS = 300.0
# The largest number of passes over the differences, because the source may change during each pass.
PASSES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reembedding(Value):
    """The result of `reembed` or `copy_collection`, or its progress so far.

    Attributes:
        documents, chunks: number of documents and chunks that were embedded, or copied with their vectors, and written to the target.
        deleted: number of documents that were deleted in the target, because the source does not have them.
        differing: number of documents that still differ, because the source changed during the run; at most 256 are counted. 0: both collections hold the
            same documents.
    """

    documents: int = 0
    chunks: int = 0
    deleted: int = 0
    differing: int = 0


async def reembed(
    owner_dsn: str | Secret,
    /,
    *,
    source: str,
    target: str,
    embedder: Embedder,
    role: str,
    redact: Redact | None = None,
    progress: Callable[[Reembedding], None] | None = None,
) -> Reembedding:
    """Embed the documents of one collection into another one, which is created if it does not exist.

    Documents that the target already holds with the same content are skipped. So you can continue an interrupted run, and a later run transfers only
    the changes and deletions since then. To switch, give the clients the target's schema and its embedder.

    Args:
        owner_dsn: DSN of the owner, as in `migrate`.
        source: schema of the collection that is in use.
        target: schema of the new collection.
        embedder: embedder of the target. It must be open.
        role: the application's role.
        redact: redaction of the texts before they are embedded, as in `Ingestor`.
        progress: called on the event loop with the progress so far.

    Raises:
        ConfigurationError: the source does not exist, or the target is in use.
        EmbeddingError, StoreError, CircuitOpen: a dependency failed. Documents that were already written stay in the target.
        DeadlineExceeded: the embedder did not answer within 120 s, or PostgreSQL within 300 s.
    """
    return await _transfer(
        owner_dsn, source=source, target=target, embedder=embedder, role=role, redact=redact, progress=progress
    )


async def copy_collection(
    owner_dsn: str | Secret,
    /,
    *,
    source: str,
    target: str,
    role: str,
    index: Index | None = None,
    partitions: int | None = None,
    progress: Callable[[Reembedding], None] | None = None,
) -> Reembedding:
    """Copy the documents of one collection into another one with the same model, such as one with partitions. Their vectors are copied as well.

    Everything else is as in `reembed`: the source stays in use, you can continue an interrupted run, a later run transfers only the changes and deletions
    since then, and to switch, give the clients the target's schema.

    Args:
        owner_dsn: DSN of the owner, as in `migrate`.
        source: schema of the collection that is in use.
        target: schema of the new collection. It is created if it does not exist.
        role: the application's role.
        index: index of the target, as in `migrate`. None: an index of the source's kind and parameters; an existing target keeps its own.
        partitions: partitions of the target, as in `migrate`. None: none; an existing target keeps its own.
        progress: called on the event loop with the progress so far.

    Raises:
        ConfigurationError: the source does not exist, the target is in use, or it has another model, index or number of partitions.
        StoreError: PostgreSQL can't be reached, or it failed. Documents that were already written stay in the target.
        DeadlineExceeded: PostgreSQL did not answer within 300 s.
    """
    return await _transfer(
        owner_dsn,
        source=source,
        target=target,
        embedder=None,
        role=role,
        redact=None,
        progress=progress,
        index=index,
        partitions=partitions,
    )


async def _transfer(
    owner_dsn: str | Secret,
    *,
    source: str,
    target: str,
    embedder: Embedder | None,
    role: str,
    redact: Redact | None,
    progress: Callable[[Reembedding], None] | None,
    index: Index | None = None,
    partitions: int | None = None,
) -> Reembedding:
    """Embed or, without an embedder, copy the documents of one collection into another one."""
    check_schema(source)
    check_schema(target)
    if source == target:
        raise ConfigurationError(f"source and target are both {source}: name two different collections")
    address = parse(owner_dsn)
    try:
        async with connect(address) as connection:
            settings = await _settings(connection, source, address)
            exists = await connection.fetchval("select to_regclass($1) is not null", f"{quoted(target)}.migration")
            if embedder is None and index is None and not exists:
                index = Index.recorded(settings)
            await migrate(
                owner_dsn,
                model=settings["model"] if embedder is None else embedder.model,
                dimension=int(settings["dimension"]) if embedder is None else embedder.dimension,
                role=role,
                schema=target,
                language=settings.get("language"),
                index=index,
                partitions=partitions,
            )
            await link(connection, source, target, role, command="copy" if embedder is None else "reembed")
            await copy_shared(connection, source, target)
            embed_text = settings.get("embed_text", "text")
            await connection.execute(
                f"update {quoted(target)}.setting set value = $1 where name = 'embed_text'",  # noqa: S608  # checked and quoted
                embed_text,
            )
            model = settings["model"] if embedder is None else embedder.model
            work = _Work(connection, source, target, model, embedder, cast("EmbedText", embed_text), redact, progress)
            return await work.run()
    except RagcoreError:
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        raise translate(error, address, stage="write") from error


async def _settings(connection: Connection, schema: str, address: Address) -> dict[str, str]:
    try:
        return await read_settings(connection, schema)
    except asyncpg.UndefinedTableError as error:
        raise ConfigurationError(f"there is no collection {schema!r} in {address}: check the schema's name") from error


@dataclass(frozen=True, slots=True)
class _Collected:
    """A document whose chunks are to be embedded."""

    tenant: str
    document: str
    wanted: str
    chunks: Sequence[asyncpg.Record]


class _Work:
    """One run: transfers differences until there are none."""

    def __init__(
        self,
        connection: Connection,
        source: str,
        target: str,
        model: str,
        embedder: Embedder | None,
        embed_text: EmbedText,
        redact: Redact | None,
        progress: Callable[[Reembedding], None] | None,
    ) -> None:
        self._connection = connection
        self._source = source
        self._target = target
        self._model = model
        self._embedder = embedder
        self._embed_text = embed_text
        self._redact = redact
        self._progress = progress
        self._done = Reembedding()
        self._vector = ""
        self._collected: list[_Collected] = []
        self._threads = Threads(1, name="redacting")

    async def run(self) -> Reembedding:
        """Transfer differences until there are none, or the source has changed during `PASSES` passes."""
        extension = await find_extension(self._connection)
        self._vector = quoted(extension.schema)
        await self._connection.set_type_codec(
            "vector", schema=extension.schema, encoder=encode_vector, decoder=bytes, format="binary"
        )
        passes = 0
        seen: set[tuple[str, str]] = set()
        while passes < PASSES:
            rows = await self._differing()
            if not rows:
                break
            if any((row["tenant"], row["id"]) in seen for row in rows):
                passes, seen = passes + 1, set()
            seen |= {(row["tenant"], row["id"]) for row in rows}
            for row in rows:
                if row["wanted"] is None:
                    await self._delete(row["tenant"], row["id"])
                elif row["wanted"]:  # an empty hash means that the document is being written now
                    await self._collect(row["tenant"], row["id"], row["wanted"])
            await self._flush()
        await align_origins(self._connection, self._source, self._target, seconds=STATEMENT_SECONDS)
        self._done = replace(self._done, differing=len(await self._differing()))
        return self._done

    async def _differing(self) -> list[asyncpg.Record]:
        text = statement("differing", schema=quoted(self._source), other=quoted(self._target))
        with deadline(STATEMENT_SECONDS):
            async with transaction(self._connection):
                return await self._connection.fetch(text, DOCUMENTS_AT_ONCE)

    async def _delete(self, tenant: str, document: str) -> None:
        async def step() -> None:
            async with transaction(self._connection):
                await self._connection.execute(SQL["set_tenant"], tenant)
                await self._connection.fetch(self._into("delete"), tenant, [document])

        with deadline(STATEMENT_SECONDS):
            await again_after_deadlocks(step)
        self._update_progress(deleted=self._done.deleted + 1)

    async def _collect(self, tenant: str, document: str, wanted: str) -> None:
        """Read a document's chunks. Embed the collected chunks when they fill a request."""
        chunks = await self._chunks(tenant, document)
        self._collected.append(_Collected(tenant, document, wanted, chunks))
        if sum(len(one.chunks) for one in self._collected) >= EMBED_AT_ONCE:
            await self._flush()

    async def _flush(self) -> None:
        collected, self._collected = self._collected, []
        chunks = [chunk for one in collected for chunk in one.chunks]
        vectors = (
            [chunk["embedding"] for chunk in chunks]
            if self._embedder is None
            else [encode_vector(vector) for vector in await self._embed(self._embedder, chunks)]
        )
        start = 0
        for one in collected:
            stop = start + len(one.chunks)
            await self._write(one.tenant, one.document, one.wanted, one.chunks, vectors[start:stop])
            self._update_progress(documents=self._done.documents + 1, chunks=self._done.chunks + len(one.chunks))
            start = stop

    def _update_progress(self, **changes: int) -> None:
        self._done = replace(self._done, **changes)
        if self._progress is not None:
            self._progress(self._done)

    async def _chunks(self, tenant: str, document: str) -> list[asyncpg.Record]:
        with_vector = "" if self._embedder is not None else ", embedding"
        text = statement("chunks_of", schema=quoted(self._source), and_embedding=with_vector)
        with deadline(STATEMENT_SECONDS):
            async with transaction(self._connection):
                return await self._connection.fetch(text, tenant, document)

    def _text_to_embed(self, embedder: Embedder, chunk: asyncpg.Record) -> str:
        text: str = chunk["text"]
        count, most = embedder.count_tokens, embedder.max_tokens
        heading = json.loads(chunk["metadata"]).get("heading", "")
        whole = text_to_embed(
            text,
            title=chunk["title"],
            heading=str(heading),
            embed_text=self._embed_text,
            count_tokens=count,
            most=most,
        )
        # The chunk was cut for the former embedder; the new one may count more tokens.
        return whole if whole == text or count(whole) <= most else text

    async def _embed(self, embedder: Embedder, chunks: Sequence[asyncpg.Record]) -> Vector:
        texts: Sequence[str] = [self._text_to_embed(embedder, chunk) for chunk in chunks]
        model, dimension = embedder.model, embedder.dimension
        parts = []
        for start in range(0, len(texts), EMBED_AT_ONCE):
            part = texts[start : start + EMBED_AT_ONCE]
            try:
                with deadline(STEP_SECONDS):
                    part = await self._redacted(part)
                    vectors = await embedder.embed(part, kind="document")
            except RagcoreError:
                raise
            except Exception as error:
                raise EmbeddingError(
                    f"the embedder {model} raised {type(error).__name__}", dependency=model, stage="embed"
                ) from error
            parts.append(check_vectors(vectors, count=len(part), dimension=dimension, model=model))
        return np.concatenate(parts) if parts else np.zeros((0, dimension), np.float32)

    async def _redacted(self, texts: Sequence[str]) -> Sequence[str]:
        redact = self._redact
        return texts if redact is None else await self._threads.run(lambda: [redacted(redact, text) for text in texts])

    async def _write(
        self, tenant: str, document: str, wanted: str, chunks: Sequence[asyncpg.Record], vectors: Sequence[bytes | None]
    ) -> None:
        """Write a whole document with the source's content hash, so that the two collections count it as equal."""
        columns = [
            [chunk[name] for chunk in chunks]
            for name in ("id", "position", "text", "title", "source", "start_char", "end_char", "metadata")
        ]
        ids, positions, *others = columns

        async def step() -> None:
            async with transaction(self._connection):
                await self._connection.execute(SQL["set_tenant"], tenant)
                # This locks the source's row until the end: a document that is deleted meanwhile is then deleted here as well.
                there = statement("still_there", schema=quoted(self._source))
                found = await self._connection.fetch(there, tenant, document, wanted)
                if not found:
                    return
                expires_at = found[0]["expires_at"]
                await self._connection.execute(
                    self._into("begin_documents"), tenant, [document], [self._model], [expires_at], [document]
                )
                await self._connection.execute(self._into("delete_chunks"), tenant, [document])
                await self._connection.execute(
                    self._into("insert_chunks"),
                    tenant,
                    ids,
                    [document] * len(chunks),
                    positions,
                    *others,
                    vectors,
                    [expires_at] * len(chunks),
                )
                copy = statement("copy_origin", schema=quoted(self._target), other=quoted(self._source))
                await self._connection.execute(copy, tenant, document)
                await self._connection.execute(self._into("finish_documents"), tenant, [document], [wanted])

        with deadline(STATEMENT_SECONDS):
            await again_after_deadlocks(step)

    def _into(self, name: str) -> str:
        return statement(name, schema=quoted(self._target), vector=self._vector)
