"""The schema of a collection: numbered SQL migrations under an advisory lock. They have two steps, so that a release can be rolled out and rolled back.

A migration only adds objects, so the library of the previous release works with the migrated schema. The contraction removes objects that only the
previous release needs. Run it when no client of that release is left. A new collection is contracted immediately.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping

import anyio
import asyncpg

from ragcore.errors import ConfigurationError, InvalidInput, RagcoreError
from ragcore.resilience import deadline
from ragcore.store.embed_text import DEFAULT_EMBED_TEXT
from ragcore.store.postgres.connection import Connection, again_after_deadlocks, connect, transaction
from ragcore.store.postgres.dsn import Address, parse
from ragcore.store.postgres.extension import find_extension
from ragcore.store.postgres.index import Index, default_kind
from ragcore.store.postgres.index_catalogue import create_index, replace_function
from ragcore.store.postgres.inspection import read_settings
from ragcore.store.postgres.partitions import check_partitions, create_partitions, partitions_of, protect_partitions
from ragcore.store.postgres.searches import function_placeholders
from ragcore.store.postgres.statements import MIGRATIONS, SQL, check_schema, filled, literal, quoted
from ragcore.store.postgres.translate import translate
from ragcore.text.words import UNSPACED
from ragcore.types.secret import Secret

__all__ = ["migrate"]

logger: logging.Logger = logging.getLogger("ragcore.store")

# "ragcore" in ASCII. A migration holds this advisory lock; a second migration waits for it.
LOCK = 0x726167636F7265
MOST_DIMENSIONS = 16_000
DEFAULT_LANGUAGE = "english"
# The limit if the caller sets no deadline. It is long enough to wait for another migration, and ends a call to a server that never responds.
MIGRATE_SECONDS = 300.0
# Number of chunks prepared for text search in one transaction. It is small, so that the transaction does not block writers for long.
PREPARED_AT_ONCE = 2_000
EXTENSION_TRIES = 10
# The ranges of `ragcore.text.words.UNSPACED`, in the syntax of PostgreSQL's regular expressions.
UNSPACED_ESCAPED = "".join(char if char == "-" else f"\\u{ord(char):04X}" for char in UNSPACED)


async def migrate(
    owner_dsn: str | Secret,
    /,
    *,
    model: str,
    dimension: int,
    role: str,
    schema: str = "ragcore",
    language: str | None = None,
    index: Index | None = None,
    partitions: int | None = None,
    contract: bool = False,
) -> None:
    """Create or update the schema of a collection, and grant the application's role the right to read and write its rows.

    Run it as the owner of the schema. The application connects as `role`, which owns nothing, so that row-level security applies to it.

    You can run it again, and from several processes at once: it takes an advisory lock, and runs all pending steps in one transaction. After an
    update, it prepares the existing chunks for text search in small transactions. If this is interrupted, the next run continues it.

    Args:
        owner_dsn: DSN of a role that may create a schema and, if pgvector is not installed in the database, the extension.
        model: name of the embedding model. A store refuses embedders of another model.
        dimension: dimension of the model's vectors, 1 to 16,000.
        role: the application's role. It must exist.
        schema: name of the collection's schema: lower-case letters, digits and underscores. Each collection has its own model, dimension and
            language.
        language: language of text search: a text search configuration of PostgreSQL, such as "german", or "simple" to leave words unchanged. Chinese,
            Japanese, Korean and Thai are always searched by pairs of characters. None: "english" for a new collection; an existing one keeps its
            language.
        index: kind and parameters of the index of a new collection. None: "vector" up to 2,000 dimensions, "halfvec" up to 4,000, "none" above. An existing
            collection keeps its index; `build_index` changes it.
        partitions: number of partitions of a new collection, 2 to 64. Chunks and postings are then spread over so many tables by a hash of the tenant, and a
            search reads only that of its tenant. None: one table. An existing collection keeps what it has; `copy_collection` copies it into another one.
        contract: whether to remove objects that only the previous release needs. Statements of that release then fail. A new collection never has
            such objects.

    Raises:
        ConfigurationError: the role, the language or a right is missing; pgvector is missing or older than 0.8; the index can't hold so many dimensions;
            or the collection was made for another model, dimension or language, or has another index.
        StoreError: PostgreSQL can't be reached, or it failed.
        DeadlineExceeded: the migration did not finish within 300 s, or within the caller's deadline.
    """
    if isinstance(dimension, bool) or not isinstance(dimension, int) or not 1 <= dimension <= MOST_DIMENSIONS:
        raise InvalidInput(f"dimension is {dimension!r}: it must be a whole number from 1 to {MOST_DIMENSIONS:,}")
    check_schema(schema)
    if index is not None:
        index.check_dimension(dimension)
    if partitions is not None:
        check_partitions(partitions)
    address = parse(owner_dsn)
    made_for = {"model": model, "dimension": str(dimension), "language": language}

    async def in_one_transaction() -> None:
        async with connect(address) as connection, transaction(connection):
            await connection.execute("select pg_advisory_xact_lock($1)", LOCK)
            await _migrate(
                connection,
                address,
                schema=schema,
                made_for=made_for,
                role=role,
                index=index,
                partitions=partitions,
                contract=contract,
            )

    try:
        # Only the migration itself is limited. Preparing all chunks may take longer; each of its transactions is short.
        with deadline(MIGRATE_SECONDS):
            await again_after_deadlocks(in_one_transaction)
        await _prepare_chunks(address, schema)
    except RagcoreError:
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        raise translate(error, address, stage="migrate") from error


async def _migrate(
    connection: Connection,
    address: Address,
    *,
    schema: str,
    made_for: Mapping[str, str | None],
    role: str,
    index: Index | None,
    partitions: int | None,
    contract: bool,
) -> None:
    if not await connection.fetchval("select exists (select from pg_roles where rolname = $1)", role):
        raise ConfigurationError(
            f"the role {role!r} does not exist in {address}: as the owner, run `create role {role} login password '…'`, then migrate again"
        )
    await _install_pgvector(connection, address)
    # Other roles may create functions and operators in a schema of the search path; these must not run as the owner.
    await connection.execute(SQL["own_path"])
    await _check_schema_owner(connection, address, schema)
    extension = await find_extension(connection)
    extension.check()
    new = not await connection.fetchval("select to_regclass($1) is not null", f"{schema}.migration")
    language = made_for["language"] or (DEFAULT_LANGUAGE if new else None)
    if language is not None:
        await _check_language(connection, address, language)
    dimension = int(str(made_for["dimension"]))
    placeholders = {
        "schema": quoted(schema),
        "chunk_literal": literal(f"{quoted(schema)}.chunk"),
        "vector": quoted(extension.schema),
        "owner": quoted(str(await connection.fetchval("select current_user"))),
        "dimension": str(dimension),
        "partitioned": " partition by hash (tenant)" if partitions and new else "",
        # It turns a statement that a partitioned table refuses into a comment.
        "unpartitioned": "-- " if partitions and new else "",
        "index_literal": literal(default_kind(dimension)),
        "model_literal": literal(str(made_for["model"])),
        "language_literal": literal(language or DEFAULT_LANGUAGE),
        "unspaced_literal": literal(f"[{UNSPACED_ESCAPED}]+"),
        # A database with the character type C turns only ASCII letters into lower case.
        "folded": await _folding(connection),
    }
    # For the function of migration 6, which is replaced below.
    functions = function_placeholders(dimension, default_kind(dimension), 0)
    placeholders |= {name: filled(text, placeholders) for name, text in functions.items()}
    placeholders["lexemes_function"] = filled(SQL["lexemes"], placeholders)
    await connection.execute(f"create schema if not exists {quoted(schema)}")
    table = f"{quoted(schema)}.migration"
    await connection.execute(
        f"create table if not exists {table} (number integer primary key, name text not null, done_at timestamptz not null default now())"
    )
    done = {row["number"] for row in await connection.fetch(f"select number from {table}")}  # noqa: S608
    for number, name, text in MIGRATIONS:
        if number not in done:
            await connection.execute(filled(text, placeholders))
            await connection.execute(f"insert into {table} (number, name) values ($1, $2)", number, name)  # noqa: S608
            logger.info("migrate.applied: %s, %04d %s", address, number, name)
    if new:
        await connection.execute(
            f"update {quoted(schema)}.setting set value = $1 where name = 'embed_text'",  # noqa: S608  # checked and quoted
            DEFAULT_EMBED_TEXT,
        )
        if partitions is not None:
            await create_partitions(connection, schema, partitions)
        await create_index(connection, schema, index or Index(kind=default_kind(dimension)), extension, dimension)
    settings = await read_settings(connection, schema)
    _check_fits(settings, made_for, address, schema)
    recorded = Index.recorded(settings)
    assert recorded is not None
    if index is not None and index != recorded:
        raise ConfigurationError(
            f"the collection {schema} in {address} has an index of the kind {recorded.kind!r} (m {recorded.m}, ef_construction {recorded.ef_construction}): "
            "run `ragcore index`, which changes the index without blocking writers"
        )
    if partitions not in (None, partitions_of(settings)):
        raise ConfigurationError(
            f"the collection {schema} in {address} has {partitions_of(settings) or 'no'} partitions, not {partitions}: create another collection, and run "
            f"`ragcore copy --from {schema} --to …`"
        )
    await replace_function(
        connection, schema, recorded.kind, extension, dimension=dimension, partitions=partitions_of(settings)
    )
    if (new or contract) and settings["contracted"] != "true":
        await connection.execute(filled(SQL["contract"], placeholders))
    await connection.execute(filled(SQL["grant"], {**placeholders, "role": quoted(role)}))
    # After the contraction, which changes the policies of the whole tables.
    await protect_partitions(connection, schema, partitions_of(settings), role=role)
    await _grant_pgvector(connection, extension.schema, role)


async def _check_schema_owner(connection: Connection, address: Address, schema: str) -> None:
    """Refuse a schema of another role: its triggers and functions would run with the rights of the migrating role."""
    found = await connection.fetchrow(
        """
        select pg_get_userbyid(nspowner) as owner, rolsuper as by_superuser,
               nspowner = (select oid from pg_roles where rolname = current_user) as own,
               pg_has_role(current_user, nspowner, 'usage') as member,
               (select rolsuper from pg_roles where rolname = current_user) as superuser
        from pg_namespace join pg_roles on pg_roles.oid = nspowner where nspname = $1
        """,
        schema,
    )
    if found is None or found["own"]:
        return
    trusted = found["by_superuser"] if found["superuser"] else found["member"]
    if not trusted:
        raise ConfigurationError(
            f"the schema {schema} in {address} belongs to {found['owner']}: migrate as that role, or use another schema"
        )


def _check_fits(settings: Mapping[str, str], made_for: Mapping[str, str | None], address: Address, schema: str) -> None:
    if settings["dimension"] != made_for["dimension"] or settings["model"] != made_for["model"]:
        raise ConfigurationError(
            f"the schema {schema} in {address} was made for {settings['model']!r} with {settings['dimension']} dimensions, not for "
            f"{made_for['model']!r} with {made_for['dimension']}: use that model, or another schema"
        )
    if made_for["language"] not in (None, settings["language"]):
        raise ConfigurationError(
            f"the schema {schema} in {address} was made for the language {settings['language']!r}, not for {made_for['language']!r}: "
            "use that language, or another schema"
        )


async def _check_language(connection: Connection, address: Address, language: str) -> None:
    known = [row[0] for row in await connection.fetch("select cfgname::text from pg_ts_config order by 1")]
    if language not in known:
        raise ConfigurationError(
            f"the text search configuration {language!r} does not exist in {address}: use one of {', '.join(known)}"
        )


async def _folding(connection: Connection) -> str:
    """Return the SQL expression that turns a text into lower case before parsing; "given" if the parser does that itself."""
    plain, icu = await connection.fetchrow(  # type: ignore[misc]
        """
        select datctype in ('C', 'POSIX'), exists (select from pg_collation where collname = 'und-x-icu')
        from pg_database where datname = current_database()
        """
    )
    return 'lower(given collate pg_catalog."und-x-icu")' if plain and icu else "given"


async def _install_pgvector(connection: Connection, address: Address) -> None:
    """Create the extension if it is missing. If another application creates it at the same time, PostgreSQL raises a unique violation here."""
    for _ in range(EXTENSION_TRIES):
        if await connection.fetchval("select exists (select from pg_extension where extname = 'vector')"):
            return
        try:
            async with transaction(connection):
                await connection.execute("create extension if not exists vector")
            return
        except (asyncpg.UniqueViolationError, asyncpg.DuplicateObjectError, asyncpg.DeadlockDetectedError):
            await anyio.sleep(0.05)
        except (asyncpg.UndefinedFileError, asyncpg.FeatureNotSupportedError) as error:
            raise ConfigurationError(
                f"pgvector is not installed on the server of {address}: install it there (https://github.com/pgvector/pgvector#installation)"
            ) from error
        except asyncpg.InsufficientPrivilegeError as error:
            raise ConfigurationError(
                f"the owner may not create the extension pgvector in {address}: run `create extension vector` there once, as a superuser"
            ) from error
    raise ConfigurationError(
        f"the extension pgvector could not be created in {address}: run `create extension vector` there, as a superuser"
    )


async def _grant_pgvector(connection: Connection, schema: str, role: str) -> None:
    """Let the role use pgvector's schema, if the owner may grant that. If not, `inspect` reports the missing right."""
    if await connection.fetchval("select has_schema_privilege($1, $2, 'usage')", role, schema):
        return
    try:
        async with transaction(connection):
            await connection.execute(f"grant usage on schema {quoted(schema)} to {quoted(role)}")
    except asyncpg.InsufficientPrivilegeError:
        logger.warning(
            "migrate.denied: the migrating role may not grant the use of pgvector's schema; as the owner of that schema, run `grant usage on schema %s to %s`",
            quoted(schema),
            quoted(role),
        )


