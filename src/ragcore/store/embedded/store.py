"""`EmbeddedStore`: a store that runs its own PostgreSQL server in a folder."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ragcore.resilience import Policy
from ragcore.store.embedded.shared_server import OWN_PARAMETERS, ROLE, Server, join, leave
from ragcore.store.postgres import PgVectorStore, migrate
from ragcore.store.postgres.dsn import parse

__all__ = ["EmbeddedStore"]


class EmbeddedStore(PgVectorStore):
    """A `PgVectorStore` on the embedded server of a folder. It starts, migrates and stops the server itself.

    Args:
        folder: folder of the server, as in `server`.
        model: name of the embedding model, for the migration.
        dimension: dimension of its vectors.
        language: language of text search, as in `store.migrate`.
        pool_size: largest number of connections. This and the following arguments are described in `PgVectorStore`.
        exact_rows: largest number of chunks for which a tenant is searched exactly.
        ef_search: breadth of the index search, 1 to 1,000.
        schema: name of the collection's schema.
        policy: policy of searches.
        write_policy: policy of writes.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        model: str,
        dimension: int,
        language: str | None = None,
        pool_size: int = 10,
        exact_rows: int | None = None,
        ef_search: int = 100,
        schema: str = "ragcore",
        policy: Policy | None = None,
        write_policy: Policy | None = None,
    ) -> None:
        super().__init__(
            "postgresql:///",
            pool_size=pool_size,
            exact_rows=exact_rows,
            ef_search=ef_search,
            schema=schema,
            policy=policy,
            write_policy=write_policy,
        )
        self._folder = Path(folder)
        self._model = model
        self._dimension = dimension
        self._language = language
        self._running: Server | None = None

    async def _open(self) -> None:
        self._running = running = await join(self._folder)
        await migrate(
            running.owner_dsn.reveal() + OWN_PARAMETERS,
            model=self._model,
            dimension=self._dimension,
            role=ROLE,
            schema=self.schema,
            language=self._language,
            contract=True,  # no client of the previous release uses the folder, and no user has the owner's DSN for a later contraction
        )
        self._address = parse(running.dsn.reveal() + OWN_PARAMETERS)
        await super()._open()

    async def _close(self) -> None:
        try:
            await super()._close()
        finally:
            await self._leave()

    async def _shut(self) -> None:
        await self._leave()  # needed after a start that failed half-way
        await super()._shut()

    async def _leave(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            await leave(running.folder)
