"""The server of a folder, shared by all threads and processes that use it. The first one starts it, the last one stops it.

A process holds one shared lock on `users.lock` for each folder, even if it uses the folder several times. A separate process (`supervisor`) owns the
server.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread

from ragcore.errors import ConfigurationError, StoreError
from ragcore.lifecycle.bound import expires_at
from ragcore.store.embedded import supervisor
from ragcore.store.embedded.cluster import Cluster
from ragcore.types.secret import Secret

__all__ = ["OWN_PARAMETERS", "ROLE", "Server", "join", "leave", "server", "start", "stop"]

logger: logging.Logger = logging.getLogger("ragcore.store")

T = TypeVar("T")

# These override environment variables for another database (PGPORT, PGSSLMODE, …).
OWN_PARAMETERS = "&port=5432&sslmode=disable&target_session_attrs=any"
OWNER = "postgres"
ROLE = "ragcore"
DATABASE = "ragcore"
# This is enough for a first initdb on a slow disk.
START_SECONDS = 120.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02


@dataclass(slots=True)
class _Folder:
    """A folder that this process uses: the number of uses, and the open lock file that shows the use to other processes."""

    lock: threading.Lock
    uses: int = 0
    descriptor: int = -1


_guard = threading.Lock()
_folders: dict[Path, _Folder] = {}


def _forget_in_child() -> None:
    """Close the lock files in a forked child, without unlocking them. The locks belong to the parent; the child does not use the server."""
    global _guard
    for used in _folders.values():
        if used.descriptor >= 0:
            with suppress(OSError):
                os.close(used.descriptor)
    _folders.clear()
    _guard = threading.Lock()


os.register_at_fork(after_in_child=_forget_in_child)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        dsn: DSN of the application's role, which owns nothing.
        owner_dsn: DSN of the superuser, for `store.migrate`.
        folder: folder of the data, as an absolute path without symbolic links.
        pid: process id of the server's main process.
    """

    dsn: Secret
    owner_dsn: Secret
    folder: Path
    pid: int


@asynccontextmanager
async def server(folder: str | PathLike[str], /, *, version: int | None = None) -> AsyncIterator[Server]:
    """Start the server of a folder for the block, or use the server that runs there already.

    Args:
        folder: a folder for this server only; nothing else should be in it. It is created if it does not exist.
        version: version of PostgreSQL for a new folder, 16 or 18. None: the newest. An existing folder keeps its version.

    The DSNs are `Secret`s: `server.dsn.reveal()` returns the text. Only the user of the operating system that started the server may connect.
    The start takes at most 120 s and the stop at most 20 s, or until the caller's deadline.

    Raises:
        ConfigurationError: the extra is missing, or the folder is not writable.
        StoreError: the server did not start. Its log is in the folder.

    Examples:
        >>> async def main() -> None:
        ...     async with server("data") as running:
        ...         await migrate(running.owner_dsn, model="m", dimension=3, role="ragcore")
    """
    running = await join(Path(folder), version=version)
    try:
        yield running
    finally:
        await leave(running.folder)


async def join(folder: Path, *, version: int | None = None) -> Server:
    """Start the server of a folder within the deadline, or use the server that runs there already. See `server`."""
    seconds = min(START_SECONDS, max(0.0, expires_at() - anyio.current_time()))
    home = folder

    def begin() -> Server:
        nonlocal home
        home = folder.expanduser().resolve()
        return start(home, version=version, seconds=seconds)

    return await _in_thread(begin, undo=lambda: stop(home))


async def leave(folder: Path) -> None:
    """Leave the server within the deadline. If the deadline ends the wait for the stop, the supervisor continues to stop the server."""
    seconds = min(STOP_SECONDS, max(0.5, expires_at() - anyio.current_time()))
    with anyio.CancelScope(shield=True):
        await _in_thread(lambda: stop(folder, seconds=seconds))


async def _in_thread(work: Callable[[], T], *, undo: Callable[[], object] | None = None) -> T:
    """Run blocking work in its own thread. A cancelled caller does not wait for the thread; if the work succeeds later, it is undone there."""
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
        value = await anyio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
        received = True
        return value
    finally:
        with hand_over:
            left = True
            lost = done and not received
        if lost and undo is not None:  # the work ended at the moment of the cancellation
            threading.Thread(target=undo, name="ragcore undo", daemon=True).start()


def start(folder: Path, *, version: int | None = None, seconds: float = START_SECONDS) -> Server:
    """Start the server of a folder within `seconds`, blocking. See `server`."""
    deadline = time.monotonic() + seconds
    cluster = Cluster(folder, version=version)
    used = _folder(cluster.data)
    with used.lock:
        if not used.uses:
            # The descriptor is stored before the file is locked, so that a child that is forked meanwhile closes it. Otherwise the child would keep the lock.
            used.descriptor = _opened(cluster.users_lock)
            try:
                _use(used.descriptor, cluster, deadline)
            except BaseException:
                descriptor, used.descriptor = used.descriptor, -1
                os.close(descriptor)
                raise
        used.uses += 1
    try:
        pid = _ready(cluster, deadline)
    except BaseException:
        stop(folder, seconds=1.0)
        raise
    dsn = f"@/{DATABASE}?host={quote(str(cluster.sockets), safe='/')}"
    return Server(
        dsn=Secret(f"postgresql://{ROLE}{dsn}"),
        owner_dsn=Secret(f"postgresql://{OWNER}{dsn}"),
        folder=cluster.folder,
        pid=pid,
    )


