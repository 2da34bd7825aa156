"""The schema: numbered SQL migrations under an advisory lock, and what a role finds when it looks at it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import asyncpg

from ragcore.errors import ConfigurationError, InvalidInput, RagcoreError
from ragcore.protocols import Embedder
from ragcore.resilience import deadline
from ragcore.secret import Secret
from ragcore.store.postgres.dsn import Address, parse
from ragcore.store.postgres.pool import Connection, connect, transaction, vector_schema
from ragcore.store.postgres.translate import translate
from ragcore.value import Value

__all__ = ["SQL", "Finding", "Inspection", "inspect", "migrate", "quoted"]

logger = logging.getLogger("ragcore.store")

# "ragcore" in ASCII: whoever migrates holds this lock, and a second one waits.
LOCK = 0x726167636F7265
# pgvector's limits for an HNSW index of whole and of half precision.
MOST_INDEXED_WHOLE, MOST_INDEXED = 2_000, 4_000
MOST_DIMENSIONS = 16_000
# Where no deadline is around it: another's migration is waited for, a black hole not for ever.
MIGRATE_SECONDS = 300.0


def _read(folder: str) -> dict[str, str]:
    files = (resources.files("ragcore.store.postgres") / folder).iterdir()
    return {
        file.name.removesuffix(".sql"): file.read_text(encoding="utf-8") for file in files if file.name.endswith(".sql")
    }


# Read while the module is imported, never on the event loop.
SQL = _read("sql")
MIGRATIONS = sorted((int(name[:4]), name[5:], text) for name, text in _read("migrations").items())


async def migrate(owner_dsn: str | Secret, /, *, model: str, dimension: int, role: str) -> None:
    """Create or update the schema `ragcore`, and let the application's role read and write its rows.

    Run it as the owner; the application connects as `role`, which owns nothing, so that row-level security binds it. Safe to run again, and
    from several processes at once: it takes an advisory lock, and each step runs once, in one transaction with all others that are due.

    Args:
        owner_dsn: of a role that may create a schema (and the extension pgvector, where it is missing).
        model: the embedding model's name, kept to warn when another one is used.
        dimension: of its vectors, 1 to 16,000; up to 4,000 are indexed, those above 2,000 in half precision; above 4,000 search is exact.
        role: the application's role; it must exist.

    Raises:
        ConfigurationError: no such role, no right to do it, pgvector not installed, or a schema made for another model or dimension.
        StoreError: PostgreSQL can't be reached or failed.
        DeadlineExceeded: not done within 300 s, or within the deadline around it.
    """
    if isinstance(dimension, bool) or not isinstance(dimension, int) or not 1 <= dimension <= MOST_DIMENSIONS:
        raise InvalidInput(f"dimension is {dimension!r}: it must be a whole number from 1 to {MOST_DIMENSIONS:,}")
    address = parse(owner_dsn)
    try:
        with deadline(MIGRATE_SECONDS):
            async with connect(address) as connection, transaction(connection):
                await connection.execute("select pg_advisory_xact_lock($1)", LOCK)
                await _migrate(connection, address, model=model, dimension=dimension, role=role)
    except RagcoreError:
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        raise translate(error, address, stage="migrate") from error


async def _migrate(connection: Connection, address: Address, *, model: str, dimension: int, role: str) -> None:
    if not await connection.fetchval("select exists (select from pg_roles where rolname = $1)", role):
        raise ConfigurationError(
            f"there is no role {role!r} in {address}: as its owner, run `create role {role} login password '…'`, then migrate again"
        )
    await _install_pgvector(connection, address)
    names = {
        "vector": quoted(await vector_schema(connection)),
        "owner": quoted(str(await connection.fetchval("select current_user"))),
        "dimension": str(dimension),
        "model_literal": "'" + model.replace("'", "''") + "'",
    }
    await connection.execute("create schema if not exists ragcore")
    await connection.execute(
        "create table if not exists ragcore.migration (number integer primary key, name text not null, done_at timestamptz not null default now())"
    )
    done = {row["number"] for row in await connection.fetch("select number from ragcore.migration")}
    for number, name, text in MIGRATIONS:
        if number not in done:
            await connection.execute(_filled(text, names))
            await connection.execute("insert into ragcore.migration (number, name) values ($1, $2)", number, name)
            logger.info("migrated %s: %04d %s", address, number, name)
    made_for = {row["name"]: row["value"] for row in await connection.fetch("select name, value from ragcore.setting")}
    if made_for["dimension"] != str(dimension) or made_for["model"] != model:
        raise ConfigurationError(
            f"the schema in {address} was made for {made_for['model']!r} with {made_for['dimension']} dimensions, not for {model!r} with {dimension}: "
            "use that model, or another database"
        )
    await connection.execute(
        f"""
        grant usage on schema ragcore to {quoted(role)};
        grant select, insert, update, delete on ragcore.document, ragcore.chunk to {quoted(role)};
        grant select on ragcore.setting, ragcore.migration to {quoted(role)};
        grant execute on function ragcore.count_all(), ragcore.is_of(text, text) to {quoted(role)};
        """
    )


async def _install_pgvector(connection: Connection, address: Address) -> None:
    try:
        async with transaction(connection):
            await connection.execute("create extension if not exists vector")
    except (asyncpg.UndefinedFileError, asyncpg.FeatureNotSupportedError) as error:
        raise ConfigurationError(
            f"pgvector is not installed on the server of {address}: install it there (https://github.com/pgvector/pgvector#installation)"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"the owner may not create the extension pgvector in {address}: let a superuser run `create extension vector` there once"
        ) from error


def quoted(identifier: str) -> str:
    """An identifier, quoted for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def _filled(text: str, names: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: names[match[1]], text)


