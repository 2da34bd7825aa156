"""Build the index of a collection, or replace it by one of another kind, while the collection is in use.

The new index is built beside the old one, with CREATE INDEX CONCURRENTLY, which does not block writers. One transaction then gives it the name of the old
one, and records its kind. The old index stays until every client has read the new kind, so that no search is slow in between.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import anyio
import asyncpg

from ragcore.errors import ConfigurationError, RagcoreError
from ragcore.resilience import deadline
from ragcore.store.postgres.connection import Connection, again_after_deadlocks, connect, transaction
from ragcore.store.postgres.dsn import Address, parse
from ragcore.store.postgres.extension import Extension, find_extension
from ragcore.store.postgres.index import Index, IndexKind, index_name
from ragcore.store.postgres.index_catalogue import (
    NEW,
    OLD,
    fits,
    indexes_of,
    parameters_of,
    record,
    replace_function,
    tables_of,
)
from ragcore.store.postgres.inspection import read_settings
from ragcore.store.postgres.partitions import partitions_of
from ragcore.store.postgres.server import SETTINGS_SECONDS
from ragcore.store.postgres.statements import SQL, check_schema, quoted
from ragcore.store.postgres.translate import translate
from ragcore.types.secret import Secret
from ragcore.value import Value

__all__ = ["IndexBuild", "IndexProgress", "build_index"]

logger: logging.Logger = logging.getLogger("ragcore.store")

# "ragindex" in ASCII: the first key of the advisory lock of a build. The second key is the schema's oid.
LOCK = 0x72616769
BUILD_SECONDS = 86_400.0
# Seconds between two questions for the progress, or for the lock while another build runs.
POLL_SECONDS = 1.0
STEP_SECONDS = 30.0
# A client reads the kind of the index every `SETTINGS_SECONDS`. A replaced index is kept for twice as long.
KEEP_SECONDS = 2 * SETTINGS_SECONDS
MEMORY = re.compile(r"[1-9][0-9]{0,9}(kB|MB|GB)")
# A build and the waits for it must not be ended by limits that were set for searches.
SESSION = """
    set statement_timeout = 0; set lock_timeout = 0; set idle_session_timeout = 0; set idle_in_transaction_session_timeout = 0
"""
_PROGRESS = """
    select phase, blocks_total, blocks_done, tuples_total, tuples_done, lockers_total, lockers_done
    from pg_stat_progress_create_index where relid = any($1::text[]::regclass[]) order by pid limit 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexProgress(Value):
    """The progress of a build.

    Attributes:
        table: the table whose index is built. A partitioned collection has several.
        phase: the current phase, in PostgreSQL's words, such as "building index: loading tuples"; or "waiting for another build".
        done: share of the phase that is done, from 0 to 1; None if it is unknown.
        seconds: time since the call began.
    """

    table: str
    phase: str
    done: float | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexBuild(Value):
    """The result of `build_index`.

    Attributes:
        index: kind and parameters of the collection's index now.
        built: names of the tables for which an index was built; () if the collection had this index already.
        dropped: names of the indexes that were dropped: replaced ones, and those that an interrupted build had left behind.
        bytes: size of the index; 0 for the kind "none".
        seconds: time of the call, without the time for which the replaced index was kept.
    """

    index: Index
    built: tuple[str, ...]
    dropped: tuple[str, ...]
    bytes: int
    seconds: float


