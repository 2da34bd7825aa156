"""A primary with hot standbys: real servers of the embedded binaries with streaming replication, which tests kill, pause and promote."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import asyncpg

from ragcore.store import migrate
from ragcore.store.embedded.cluster import Cluster
from tests.support.hosts import Host

__all__ = ["DATABASE", "ROLE", "Node", "Nodes", "begin", "end", "nodes"]

DATABASE = "ragcore"
ROLE = "ragcore"
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "wal_receiver_timeout": "5s",
    "wal_retrieve_retry_interval": "200ms",
    "hot_standby_feedback": "off",
    "max_standby_streaming_delay": "200ms",
}


@dataclass
class Node:
    """A server: its folder holds the data and the socket.

    Attributes:
        host: the host on which it runs, reached over TCP. None: this machine, reached through the socket.
    """

    folder: Path
    cluster: Cluster
    host: Host | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def socket(self) -> str:
        return f"{self.folder}/.s.PGSQL.5432"

    def dsn(self, user: str = ROLE, *, database: str = DATABASE) -> str:
        return f"postgresql://{user}@/{database}?host={self.place}"

    @property
    def place(self) -> str:
        """The host's address, or the folder of the socket."""
        return str(self.folder) if self.host is None else self.host.address

    def program(self, name: str, *arguments: str) -> list[str]:
        return [str(self.cluster.binaries / name), *arguments]

    def run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            self.program(name, *arguments), capture_output=True, cwd="/", timeout=60, check=False, **self._user()
        )
        assert done.returncode == 0, done.stderr.decode()

    async def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        settings = {**SETTINGS, "unix_socket_directories": str(self.folder)}
        if self.host is not None:
            settings["listen_addresses"] = self.host.address
        options = [f"--{name}={value}" for name, value in settings.items()]
        log = (self.folder / "log").open("ab")
        command, user = self.program("postgres", "-D", str(self.data), *options), self._user()
        if self.host is not None:
            login = self.cluster.login
            command, user = self.host.command(*command, uid=login.uid, gid=login.gid), {}
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **user)
        log.close()
        with anyio.fail_after(60):
            while True:
                try:
                    connection = await asyncpg.connect(self.dsn("postgres", database="postgres"))
                except (OSError, asyncpg.PostgresError):
                    assert self.process.poll() is None, (self.folder / "log").read_text()
                    await anyio.sleep(0.05)
                else:
                    await connection.close()
                    return

    async def stop(self, how: int = signal.SIGQUIT) -> None:
        """End the server: SIGQUIT ends it immediately, as a crash does, and SIGINT disconnects clients first."""
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            process.send_signal(how)
            await anyio.to_thread.run_sync(partial(process.wait, 30))

    async def promote(self) -> None:
        await anyio.to_thread.run_sync(partial(self.run, "pg_ctl", "promote", "-D", str(self.data), "-w"))

    async def execute(self, statement: str, *, user: str = "postgres") -> object:
        connection = await asyncpg.connect(self.dsn(user))
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _user(self) -> dict[str, Any]:
        login = self.cluster.login
        return {} if login.uid is None else {"user": login.uid, "group": login.gid, "extra_groups": []}


@dataclass
class Nodes:
    """A primary and its standbys."""

    primary: Node
    standbys: list[Node]

    def any_primary(self, database: str = DATABASE) -> str:
        """Return a DSN with all servers, of which the driver takes the one that accepts writes."""
        hosts = ",".join(node.place for node in (self.primary, *self.standbys))
        return f"postgresql://{ROLE}@/{database}?host={hosts}&target_session_attrs=read-write"

    def read_dsn(self, database: str = DATABASE) -> str:
        """Return a DSN with all standbys."""
        return f"postgresql://{ROLE}@/{database}?host={','.join(node.place for node in self.standbys)}"

    async def caught_up(self, *standbys: Node) -> None:
        """Wait until the standbys have replayed what the primary has written."""
        # At the beginning of a page, the position of the primary is behind the page's header. A message moves it on.
        await self.primary.execute("select pg_logical_emit_message(true, 'tests', 'caught up')")
        written = await self.primary.execute("select pg_current_wal_insert_lsn()::text")
        with anyio.fail_after(20):
            for standby in standbys or self.standbys:
                while not await standby.execute(f"select pg_last_wal_replay_lsn() >= '{written}'::pg_lsn"):
                    await anyio.sleep(0.02)


def _made(folder: Path, name: str, host: Host | None) -> Node:
    place = folder / name
    place.mkdir()
    node = Node(place, Cluster(folder), host)
    if node.cluster.login.uid is not None:
        os.chown(place, node.cluster.login.uid, node.cluster.login.gid or -1)
    return node


async def begin(*, dimension: int, standbys: int = 1, hosts: Sequence[Host] = ()) -> Nodes:
    """Start a primary with a migrated, empty collection, and standbys of it.

    Args:
        dimension: dimension of the collection.
        standbys: number of standbys.
        hosts: the host of each server, the primary's first. Empty: all run on this machine.
    """
    folder = Path(tempfile.mkdtemp(prefix="ragcore-standby-"))
    folder.chmod(0o755)
    of: Sequence[Host | None] = hosts or [None] * (1 + standbys)
    made = Nodes(_made(folder, "primary", of[0]), [])
    try:
        primary = made.primary
        in_thread = anyio.to_thread.run_sync
        arguments = ("-D", str(primary.data), "--auth=trust", "-U", "postgres", "--encoding=UTF8", "--locale=C")
        await in_thread(partial(primary.run, "initdb", *arguments, "--lc-ctype=C.UTF-8", "--no-sync"))
        if hosts:
            allowed = "".join(f"host {what} all {hosts[0].network} trust\n" for what in ("all", "replication"))
            with (primary.data / "pg_hba.conf").open("a") as file:
                file.write(allowed)
        await primary.start()
        admin = await asyncpg.connect(primary.dsn("postgres", database="postgres"))
        await admin.execute(f"create role {ROLE} login")
        await admin.execute(f"create database {DATABASE}")
        await admin.close()
        await migrate(primary.dsn("postgres"), model="fake", dimension=dimension, role=ROLE, contract=True)
        for number in range(standbys):
            standby = _made(folder, f"standby{number}", of[1 + number])
            copying = ("-D", str(standby.data), "-h", primary.place, "-U", "postgres", "-R", "-X", "stream")
            await in_thread(partial(standby.run, "pg_basebackup", *copying, "-c", "fast", "--no-sync"))
            made.standbys.append(standby)
            await standby.start()
        await made.caught_up()
    except BaseException:
        await end(made)
        raise
    return made


async def end(made: Nodes) -> None:
    """Stop all servers, and remove their folders."""
    with anyio.CancelScope(shield=True):
        for node in (made.primary, *made.standbys):
            await node.stop()
        shutil.rmtree(made.primary.folder.parent, ignore_errors=True)


@asynccontextmanager
async def nodes(*, dimension: int, standbys: int = 1, hosts: Sequence[Host] = ()) -> AsyncIterator[Nodes]:
    """Start a primary and standbys for the block. See `begin`."""
    made = await begin(dimension=dimension, standbys=standbys, hosts=hosts)
    try:
        yield made
    finally:
        await end(made)
