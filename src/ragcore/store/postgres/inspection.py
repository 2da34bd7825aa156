"""Inspect a database through the application's role: the role's rights, the collection, and the isolation of tenants."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from socket import AF_UNIX

import asyncpg

from ragcore.compat.private import transport_of
from ragcore.errors import ConfigurationError
from ragcore.protocols import Embedder
from ragcore.store.postgres.connection import Connection, compiling
from ragcore.store.postgres.dsn import Address
from ragcore.store.postgres.extension import Extension
from ragcore.store.postgres.finding import Finding
from ragcore.store.postgres.index import Index, IndexKind, default_kind, index_name
from ragcore.store.postgres.partitions import partitions_of
from ragcore.store.postgres.replica_inspection import ReplicaInspection
from ragcore.store.postgres.row_policies import foreign_policies
from ragcore.store.postgres.statements import MIGRATIONS, quoted, statement
from ragcore.value import Value

__all__ = ["Inspection", "inspect", "read_settings"]

logger: logging.Logger = logging.getLogger("ragcore.store")

MAKE_ROLE = (
    "connect as a role that owns nothing: `create role app login password '…'`, then store.migrate(…, role='app')"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection(Value):
    """The state of a database, as the application's role sees it.

    Attributes:
        address: host, port and database.
        schema: schema of the collection.
        role: name of the role.
        superuser, bypasses_rls: whether the role is a superuser, or has BYPASSRLS. Row-level security does not apply to such a role.
        owns_tables: whether the role owns the tables, or may become their owner. Such a role could switch row-level security off.
        forces_rls: whether row-level security is enabled and forced on all tables.
        row_security: whether the setting row_security is on. If it is off, statements fail.
        may_become: roles to which the role could switch with `set role`, and to which row-level security does not apply.
        foreign_policies: policies on ragcore's tables that ragcore did not create.
        missing_rights: rights on the tables that the role lacks, such as "chunk select".
        excess_rights: rights on the tables that the role has and should not have, such as "chunk truncate".
        disabled_triggers: triggers that maintain the words of chunks and are switched off.
        may_use_schema, may_use_vector: whether the role may use the collection's schema, and pgvector's schema.
        server_version, pgvector: versions of PostgreSQL and of pgvector; `pgvector` is None if it is missing.
        vector_schema: schema in which pgvector is installed.
        encrypted, verified, local: whether the connection uses TLS, the server's certificate was checked against the host's name, and the
            connection is a socket of this machine.
        in_recovery: whether the server is a standby, which is read-only.
        has_schema: whether the collection's schema exists.
        has_index: whether the index of the recorded kind exists and is complete. False for the kind "none".
        index: kind and parameters of the collection's index; None if the role can't read them.
        index_bytes: size of the index; None if there is none.
        invalid_indexes: indexes of vectors that an interrupted build has left behind. Writes maintain them, and no search uses them.
        maintenance_work_mem, shared_buffers: the server's memory for a build, unless it asks for more, and the server's cache, in bytes; None if unknown.
        dimension, model: dimension and embedding model of the collection; None if unknown.
        language, vector_type: language and vector type of the collection; None if the role can't read them.
        partitions: number of partitions of the chunks; 0 if there are none.
        contracted: whether the objects that only the previous release needs have been removed.
        text_is_ready: whether all chunks are prepared for text search. If not, text search scans the tenant's chunks.
        active: the collection of the group that is in use; None if there is no group.
        former_models: former models of the collection. Documents may still have content hashes of these models.
        about_chunks: PostgreSQL's estimate of the number of chunks; None before the first ANALYZE.
        migration: number of the last migration that was run; None if the role can't read it.
        newest_migration: number of the newest migration of this version of ragcore.
        fingerprint: hash of tables, columns and types. Databases with the same fingerprint have the same schema. None without a schema.
        collections: schemas of all collections in the database.
        notes: options of the DSN that the driver does not support, and settings that make searches slow.
        replicas: the state of each replica of the store.
    """

    address: str
    schema: str = "ragcore"
    role: str
    superuser: bool
    bypasses_rls: bool
    may_become: tuple[str, ...] = ()
    owns_tables: bool
    forces_rls: bool
    row_security: bool = True
    foreign_policies: tuple[str, ...] = ()
    missing_rights: tuple[str, ...] = ()
    excess_rights: tuple[str, ...] = ()
    disabled_triggers: tuple[str, ...] = ()
    may_use_schema: bool = True
    may_use_vector: bool = True
    server_version: str
    pgvector: str | None
    vector_schema: str | None = None
    encrypted: bool = False
    verified: bool = False
    local: bool = False
    in_recovery: bool = False
    has_schema: bool
    has_index: bool
    index: Index | None = None
    index_bytes: int | None = None
    invalid_indexes: tuple[str, ...] = ()
    maintenance_work_mem: int | None = None
    shared_buffers: int | None = None
    dimension: int | None
    model: str | None
    language: str | None = None
    vector_type: str | None = None
    partitions: int = 0
    contracted: bool = False
    text_is_ready: bool = False
    active: str | None = None
    former_models: tuple[str, ...] = ()
    about_chunks: int | None
    fingerprint: str | None = None
    migration: int | None = None
    newest_migration: int = field(default=0, repr=False)
    collections: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    replicas: tuple[ReplicaInspection, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether everything that a search needs exists and may be used."""
        usable = self.pgvector is not None and not self._pgvector_is_too_old and self.may_use_vector
        allowed = self.may_use_schema and not self.missing_rights and self.row_security
        return self.has_schema and usable and allowed and not self._is_behind

    @property
    def unsafe(self) -> tuple[str, ...]:
        """Reasons why one tenant could see another tenant's rows; () if tenants are isolated."""
        return tuple(finding.message for finding in self._unsafe())

    @property
    def index_kind(self) -> IndexKind:
        """Kind of the collection's index."""
        return default_kind(self.dimension or 0) if self.index is None else self.index.kind

    @property
    def _is_behind(self) -> bool:
        return self.migration is not None and self.migration < self.newest_migration

    @property
    def _pgvector_is_too_old(self) -> bool:
        return self.pgvector is not None and Extension("", self.pgvector, 0).is_too_old

    def findings(self, embedder: Embedder | None = None) -> list[Finding]:
        """Return all problems; [] if there are none."""
        own = [*self._missing(), *self._unsafe(), *self._rights(), *self._advice(), *self.misfits(embedder)]
        if self.in_recovery:
            own.append(
                Finding("warning", f"{self.address} is a read-only standby: documents can be searched, but not added")
            )
        # A replica is a copy, so it has most problems of the primary. They are reported once.
        known = {finding.message for finding in own}
        replicas = [finding for replica in self.replicas for finding in replica.findings()]
        return own + [finding for finding in replicas if finding.message.partition(": ")[2] not in known]

    def replica_findings(self, name: str, /) -> list[Finding]:
        """Return the problems of a server from which the store only reads; [] if there are none. Each message begins with the server's name."""
        own = [*self._missing(), *self._unsafe(), *self._rights(), *self._advice()]
        if not self.in_recovery:
            own.append(
                Finding(
                    "warning",
                    "it is no standby: after a failover it may be the new primary; if it is a separate server, its documents are not those of the primary, "
                    "so remove it from read_dsn",
                )
            )
        return [Finding(finding.severity, f"the replica {name}: {finding.message}") for finding in own]

    def _missing(self) -> Iterator[Finding]:
        if self.pgvector is None:
            yield Finding("error", "the extension pgvector is missing: as the owner, run `create extension vector`")
        elif self._pgvector_is_too_old:
            try:
                Extension("", self.pgvector, 0).check()
            except ConfigurationError as error:
                yield Finding("error", str(error))
        if not self.has_schema:
            yield Finding(
                "error",
                f"the schema {self.schema} of ragcore is missing: run store.migrate(owner_dsn, …) or `ragcore migrate` as the owner",
            )
        if self._is_behind:
            yield Finding(
                "error",
                f"the schema {self.schema} is at migration {self.migration}, and this version needs {self.newest_migration}: "
                "run `ragcore migrate` as the owner",
            )

    def _unsafe(self) -> Iterator[Finding]:
        if self.superuser:
            yield Finding(
                "error", f"the role {self.role} is a superuser, so row-level security does not apply to it: {MAKE_ROLE}"
            )
        elif self.bypasses_rls:
            yield Finding("error", f"the role {self.role} has BYPASSRLS, so tenants aren't isolated: {MAKE_ROLE}")
        elif self.may_become:
            others = ", ".join(self.may_become)
            yield Finding(
                "error",
                f"the role {self.role} may `set role` to {others}, and so bypass row-level security: "
                f"run `revoke {quoted(self.may_become[0])} from {quoted(self.role)}`, or {MAKE_ROLE}",
            )
        if self.has_schema and not self.forces_rls:
            yield Finding(
                "error",
                f"row-level security is not enabled and forced on all tables of {self.schema}: as the owner, run `alter table {self.schema}.document "
                f"enable row level security, force row level security`, and the same for chunk, posting, quota, cached_vector and origin",
            )
        # A superuser is a member of every role, so `foreign_policies` would list all policies.
        for policy in () if self.superuser or self.bypasses_rls else self.foreign_policies:
            table, name = policy.split(": ", 1)
            yield Finding(
                "error",
                f"the policy {name} on {self.schema}.{table} is not ragcore's and could show more rows, since policies are joined by OR: "
                f"as the owner, run `drop policy {quoted(name)} on {self.schema}.{table}`, then `ragcore migrate`",
            )

    def _rights(self) -> Iterator[Finding]:
        role = quoted(self.role)
        if not self.row_security:
            yield Finding(
                "error",
                f"the role {self.role} has row_security=off, so every statement fails: run `alter role {role} reset row_security`",
            )
        if not self.may_use_vector:
            schema = quoted(self.vector_schema or "")
            yield Finding(
                "error",
                f"the role {self.role} may not use the schema of pgvector: as its owner, run `grant usage on schema {schema} to {role}`",
            )
        if not self.may_use_schema:
            yield Finding(
                "error",
                f"the role {self.role} may not use the schema {self.schema}: as its owner, run `ragcore migrate`, or "
                f"`grant usage on schema {self.schema} to {role}`",
            )
        elif self.missing_rights:
            table, right = self.missing_rights[0].split()
            yield Finding(
                "error",
                f"the role {self.role} lacks rights on the tables of {self.schema} ({', '.join(self.missing_rights)}): "
                f"as the owner, run `ragcore migrate`, or `grant {right} on {self.schema}.{table} to {role}`",
            )

    def _advice(self) -> Iterator[Finding]:
        if self.excess_rights:
            yield Finding(
                "warning",
                f"the role {self.role} has rights that it does not need ({', '.join(self.excess_rights)}) and could bypass the policies with them: "
                "as the owner, run `ragcore migrate`, which revokes them; also revoke rights that are granted to public",
            )
        if self.disabled_triggers:
            yield Finding(
                "error",
                f"triggers of {self.schema} are switched off ({', '.join(self.disabled_triggers)}), so text search misses chunks: "
                f"as the owner, run `alter table {self.schema}.chunk enable trigger all`",
            )
        if self.owns_tables and not self.superuser:
            yield Finding(
                "warning",
                f"the role {self.role} owns ragcore's tables, or may become their owner, so it could switch row-level security off: {MAKE_ROLE}",
            )
        if self.has_schema and not self.has_index and self.index_kind != "none":
            yield Finding(
                "warning",
                f"the HNSW index on {self.schema}.chunk is missing, so searches of large tenants are slow: as the owner, run "
                f"`ragcore --schema {self.schema} index`, which does not block writers",
            )
        if self.invalid_indexes:
            yield Finding(
                "warning",
                f"an interrupted build has left incomplete indexes in {self.schema} ({', '.join(self.invalid_indexes)}), which only slow down writes: "
                f"as the owner, run `ragcore --schema {self.schema} index`, which replaces them; ignore this while a build runs",
            )
        if self.migration is not None and not self._is_behind and not self.contracted:
            yield Finding(
                "warning",
                f"the schema {self.schema} still supports the previous release, for which a statement without a tenant returns no rows instead of an error: "
                "once no client of that release is left, run `ragcore migrate --contract`",
            )
        if self.migration is not None and not self._is_behind and not self.text_is_ready:
            yield Finding(
                "warning",
                f"not all chunks of {self.schema} are prepared for text search; until then, it scans all chunks of a tenant: "
                "run `ragcore migrate` as the owner",
            )
        for note in self.notes:
            yield Finding("warning", note)

    def misfits(self, embedder: Embedder | None) -> list[Finding]:
        """Return the problems that arise because the store was made for another model than the embedder's."""
        return list(self._misfits(embedder))

    def _misfits(self, embedder: Embedder | None) -> Iterator[Finding]:
        if embedder is not None and self.dimension is not None:
            if embedder.dimension != self.dimension:
                yield Finding(
                    "error",
                    f"the store was made for {self.dimension} dimensions ({self.model}), and the embedder {embedder.model} has {embedder.dimension}: "
                    "use that model, or another collection",
                )
            elif self.model is not None and embedder.model != self.model:
                yield Finding(
                    "error",
                    f"the store was made for the model {self.model}, and the embedder is {embedder.model}; vectors of two models can't be compared: "
                    "use that model, or another collection",
                )