async def build_index(
    owner_dsn: str | Secret,
    /,
    *,
    schema: str = "ragcore",
    kind: IndexKind | None = None,
    m: int | None = None,
    ef_construction: int | None = None,
    memory: str | None = None,
    keep_seconds: float = KEEP_SECONDS,
    timeout: float = BUILD_SECONDS,
    progress: Callable[[IndexProgress], None] | None = None,
) -> IndexBuild:
    """Give a collection an index of this kind, while it is in use. Neither searches nor writes are blocked.

    You can run it again: an index that fits is not built again, an incomplete one that an interrupted build has left behind is replaced, and of two runs at
    once the second waits for the first. If the call is cancelled, PostgreSQL ends the build within about a second; the collection keeps its former index.

    Args:
        owner_dsn: DSN of the owner, as in `migrate`. Connect to the server itself, not to a pooler in transaction mode.
        schema: name of the collection's schema.
        kind: kind of the index: "vector", "halfvec", "binary" or "none". None: the collection's kind.
        m: number of neighbours of a chunk in the graph, 2 to 100. None: the recorded number.
        ef_construction: number of candidates for a chunk that is inserted, from twice `m` to 1,000. None: the recorded number.
        memory: memory of the build, such as "2GB" (`maintenance_work_mem`). A build whose graph fits into it is several times faster. None: the server's
            setting.
        keep_seconds: seconds for which a replaced index of another kind is kept. A client reads the kind every 30 s, and until then needs the old index.
        timeout: seconds for the whole call. None of the statements has a limit of its own, because an index of many chunks takes hours.
        progress: called on the event loop about every second.

    Raises:
        ConfigurationError: an argument is invalid; the collection does not exist or needs a migration; or pgvector can't index so many dimensions.
        StoreError: PostgreSQL can't be reached, or it failed.
        DeadlineExceeded: the build took longer than `timeout`, or than the caller's deadline.

    Examples:
        ```python
        built = await ragcore.store.build_index(owner_dsn, kind="halfvec", memory="2GB")
        print(f"{built.bytes / 1e6:.0f} MB in {built.seconds:.0f} s")
        ```
    """
    check_schema(schema)
    if memory is not None and MEMORY.fullmatch(memory) is None:
        raise ConfigurationError(f"memory is {memory!r}: write it as PostgreSQL does, such as 512MB or 2GB")
    if not 0 <= keep_seconds < float("inf"):
        raise ConfigurationError(f"keep_seconds is {keep_seconds}: it must be a number of seconds, at least 0")
    address = parse(owner_dsn)
    try:
        with deadline(timeout):
            async with connect(address) as connection:
                await connection.execute(SQL["own_path"])
                await connection.execute(SESSION)
                # The build then ends soon after its client. PostgreSQL before 14 and some platforms don't have the setting.
                with suppress(asyncpg.PostgresError):
                    await connection.execute("set client_connection_check_interval = '1s'")
                if memory is not None:
                    await connection.execute("select set_config('maintenance_work_mem', $1, false)", memory)
                build = await _Build.of(connection, address, schema, progress)
                return await build.run(kind, m, ef_construction, keep_seconds=keep_seconds)
    except RagcoreError:
        raise
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise ConfigurationError(f"there is no collection {schema!r} in {address}: check the schema's name") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        raise translate(error, address, stage="migrate") from error