async def _prepare_chunks(address: Address, schema: str) -> None:
    """Prepare chunks of the previous release for text search, in small transactions, each within the time limit of a migration."""
    names = {"schema": quoted(schema)}
    setting = f"{quoted(schema)}.setting"
    prepared, last = 0, ("", "")

    async def some() -> list[asyncpg.Record]:
        async with transaction(connection):
            await connection.execute(SQL["own_path"])
            await connection.execute("select pg_advisory_xact_lock($1)", LOCK)
            rows = await connection.fetch(filled(SQL["chunks_to_prepare"], names), *last, PREPARED_AT_ONCE)
            await connection.execute("select set_config('ragcore.counting', '', true)")
            for tenant, chunks in itertools.groupby(rows, key=lambda row: str(row["tenant"])):
                await connection.execute(SQL["set_tenant"], tenant)
                ids = [row["id"] for row in chunks]
                await connection.execute(filled(SQL["prepare_chunks"], names), tenant, ids)
            if len(rows) < PREPARED_AT_ONCE:
                await connection.execute(f"update {setting} set value = 'ready' where name = 'text'")  # noqa: S608
            return rows

    async with connect(address) as connection:
        while (await read_settings(connection, schema)).get("text") != "ready":
            with deadline(MIGRATE_SECONDS):
                rows = await again_after_deadlocks(some)
            if rows:
                last = (rows[-1]["tenant"], rows[-1]["id"])
                prepared += len(rows)
                logger.info("migrate.prepared: %d chunks of %s prepared for text search", prepared, schema)