async def inspect(connection: Connection, address: Address, *, schema: str = "ragcore") -> Inspection:
    """Inspect the role and a collection through a connection."""
    # Use the client's end of the connection: behind a pooler, the server knows only the pooler's connection.
    transport = transport_of(connection)
    socket = None if transport is None else transport.get_extra_info("socket")
    encrypted = transport is not None and transport.get_extra_info("ssl_object") is not None
    set_role = "set" if connection.get_server_version().major >= 16 else "member"
    row = await connection.fetchrow(statement("inspect", set_role=set_role), schema)
    assert row is not None
    settings: Mapping[str, str] = {}
    migration = None
    if row["has_schema"] and row["may_use_schema"]:
        try:
            settings = await read_settings(connection, schema)
            rows = await connection.fetch(f"select number from {quoted(schema)}.migration")  # noqa: S608  # quoted
            done = {row["number"] for row in rows}
            migration = next((number for number in range(len(done) + 1) if number + 1 not in done), 0)
        except asyncpg.InsufficientPrivilegeError:
            logger.warning(
                "inspect.denied: %s may not read %s.setting; run store.migrate(owner_dsn, …, role=%r) as the owner",
                row["role"],
                schema,
                row["role"],
            )
    index = Index.recorded(settings)
    kind = default_kind(row["dimension"] or 0) if index is None else index.kind
    built = json.loads(row["vector_indexes"] or "[]")
    wanted = (True, Index(kind=kind).operator_class)
    current = [
        one for one in built if one["name"] == index_name(one["table"]) and (one["valid"], one["operators"]) == wanted
    ]
    return Inspection(
        address=f"{address.host or 'localhost'}/{row['database']}",
        schema=schema,
        role=row["role"],
        superuser=bool(row["superuser"]),
        bypasses_rls=bool(row["bypasses_rls"]),
        may_become=() if row["superuser"] else tuple(row["may_become"]),
        owns_tables=bool(row["owns_tables"]),
        forces_rls=bool(row["forces_rls"]),
        row_security=bool(row["row_security"]),
        foreign_policies=tuple(foreign_policies(row["policies"], schema)),
        excess_rights=() if row["superuser"] else tuple(row["excess_rights"]),
        disabled_triggers=tuple(row["disabled_triggers"]),
        missing_rights=tuple(row["missing_rights"]) if row["has_schema"] else (),
        may_use_schema=row["may_use_schema"] is not False,
        may_use_vector=row["may_use_vector"] is not False,
        server_version=row["server_version"],
        pgvector=row["pgvector"],
        vector_schema=row["vector_schema"],
        encrypted=encrypted,
        verified=encrypted and address.sslmode == "verify-full",
        local=socket is not None and socket.family == AF_UNIX,
        in_recovery=bool(row["in_recovery"]),
        has_schema=row["has_schema"],
        has_index=len(current) >= max(1, partitions_of(settings)),
        index=index,
        index_bytes=sum(one["bytes"] for one in current) if current else None,
        invalid_indexes=tuple(one["name"] for one in built if not one["valid"]),
        maintenance_work_mem=row["maintenance_work_mem"],
        shared_buffers=row["shared_buffers"],
        dimension=row["dimension"],
        model=settings.get("model"),
        language=settings.get("language"),
        vector_type=settings.get("vector_type"),
        partitions=partitions_of(settings),
        contracted=settings.get("contracted") == "true",
        text_is_ready=settings.get("text") == "ready",
        active=settings.get("active"),
        former_models=tuple(settings["former_models"].split("\n")) if settings.get("former_models") else (),
        about_chunks=None if row["about_chunks"] == -1 else row["about_chunks"],
        fingerprint=row["fingerprint"],
        migration=migration,
        newest_migration=MIGRATIONS[-1][0],
        collections=tuple(row["collections"]),
        notes=(*address.notes, *await compiling(connection, address)),
    )


async def read_settings(connection: Connection, schema: str) -> dict[str, str]:
    """Return the settings that a collection stores about itself."""
    rows = await connection.fetch(f"select name, value from {quoted(schema)}.setting")  # noqa: S608  # checked and quoted
    return {row["name"]: row["value"] for row in rows}
