"""Groups of collections: a document that is deleted in one is deleted in the others, and only one of them is in use."""

from __future__ import annotations

from ragcore.errors import ConfigurationError
from ragcore.store.postgres.connection import Connection, transaction
from ragcore.store.postgres.inspection import read_settings
from ragcore.store.postgres.schema import LOCK
from ragcore.store.postgres.statements import SQL, filled, literal, quoted

__all__ = ["link"]


async def link(connection: Connection, source: str, target: str, role: str, *, command: str) -> None:
    """Join two collections into a group. The source stays in use.

    Args:
        connection: a connection of the owner.
        source, target: schemas of the collections.
        role: the application's role.
        command: the command that joins them, "reembed" or "copy", for the error's advice.

    Raises:
        ConfigurationError: the target is in use.
    """
    async with transaction(connection):
        await connection.execute("select pg_advisory_xact_lock($1)", LOCK)
        settings = {schema: await read_settings(connection, schema) for schema in (source, target)}
        active = settings[source].get("active", source)
        if active == target:
            raise ConfigurationError(
                f"the collection {target} is in use, and may be newer than {source}: run `ragcore {command} --from {target} --to {source}`"
            )
        members = dict.fromkeys([source, target])
        for one in settings.values():
            members |= dict.fromkeys(one.get("group", "").split(",") if one.get("group") else [])
        models = {(await read_settings(connection, member))["model"] for member in members}
        for schema, other in ((source, target), (target, source)):
            placeholders = {
                "schema": quoted(schema),
                "other": quoted(other),
                "role": quoted(role),
                "function": quoted(f"delete_in_{other}"),
                "schema_literal": literal(schema),
                "group_literal": literal(",".join(members)),
                "active_literal": literal(active),
                # Transferred documents keep the content hash of the model with which they were first embedded.
                "former_literal": literal("\n".join(sorted(models))),
                "lock": str(LOCK),
                "command": command,
            }
            await connection.execute(filled(SQL["link"], placeholders))