def stop(folder: Path, *, seconds: float = STOP_SECONDS) -> None:
    """Leave the server of a folder, blocking. The last user stops the server and waits for its end, at most `seconds`."""
    data = folder.expanduser().resolve() / "postgres"
    used = _folder(data)
    with used.lock:
        used.uses = max(0, used.uses - 1)
        if used.uses or used.descriptor < 0:
            return
        descriptor, used.descriptor = used.descriptor, -1
        try:
            # Only the last user gets the exclusive lock. While this process holds it, new users wait for a new server.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _stop(data, time.monotonic() + seconds)
        except BlockingIOError:
            pass  # others use the server
        finally:
            os.close(descriptor)


def _folder(data: Path) -> _Folder:
    with _guard:
        return _folders.setdefault(data, _Folder(threading.Lock()))


def _use(descriptor: int, cluster: Cluster, deadline: float) -> None:
    """Become a user of the server. If it is being stopped, wait for that first."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except OSError:
            _wait(deadline, f"another process did not finish stopping the server of {cluster.folder}")


def _ready(cluster: Cluster, deadline: float) -> int:
    """Return the process id of a server that accepts connections and has a supervisor."""
    while True:
        if _is_free(cluster.supervisor_lock):
            _supervise(cluster, deadline)
            continue
        running = supervisor.postmaster_of(cluster.data)
        if running is not None and running[1] and _is_reported_ready(cluster):
            return running[0]
        _wait(deadline, f"the embedded PostgreSQL in {cluster.folder} was not ready; its log is {cluster.data / 'log'}")


def _is_reported_ready(cluster: Cluster) -> bool:
    """Whether the supervisor has reported that role and database exist."""
    try:
        return "ready" in cluster.supervisor_lock.read_text(encoding="utf-8")
    except OSError:
        return False


def _supervise(cluster: Cluster, deadline: float) -> None:
    """Start a supervisor, and wait for its message."""
    command = [sys.executable, "-I", "-S", supervisor.__file__, json.dumps(cluster.options())]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/"
    ) as process:
        assert process.stdout is not None
        said = b""
        while not said.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                _wait(
                    0.0, f"the embedded PostgreSQL in {cluster.folder} was not ready; its log is {cluster.data / 'log'}"
                )
            read = os.read(process.stdout.fileno(), 65_536)
            if not read:
                raise _failed(f"the supervisor of the embedded PostgreSQL in {cluster.folder} ended without a message")
            said += read
    message = json.loads(said)
    if "error" in message:
        raise _failed(f"the embedded PostgreSQL did not start in {cluster.folder}: {message['error']}")
    for note in message.get("notes", ()):
        logger.warning("embedded.repaired: %s", note)
    if "other" in message:
        time.sleep(POLL_SECONDS)


def _stop(data: Path, deadline: float) -> None:
    """Ask the supervisor to stop the server. If there is no supervisor, stop the server directly."""
    lock = data.parent / "supervisor.lock"
    asked = False
    while not _is_free(lock):
        if not asked:
            with suppress(OSError, ValueError, IndexError):
                pid = int(lock.read_text(encoding="utf-8").split()[0])
                if supervisor.supervises(pid, data):
                    os.truncate(lock, 0)  # new users now wait for another supervisor
                    os.kill(pid, signal.SIGUSR1)
                    asked = True
        if time.monotonic() > deadline:
            return  # the supervisor continues alone, since the server has no users left
        time.sleep(POLL_SECONDS)
    running = supervisor.postmaster_of(data)
    if running is None:
        return
    with suppress(ProcessLookupError):  # only needed if the supervisor was killed
        os.kill(running[0], signal.SIGINT)
    while supervisor.serves(running[0], data) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _is_free(lock: Path) -> bool:
    """Whether no process holds a lock."""
    if not lock.parent.exists():  # renamed or deleted meanwhile
        return True
    descriptor = _opened(lock)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _opened(lock: Path) -> int:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        raise ConfigurationError(
            f"{lock} belongs to another user: use the folder {lock.parent} as that user, or use another folder"
        ) from error


def _wait(deadline: float, otherwise: str) -> None:
    if time.monotonic() >= deadline:
        raise _failed(f"{otherwise} (time limit reached)")
    time.sleep(POLL_SECONDS)


def _failed(message: str) -> StoreError:
    return StoreError(message, dependency="embedded PostgreSQL", stage="start")