@dataclass(frozen=True, slots=True)
class Finding(Value):
    """Something that is not as it should be, and what to do."""

    severity: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection(Value):
    """What a role finds in a database.

    Attributes:
        address: host, port and database.
        role, superuser, bypasses_rls, owns_tables, forces_rls: who it is, and whether row-level security binds it.
        server_version, pgvector: versions; pgvector None where it is missing.
        has_schema, has_index, dimension, model: the schema, and what it was made for.
        about_chunks: PostgreSQL's own estimate; None before its first analyze.
        migration: the last that was run; None where it can't be seen.
        fingerprint: of tables, columns and their types: two databases with the same one have the same schema. None without one.
    """

    address: str
    role: str
    superuser: bool
    bypasses_rls: bool
    owns_tables: bool
    forces_rls: bool
    server_version: str
    pgvector: str | None
    has_schema: bool
    has_index: bool
    dimension: int | None
    model: str | None
    about_chunks: int | None
    fingerprint: str | None = None
    migration: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether there is all that a search needs."""
        return self.has_schema and self.pgvector is not None and not self._is_behind

    @property
    def _is_behind(self) -> bool:
        return self.migration is not None and self.migration < MIGRATIONS[-1][0]

    def findings(self, embedder: Embedder | None = None) -> list[Finding]:
        """What is wrong; [] if nothing is."""
        return [*self._findings(), *self.misfits(embedder)]

    def _findings(self) -> Iterator[Finding]:
        make_role = "connect as a role that owns nothing: `create role app login password '…'`, then store.migrate(…, role='app')"
        if self.pgvector is None:
            yield Finding("error", "the extension pgvector is missing: as the owner, run `create extension vector`")
        if not self.has_schema:
            yield Finding(
                "error",
                "the schema of ragcore is missing: run store.migrate(owner_dsn, …) or `ragcore migrate` as the owner",
            )
        if self._is_behind:
            yield Finding(
                "error",
                f"the schema of ragcore is that of migration {self.migration}, and this version needs {MIGRATIONS[-1][0]}: run `ragcore migrate` as the owner",
            )
        if self.superuser:
            yield Finding(
                "error", f"the role {self.role} is a superuser, so row-level security doesn't bind it: {make_role}"
            )
        elif self.bypasses_rls:
            yield Finding("error", f"the role {self.role} has BYPASSRLS, so tenants aren't isolated: {make_role}")
        elif self.owns_tables:
            yield Finding(
                "warning",
                f"the role {self.role} owns ragcore's tables, so it could switch row-level security off: {make_role}",
            )
        if self.has_schema and not self.forces_rls:
            yield Finding(
                "error",
                "row-level security is not on and forced on ragcore.chunk and ragcore.document: as the owner, switch it on again",
            )
        if self.has_schema and not self.has_index and (self.dimension or 0) <= MOST_INDEXED:
            yield Finding(
                "warning",
                "the HNSW index on ragcore.chunk is missing, so large tenants are searched slowly: as the owner, run "
                f"`create index concurrently chunk_embedding on ragcore.chunk using hnsw ({self._indexed()})`",
            )

    def _indexed(self) -> str:
        if (self.dimension or 0) <= MOST_INDEXED_WHOLE:
            return "embedding vector_cosine_ops"
        return f"(embedding::halfvec({self.dimension})) halfvec_cosine_ops"

    def misfits(self, embedder: Embedder | None) -> list[Finding]:
        """Whether the store was made for another model than the embedder's."""
        return list(self._misfits(embedder))

    def _misfits(self, embedder: Embedder | None) -> Iterator[Finding]:
        if embedder is not None and self.dimension is not None:
            if embedder.dimension != self.dimension:
                yield Finding(
                    "error",
                    f"the store was made for {self.dimension} dimensions ({self.model}) and the embedder {embedder.model} has {embedder.dimension}: "
                    "use that model, or another database",
                )
            elif self.model is not None and embedder.model != self.model:
                yield Finding(
                    "error",
                    f"the store was made for the model {self.model} and the embedder is {embedder.model}: vectors of two models don't compare",
                )


async def inspect(connection: Connection, address: Address) -> Inspection:
    """Look at the role and the schema through a connection."""
    row = await connection.fetchrow(SQL["inspect"])
    assert row is not None
    model = migration = None
    if row["has_schema"]:
        try:
            model = await connection.fetchval("select value from ragcore.setting where name = 'model'")
            migration = await connection.fetchval("select max(number) from ragcore.migration")
        except asyncpg.InsufficientPrivilegeError:
            logger.warning(
                "%s may not read ragcore.setting: run store.migrate(owner_dsn, …, role=%r) as the owner",
                row["role"],
                row["role"],
            )
    return Inspection(
        address=f"{address.host or 'localhost'}/{row['database']}",
        role=row["role"],
        superuser=bool(row["superuser"]),
        bypasses_rls=bool(row["bypasses_rls"]),
        owns_tables=bool(row["owns_tables"]),
        forces_rls=bool(row["forces_rls"]),
        server_version=row["server_version"],
        pgvector=row["pgvector"],
        has_schema=row["has_schema"],
        has_index=row["has_index"],
        dimension=row["dimension"],
        model=model,
        about_chunks=None if row["about_chunks"] in (None, -1) else row["about_chunks"],
        fingerprint=row["fingerprint"],
        migration=migration,
    )
