"""Partitions of a large collection: its chunks and postings are spread over several tables by a hash of the tenant.

A search reads the partition of its tenant, and each partition has its own index. Row-level security also applies to each partition: a role that reads a
partition directly sees the same rows as in the whole table.
"""

from __future__ import annotations

from collections.abc import Mapping

from ragcore.errors import ConfigurationError
from ragcore.store.postgres.connection import Connection
from ragcore.store.postgres.index import partition_name
from ragcore.store.postgres.statements import quoted

__all__ = ["check_partitions", "create_partitions", "partitions_of", "protect_partitions"]

LEAST, MOST = 2, 64
TABLES = ("chunk", "posting")
# The storage parameters and statistics targets that the migrations set. Partitions do not inherit them.
OPTIONS = {
    "chunk": (
        "set (toast_tuple_target = 8160), alter column text set statistics 0, alter column title set statistics 0, alter column source set statistics 0, "
        "alter column metadata set statistics 0, alter column words set statistics 0"
    ),
    "posting": "set (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02)",
}
_POLICIES = """
    select polname as name, polpermissive as permissive, polcmd::text as command, pg_get_expr(polqual, polrelid) as condition,
           array(select case when r = 0 then 'public' else quote_ident(pg_get_userbyid(r)) end from unnest(polroles) as r) as roles
    from pg_policy where polrelid = $1::text::regclass order by polname
"""
_COMMANDS = {"*": "all", "r": "select", "a": "insert", "w": "update", "d": "delete"}


def check_partitions(partitions: object) -> int:
    """Return the number of partitions if it is valid.

    Raises:
        ConfigurationError: it is not a whole number from 2 to 64.
    """
    if isinstance(partitions, bool) or not isinstance(partitions, int) or not LEAST <= partitions <= MOST:
        raise ConfigurationError(f"partitions is {partitions!r}: it must be a whole number from {LEAST} to {MOST}")
    return partitions


def partitions_of(settings: Mapping[str, str]) -> int:
    """Return the number of partitions that a collection has recorded; 0 if it has none."""
    return int(settings.get("partitions", "0"))


async def create_partitions(connection: Connection, schema: str, partitions: int) -> None:
    """Create the partitions of a new collection, and record their number."""
    # If the whole table had an index, the indexes of the partitions would belong to it, and could not be built one by one without blocking writers.
    await connection.execute(f"drop index if exists {quoted(schema)}.chunk_embedding")
    for table in TABLES:
        for number in range(partitions):
            name = f"{quoted(schema)}.{partition_name(table, number)}"
            await connection.execute(
                f"create table {name} partition of {quoted(schema)}.{table} for values with (modulus {partitions}, remainder {number})"
            )
            await connection.execute(f"alter table {name} {OPTIONS[table]}")
    await connection.execute(
        f"insert into {quoted(schema)}.setting values ('partitions', $1)",  # noqa: S608  # checked and quoted
        str(partitions),
    )


async def protect_partitions(connection: Connection, schema: str, partitions: int, *, role: str) -> None:
    """Create the policies of the whole tables on the partitions. Grant the role the right to read the partitions of chunks, whose indexes its searches use."""
    for table in TABLES if partitions else ():
        policies = await connection.fetch(_POLICIES, f"{quoted(schema)}.{table}")
        for number in range(partitions):
            name = f"{quoted(schema)}.{partition_name(table, number)}"
            await connection.execute(
                f"alter table {name} enable row level security; alter table {name} force row level security"
            )
            for former in await connection.fetch(_POLICIES, name):
                await connection.execute(f"drop policy {quoted(former['name'])} on {name}")
            for policy in policies:
                await connection.execute(
                    f"create policy {quoted(policy['name'])} on {name} as {'permissive' if policy['permissive'] else 'restrictive'} "
                    f"for {_COMMANDS[policy['command']]} to {', '.join(policy['roles'])} using ({policy['condition']})"
                )
            await connection.execute(f"revoke all on {name} from {quoted(role)}")
            if table == "chunk":
                await connection.execute(f"grant select on {name} to {quoted(role)}")