class _Build:
    """One run: builds what is missing, switches to it, and drops what is no longer needed."""

    def __init__(
        self,
        connection: Connection,
        address: Address,
        schema: str,
        tables: Sequence[str],
        extension: Extension,
        progress: Callable[[IndexProgress], None] | None,
    ) -> None:
        self._connection = connection
        self._address = address
        self._schema = schema
        self._tables = tables
        self._extension = extension
        self._progress = progress
        self._began = anyio.current_time()
        self._kept = 0.0
        self._built: list[str] = []
        self._dropped: list[str] = []

    @classmethod
    async def of(
        cls,
        connection: Connection,
        address: Address,
        schema: str,
        progress: Callable[[IndexProgress], None] | None,
    ) -> _Build:
        """Return a run for a collection."""
        tables = await tables_of(connection, schema)
        extension = await find_extension(connection)
        return cls(connection, address, schema, tables, extension, progress)

    async def run(
        self, kind: IndexKind | None, m: int | None, ef_construction: int | None, *, keep_seconds: float
    ) -> IndexBuild:
        """Give the collection this index."""
        # The lock belongs to the session, so it is free again as soon as this connection has ended.
        await self._lock()
        settings = await read_settings(self._connection, self._schema)
        former = await self._former(settings)
        if former is None:
            raise ConfigurationError(
                f"the collection {self._schema} in {self._address} is older than this version: run `ragcore migrate` as the owner"
            )
        wanted = replace(
            former,
            kind=kind or former.kind,
            m=former.m if m is None else m,
            ef_construction=former.ef_construction if ef_construction is None else ef_construction,
        )
        dimension = int(settings["dimension"])
        wanted.check_dimension(dimension)
        for table in self._tables:
            await self._prepare(table, wanted, dimension)
        replaced = await again_after_deadlocks(partial(self._switch, wanted, dimension, partitions_of(settings)))
        if replaced and wanted.kind != former.kind:
            self._kept = keep_seconds
            await anyio.sleep(keep_seconds)
        for table in self._tables:
            await self._drop(table, index_name(table) + OLD)
        found = [
            one for table in self._tables for one in (await indexes_of(self._connection, self._schema, table)).values()
        ]
        return IndexBuild(
            index=wanted,
            built=tuple(self._built),
            dropped=tuple(self._dropped),
            bytes=sum(row["bytes"] for row in found),
            seconds=anyio.current_time() - self._began - self._kept,
        )

    async def _former(self, settings: Mapping[str, str]) -> Index | None:
        """Return the recorded index, with the parameters that it really has: it may have been created by hand."""
        recorded = Index.recorded(settings)
        found = (await indexes_of(self._connection, self._schema, self._tables[0])).get(index_name(self._tables[0]))
        if recorded is None or found is None or found["operators"] != recorded.operator_class:
            return recorded
        m, ef_construction = parameters_of(found)
        return replace(recorded, m=m, ef_construction=ef_construction)

    async def _lock(self) -> None:
        # The lock is tried again and again, since a session that waits for it in PostgreSQL has a snapshot, for which the other build would wait.
        take = "select pg_try_advisory_lock($1, $2::text::regnamespace::oid::integer)"
        while not await self._connection.fetchval(take, LOCK, quoted(self._schema)):
            row = await self._connection.fetchrow(_PROGRESS, self._names())
            self._tell(self._tables[0], "waiting for another build", None if row is None else _share(row))
            await anyio.sleep(POLL_SECONDS)

    async def _prepare(self, table: str, wanted: Index, dimension: int) -> None:
        """Build the index of a table under its new name, unless the table has it already under either name."""
        own = index_name(table)
        await self._drop(table, own + OLD)
        found = await indexes_of(self._connection, self._schema, table)
        for name in (own, own + NEW):
            if name in found and not found[name]["valid"]:
                await self._drop(table, name)
                del found[name]
        if own in found and fits(found[own], wanted):
            await self._drop(table, own + NEW)
            return
        if own + NEW in found:
            if fits(found[own + NEW], wanted):
                return
            await self._drop(table, own + NEW)
        if wanted.kind == "none":
            return
        on = wanted.definition(self._name(table), vector=quoted(self._extension.schema), dimension=dimension)
        logger.info("index.building: %s of %s in %s", wanted.kind, self._name(table), self._address)
        await self._run_with_progress(table, f"create index concurrently {quoted(own + NEW)} {on}")
        self._built.append(table)

    async def _switch(self, wanted: Index, dimension: int, partitions: int) -> bool:
        """Give each new index the name of the old one, and record its kind. Return whether there was an old one."""
        replaced = False
        async with transaction(self._connection):
            # A rename locks the index against other changes of the schema only, and not against searches or writes.
            for table in self._tables:
                own = index_name(table)
                found = await indexes_of(self._connection, self._schema, table)
                if own in found and (own + NEW in found or wanted.kind == "none"):
                    await self._connection.execute(f"alter index {self._name(own)} rename to {quoted(own + OLD)}")
                    replaced = True
                if own + NEW in found:
                    await self._connection.execute(f"alter index {self._name(own + NEW)} rename to {quoted(own)}")
            await record(self._connection, self._schema, wanted)
            await replace_function(
                self._connection,
                self._schema,
                wanted.kind,
                self._extension,
                dimension=dimension,
                partitions=partitions,
            )
        return replaced

    async def _drop(self, table: str, name: str) -> None:
        if name in await indexes_of(self._connection, self._schema, table):
            await self._connection.execute(f"drop index concurrently if exists {self._name(name)}")
            self._dropped.append(name)

    async def _run_with_progress(self, table: str, statement: str) -> None:
        """Run a statement, and report its progress through a second connection."""
        if self._progress is None:
            await self._connection.execute(statement)
            return
        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, table)
            try:
                await self._connection.execute(statement)
            except Exception as error:  # raised outside of the group, which would wrap it
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _watch(self, table: str) -> None:
        """Report the progress until cancelled. Never fails the build."""
        try:
            async with connect(self._address) as connection:
                while True:
                    with deadline(STEP_SECONDS):
                        row = await connection.fetchrow(_PROGRESS, [self._name(table)])
                    if row is not None:
                        self._tell(table, row["phase"], _share(row))
                    await anyio.sleep(POLL_SECONDS)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError, RagcoreError) as error:
            logger.warning("index.progress: the progress of the build is unknown: %s", type(error).__name__)

    def _tell(self, table: str, phase: str, done: float | None) -> None:
        if self._progress is not None:
            self._progress(
                IndexProgress(table=table, phase=phase, done=done, seconds=anyio.current_time() - self._began)
            )

    def _name(self, name: str) -> str:
        return f"{quoted(self._schema)}.{quoted(name)}"

    def _names(self) -> list[str]:
        return [self._name(table) for table in self._tables]


def _share(row: asyncpg.Record) -> float | None:
    """Return the share of the phase that is done. A phase counts tuples, blocks, or the transactions for which it waits."""
    for counted in ("tuples", "blocks", "lockers"):
        if row[f"{counted}_total"]:
            return min(1.0, float(row[f"{counted}_done"] / row[f"{counted}_total"]))
    return None
