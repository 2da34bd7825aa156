"""A PgBouncer in transaction mode in front of a server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ragcore.store.embedded.cluster import Login

__all__ = ["free_port", "pgbouncer"]

CONFIGURATION = """
[databases]
ragcore = {server} dbname=ragcore
nowhere = host=127.0.0.1 port={nowhere}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = transaction
logfile = {folder}/log
ignore_startup_parameters = extra_float_digits
server_connect_timeout = 1
server_login_retry = 1
query_wait_timeout = 2
{extra}
"""


def free_port() -> int:
    """Return a port of loopback that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def pgbouncer(folder: Path, login: Login, *, server: str, extra: str = "default_pool_size = 3") -> Iterator[int]:
    """Run a PgBouncer for the block. Yields its port. The test is skipped if there is none on this machine.

    Args:
        folder: an empty folder for its files.
        login: the account that runs it, since it refuses to run as root.
        server: host and port of the server, as in pgbouncer.ini.
        extra: further settings.
    """
    binary = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if binary is None:
        pytest.skip("PgBouncer is not on this machine: `apt-get install pgbouncer`")
    port = free_port()
    (folder / "users.txt").write_text('"ragcore" ""\n')
    values = {"server": server, "nowhere": free_port(), "port": port, "folder": folder, "extra": extra}
    (folder / "pgbouncer.ini").write_text(CONFIGURATION.format(**values))
    if login.uid is not None:
        os.chown(folder, login.uid, login.gid or -1)
    process = subprocess.Popen(
        [binary, str(folder / "pgbouncer.ini")],
        user=login.uid,
        group=login.gid,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(10)
