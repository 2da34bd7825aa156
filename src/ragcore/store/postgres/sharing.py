"""Mark tenants as shared, so that other tenants may search their documents."""

from __future__ import annotations

from uuid import UUID

import asyncpg

from ragcore.errors import ConfigurationError, RagcoreError
from ragcore.resilience import deadline
from ragcore.store.postgres.connection import Connection, connect
from ragcore.store.postgres.dsn import parse
from ragcore.store.postgres.statements import check_schema, quoted
from ragcore.store.postgres.translate import translate
from ragcore.types.secret import Secret
from ragcore.types.validation import check_tenant

__all__ = ["share", "unshare"]

# Limit if the caller sets no deadline.
SHARE_SECONDS = 30.0


async def share(owner_dsn: str | Secret, tenant: str | UUID, /, *, schema: str = "ragcore") -> None:
    """Let all tenants search this tenant's documents, if a call names it in `shared`. They can't change the documents.

    Run it as the owner of the schema: the application's role may not do it. You can run it again.

    Args:
        owner_dsn: DSN of the owner, as in `migrate`.
        tenant: the tenant that owns the documents, such as "plans-2026". It need not have documents yet.
        schema: schema of the collection.

    Raises:
        ConfigurationError: the schema does not exist or is older than this version, or the role is not its owner.
        StoreError: PostgreSQL can't be reached, or it failed.

    Examples:
        ```python
        await ragcore.store.share(owner_dsn, "plans-2026")
        answer = await rag.ask("What does the gold plan cost?", tenant="acme", shared=("plans-2026",))
        ```
    """
    await _change(owner_dsn, "insert into {table} values ($1) on conflict do nothing", check_tenant(tenant), schema)


async def unshare(owner_dsn: str | Secret, tenant: str | UUID, /, *, schema: str = "ragcore") -> None:
    """End `share`. From then on, a call that names the tenant in `shared` raises `InvalidInput`. Arguments and errors are those of `share`."""
    await _change(owner_dsn, "delete from {table} where tenant = $1", check_tenant(tenant), schema)


async def copy_shared(connection: Connection, source: str, target: str) -> None:
    """Give a collection the marks of another one. A tenant that is not shared any more must not be shared again after the switch to `target`."""
    await connection.execute(
        f"""
        with ended as (
            delete from {quoted(target)}.shared_tenant where tenant not in (select tenant from {quoted(source)}.shared_tenant)
        )
        insert into {quoted(target)}.shared_tenant select tenant from {quoted(source)}.shared_tenant on conflict do nothing
        """  # noqa: S608  # quoted
    )


async def _change(owner_dsn: str | Secret, statement: str, tenant: str, schema: str) -> None:
    address = parse(owner_dsn)
    table = f"{quoted(check_schema(schema))}.shared_tenant"
    try:
        with deadline(SHARE_SECONDS):
            async with connect(address) as connection:
                await connection.execute(statement.format(table=table), tenant)
    except RagcoreError:
        raise
    except asyncpg.UndefinedTableError as error:
        raise ConfigurationError(
            f"the collection {schema!r} in {address} does not exist or is older than this version: run `ragcore migrate` as the owner"
        ) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        raise translate(error, address, stage="migrate") from error
