"""`EmbeddedStore`: PostgreSQL with pgvector in a folder."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ragcore.resilience import Policy
from ragcore.store.embedded.shared_server import OWN_PARAMETERS, ROLE, Server, join, leave
from ragcore.store.postgres import PgVectorStore, migrate
from ragcore.store.postgres.dsn import parse

__all__ = ["EmbeddedStore"]


class EmbeddedStore(PgVectorStore):
    """A `PgVectorStore` over the embedded server of a folder, which it starts, migrates and stops itself.

    Args:
        folder: as in `server`.
        model: of the embedder, for the migration.
        dimension: of its vectors.
        language: as in `store.migrate`.
        pool_size: as in `PgVectorStore`, as are the others.
        exact_rows: chunks up to which a tenant is searched exactly.
        ef_search: how widely the index is searched.
        schema: the collection.
        policy: of searches.
        write_policy: of writes.
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
            contract=True,  # a folder is not shared with the release before, and nobody has its owner's DSN to do it later
        )
        self._address = parse(running.dsn.reveal() + OWN_PARAMETERS)
        await super()._open()

    async def _close(self) -> None:
        try:
            await super()._close()
        finally:
            await self._leave()

    async def _shut(self) -> None:
        await self._leave()  # a start that failed half-way
        await super()._shut()

    async def _leave(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            await leave(running.folder)
