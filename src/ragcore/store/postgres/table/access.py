"""Access to an existing table, through a pool and a policy. The mapping is checked before a connection is used."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

import anyio
import asyncpg
from asyncpg import exceptions as pg

from ragcore.errors import ConfigurationError, InvalidInput, RagcoreError
from ragcore.lifecycle.owner import Owner
from ragcore.protocols import Vector
from ragcore.resilience import Policy, deadline
from ragcore.store.postgres.calling import call
from ragcore.store.postgres.connection import PooledConnection
from ragcore.store.postgres.dsn import Address
from ragcore.store.postgres.pool import Pool
from ragcore.store.postgres.statements import quoted
from ragcore.store.postgres.table.checking import look
from ragcore.store.postgres.table.inspection import TableInspection
from ragcore.store.postgres.table.statements import Shape
from ragcore.store.postgres.translate import judge, translate
from ragcore.store.table import Table

__all__ = ["TableAccess", "TableSettings"]

logger: logging.Logger = logging.getLogger("ragcore.store")

T = TypeVar("T")
LOOK_SECONDS = 10.0
# Errors that mean that the table has changed since the mapping was checked.
CHANGED = (pg.UndefinedTableError, pg.UndefinedColumnError, pg.UndefinedFunctionError, pg.InvalidSchemaNameError)


class TableSettings(Protocol):
    """The settings of a `TableStore`. They are read at each call, so a changed attribute takes effect with the next call."""

    table: Table
    pool_size: int
    policy: Policy
    write_policy: Policy


class TableAccess:
    """Access to the table of a mapping, like `Collection` to a collection.

    Invariant: work runs on a connection only after the mapping was compared with the database through this connection, and fits. `found` holds the last
    inspection.

    Args:
        settings: the store's settings.
        address: address of the database.
        check_open: raises an error if the store is not open on this event loop; returns the owner of the store's background work.
    """

    def __init__(self, settings: TableSettings, address: Address, *, check_open: Callable[[], Owner]) -> None:
        self._settings = settings
        self._address = address
        self._check_open = check_open
        self._pool: Pool | None = None
        self._shape: Shape | None = None
        self._looked = anyio.Event()
        self.found: TableInspection | None = None

    def open(self) -> None:
        """Create a pool without connections, and check the mapping in the background."""
        owner = self._check_open()
        self._pool = Pool(self._address, size=self._settings.pool_size)
        self.found, self._shape, self._looked = None, None, anyio.Event()
        owner.spawn(self._look_at_start, name="checking the mapping")

    async def close(self) -> None:
        """Close the connections within 2 s."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(timeout=2.0)

    async def first_look(self) -> TableInspection | None:
        """Wait for the check at start and return its result; None if the database could not be reached."""
        self._check_open()
        await self._looked.wait()
        return self.found

    async def call(self, work: Callable[[PooledConnection, Shape], Awaitable[T]]) -> T:
        """Run `work` through the policy, on a connection on which the mapping was checked. Errors of the driver are raised as ragcore's errors."""
        return await self._run(lambda connection: self._examined(connection, work))

    async def write(self, work: Callable[[PooledConnection, Shape], Awaitable[T]]) -> T:
        """Run `work` in a transaction, through the policy of writes."""
        policy = self._settings.write_policy

        async def examined(connection: PooledConnection) -> T:
            shape = await self._checked(connection)
            role = self._settings.table.role
            begin = "begin" if role is None else f"begin; set local role {quoted(role)}"
            return await _in_transaction(connection, begin, lambda: work(connection, shape))

        return await call(
            self.opened(),
            examined,
            policy=policy,
            on=judge,
            stage="write",
            known=partial(_refused, self._settings.table.relation),
        )

    async def call_directly(self, work: Callable[[PooledConnection, Shape], Awaitable[T]]) -> T:
        """Run `work` like `call`, bypassing the policy. Errors of the driver are raised unchanged."""
        return await self.opened().run(lambda connection: self._examined(connection, work))

    async def inspect(self) -> TableInspection:
        """Compare the mapping with the database."""
        return await self._run(self._look_at)

    async def ping(self) -> None:
        """Check the mapping.

        Raises:
            ConfigurationError: the mapping does not fit.
        """
        await self._run(self._check)

    def check_dimension(self, vector: Vector | None) -> None:
        """Raise `ConfigurationError` if a vector has another dimension than the table's."""
        known = None if self.found is None else self.found.dimension
        if vector is not None and known is not None and len(vector) != known:
            raise ConfigurationError(
                f"the vectors of {self._settings.table.relation} have dimension {known}, and the embedder's have {len(vector)}: "
                "use the model that made the vectors"
            )

    def snapshot(self) -> Mapping[str, int]:
        """Return the use of the pool as serialisable data."""
        pool = self._pool
        return {
            "size": self._settings.pool_size,
            "in_use": pool.in_use if pool else 0,
            "idle": pool.idle if pool else 0,
        }

    def opened(self) -> Pool:
        """Return the pool; raise an error if the store is not open."""
        self._check_open()
        assert self._pool is not None
        return self._pool

    async def _run(self, work: Callable[[PooledConnection], Awaitable[T]]) -> T:
        """Run `work` on a connection of the pool, through the policy of searches."""
        policy = self._settings.policy
        return await call(
            self.opened(),
            work,
            policy=policy,
            on=judge,
            stage="search",
            known=partial(_changed, self._settings.table.relation),
        )

    async def _examined(
        self, connection: PooledConnection, work: Callable[[PooledConnection, Shape], Awaitable[T]]
    ) -> T:
        shape = await self._checked(connection)
        role = self._settings.table.role
        return (
            await work(connection, shape)
            if role is None
            else await _reading_as(connection, role, lambda: work(connection, shape))
        )

    async def _checked(self, connection: PooledConnection) -> Shape:
        """Return the mapping's shape. On a connection that was not used before, it is checked."""
        if not connection.examined or self._shape is None or self._shape.table is not self._settings.table:
            # If the check fails, is cancelled, or finds that the mapping does not fit, the next call repeats it.
            await self._check(connection)
        assert self._shape is not None
        return self._shape

    async def _check(self, connection: PooledConnection) -> None:
        self._learn(await self._look_at(connection), connection.vector_schema)
        self._refuse_if_wrong()
        connection.examined = True

    async def _look_at(self, connection: PooledConnection) -> TableInspection:
        address = self._address
        if self._settings.table.role is None:
            return await look(connection, address, self._settings.table)
        return await _reading_as(
            connection, self._settings.table.role, lambda: look(connection, address, self._settings.table)
        )

    def _learn(self, found: TableInspection, vector_schema: str) -> None:
        self.found = found
        shape = Shape.of(self._settings.table, found, vector_schema=vector_schema) if found.is_complete else None
        # An equal shape stays the same object, because statements are looked up by it, and comparing all fields takes long.
        if shape != self._shape or (shape is not None and shape.table is not self._settings.table):
            self._shape = shape

    def _refuse_if_wrong(self) -> None:
        assert self.found is not None
        wrong = [finding.message for finding in self.found.problems if finding.severity == "error"]
        if wrong:
            raise ConfigurationError("; ".join(wrong))

    async def _look_at_start(self) -> None:
        """Check the mapping at start, bypassing the policy: an error here must not open its breaker."""
        pool = self._pool
        try:
            if pool is not None:
                with deadline(LOOK_SECONDS):
                    await pool.run(self._check)
        except ConfigurationError:
            pass  # the problems are logged below, one line for each
        except Exception as error:
            if self._pool is not None:  # if the store is closed already, the error does not matter
                logger.warning(
                    "store.unready: the database is not ready: %s", translate(error, self._address, stage="start")
                )
        finally:
            self._looked.set()  # also after a cancellation: callers of `first_look` must not wait forever
        for finding in () if self.found is None else self.found.findings():
            logger.log(logging.ERROR if finding.severity == "error" else logging.WARNING, "%s", finding.message)


def _refused(relation: str, error: Exception) -> RagcoreError | None:
    """Return the error to raise if the database refuses the rows that were written."""
    if isinstance(error, pg.UniqueViolationError):
        return InvalidInput(
            f"an id of these documents is taken in {relation}, perhaps by another tenant ({error.constraint_name}): use another id"
        )
    if isinstance(error, pg.IntegrityConstraintViolationError):
        where = error.constraint_name or error.column_name or type(error).__name__
        return ConfigurationError(f"{relation} or a table that refers to it does not accept the change ({where})")
    return _changed(relation, error)


def _changed(relation: str, error: Exception) -> ConfigurationError | None:
    """Return the error to raise if the table or the role's rights have changed since the mapping was checked."""
    if isinstance(error, (*CHANGED, pg.InsufficientPrivilegeError)):
        words = error.args[0] if error.args else type(error).__name__
        return ConfigurationError(
            f"the mapping of {relation} does not fit the database ({words}): run `ragcore doctor`"
        )
    return None


async def _reading_as(connection: PooledConnection, role: str, work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` in a transaction that reads only, as another role."""
    try:
        return await _in_transaction(connection, f"begin read only; set local role {quoted(role)}", work)
    except (pg.InsufficientPrivilegeError, pg.InvalidParameterValueError) as error:
        if "role" not in str(error):
            raise
        raise ConfigurationError(
            f"role: the connection may not switch to the role {role!r} ({error.args[0]}): grant it to the connection's role"
        ) from None


async def _in_transaction(connection: PooledConnection, begin: str, work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` in a transaction, which `begin` starts in one round trip. After other errors than those named here, the pool ends the connection."""
    try:
        await connection.execute(begin)
        result = await work()
    except (asyncpg.PostgresError, ConfigurationError, InvalidInput):
        # A session that has ended can't roll back. The error of the rollback would hide the first error.
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await connection.execute("rollback")
        raise
    await connection.execute("commit")
    return result
