"""The process that owns an embedded PostgreSQL. It starts the server, and stops it when it has no users left.

It runs as a script: `python -I -S supervisor.py JSON`. With -I and -S it can import only the standard library and no neighbouring module, so it is
one file. It is the server's parent, so a dead server does not stay as a zombie. It outlives users that are killed, so no server is left running.

Users hold a shared lock on the folder's `users.lock`; the kernel releases it when they die. A process that gets the exclusive lock knows that there
are no users. The supervisor waits for this lock. The last user that leaves takes it as well and sends SIGUSR1 to the supervisor, so that the user can
wait for the end. The supervisor holds `supervisor.lock` as long as it lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["is_complete", "postmaster_of", "serves", "supervises"]

READY_SECONDS = 300.0
STOP_SECONDS = 10.0
# Seconds to wait for the remaining processes of a killed server to end.
SETTLE_SECONDS = 15.0
# A server that ends by itself is restarted at most this many times within a minute.
RESTARTS = 20
# At a start, a larger log is renamed to log.old.
LOG_BYTES = 10_000_000
# Entries that initdb creates: the object ids of its databases, of which 5 is the last one, and a folder.
MADE_BY_INITDB = {"1", "4", "5", "pgsql_tmp"}
CREATE = r"""
select 'create role ragcore login' where not exists (select from pg_roles where rolname = 'ragcore') \gexec
select 'create database ragcore' where not exists (select from pg_database where datname = 'ragcore') \gexec
"""


def postmaster_of(data: Path) -> tuple[int, bool] | None:
    """Return the process id of the server that runs in a data folder, and whether it accepts connections; None if there is no server.

    postmaster.pid may be outdated, and its number may belong to another process now, so the process itself is checked.
    """
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        pid = int(lines[0])
    except (OSError, ValueError, IndexError):
        return None
    if not serves(pid, data):
        return None
    return pid, len(lines) > 7 and lines[7].strip() == "ready"


def serves(pid: int, data: Path) -> bool:
    """Whether a process is a PostgreSQL server of this data folder."""
    try:
        if Path("/proc/self").exists():
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
            if status.rpartition(")")[2].split()[0] == "Z":
                return False
            return Path(f"/proc/{pid}/comm").read_text().startswith("postgres") and os.path.samefile(
                f"/proc/{pid}/cwd", data
            )
        command = subprocess.run(["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False)
        return "postgres" in command.stdout and str(data) in command.stdout
    except (OSError, ValueError):
        return False


def supervises(pid: int, data: Path) -> bool:
    """Whether a process is the supervisor of this data folder."""
    try:
        if Path("/proc/self").exists():
            command = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
        else:
            command = subprocess.run(
                ["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False
            ).stdout
        return Path(__file__).name in command and json.dumps(str(data)) in command
    except OSError:
        return False


def is_complete(data: Path) -> bool:
    """Whether initdb has finished in a data folder, or the folder holds a user's data."""
    base = data / "base"
    made = {entry.name for entry in base.iterdir()} if base.is_dir() else set()
    own = made - MADE_BY_INITDB
    return bool(own) or ((base / "5" / "PG_VERSION").exists() and (data / "global" / "pg_control").exists())


class Supervisor:
    """Starts the server of a folder, or takes over a running one, and stops it when it has no users left.

    Args:
        options: options of the folder, from `cluster.Cluster.options`.
    """

    folder: Path
    data: DataFolder
    server: Server
    wake_writer: int

    def __init__(self, options: dict[str, Any]) -> None:
        self.folder = Path(options["folder"])
        self.sockets: str | None = options["sockets"]
        programs = Programs(options)
        self.data = DataFolder(Path(options["data"]), programs, logins=options["logins"])
        self.server = Server(self.data.path, programs, sockets=self.sockets)

    def run(self) -> None:
        """Start the server or take over a running one, report that, and run until the server has no users left."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        wake_reader, self.wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # SIGTERM is ignored: a service manager sends it to all processes of a service, and users may still need the server. When they are gone, the lock
        # is free. Only the last user asks for the stop, with SIGUSR1.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, self._asked_to_stop)
        signal.set_wakeup_fd(self.wake_writer)
        lock = os.open(self.folder / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say({"other": True})
            return
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        try:
            notes = self.data.prepare()
            self.server.up()
            self.server.create()
        except Exception as error:
            self.server.down()
            say({"error": f"{type(error).__name__}: {error}"})
            return
        os.pwrite(lock, f"{os.getpid()} ready\n".encode(), 0)
        say({"ready": self.server.pid, "notes": notes})
        threading.Thread(target=self._wait_for_last_user, daemon=True).start()
        self._keep_running(wake_reader)
        self.server.down()
        if self.sockets is not None:
            with contextlib.suppress(OSError):
                os.rmdir(self.sockets)

    def _keep_running(self, wake: int) -> None:
        """Restart the server when it ends, until there are no users or it can't be started."""
        restarts: list[float] = []
        while not self.server.unwanted:
            if self._wait_for_end(wake):
                continue
            now = time.monotonic()
            restarts = [*(at for at in restarts if now - at < 60), now]
            if len(restarts) > RESTARTS or self.server.unwanted:
                return
            self.data.log(f"the server {self.server.pid} ended; starting it again")
            try:
                self.server.up()
            except Exception as error:
                self.data.log(f"the server did not start again: {error}")
                return

    def _wait_for_end(self, wake: int) -> bool:
        """Wait for a reason to stop (True) or the server's end (False)."""
        try:
            watched = os.pidfd_open(self.server.pid) if hasattr(os, "pidfd_open") else -1
        except OSError:
            return False
        try:
            while not self.server.unwanted:
                ready, _, _ = select.select(
                    [wake, *([watched] if watched >= 0 else [])], [], [], 0.5 if watched < 0 else None
                )
                if wake in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 100)
                if watched in ready or not self.server.lives():
                    return False
            return True
        finally:
            if watched >= 0:
                os.close(watched)

    def _wait_for_last_user(self) -> None:
        users = os.open(self.folder / "users.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(users, fcntl.LOCK_EX)  # held until this process ends, so that new users wait for a new server
        self._asked_to_stop()

    def _asked_to_stop(self, *_: object) -> None:
        self.server.unwanted = True
        with contextlib.suppress(OSError):
            os.write(self.wake_writer, b"x")


class Programs:
    """PostgreSQL's programs, and the user of the operating system that runs them."""

    binaries: Path

    def __init__(self, options: dict[str, Any]) -> None:
        self.binaries = Path(options["binaries"])
        self.uid: int | None = options["uid"]
        self.gid: int | None = options["gid"]
        self.by_descriptor: bool = options["by_descriptor"]

    @contextlib.contextmanager
    def place(self, folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield a path by which that user can reach a folder, and the open descriptors that the path needs."""
        if not self.by_descriptor:
            yield str(folder), ()
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{descriptor}", (descriptor,)
        finally:
            os.close(descriptor)

    def as_user(self) -> dict[str, Any]:
        """Return the arguments of `subprocess` that run a program as that user."""
        return {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def hand_over(self, path: str | Path) -> None:
        """Make that user the owner of a file or folder."""
        if self.uid is not None:
            os.chown(path, self.uid, self.gid or -1)


class DataFolder:
    """The server's data, created by initdb, with its access settings and the server's log."""

    def __init__(self, path: Path, programs: Programs, *, logins: list[str]) -> None:
        self.path = path
        self.programs = programs
        self.logins = logins

    def prepare(self) -> list[str]:
        """Create the data and the access settings; return notes about incomplete data that was moved aside."""
        notes = []
        running = postmaster_of(self.path)
        if running is None and self.path.exists() and any(self.path.iterdir()) and not is_complete(self.path):
            aside = self.path.with_name(f"{self.path.name}.incomplete-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}")
            self.path.rename(aside)
            notes.append(
                f"the data folder was incomplete, since its first start was interrupted; it was moved to {aside}"
            )
        if not self.path.exists() or not any(self.path.iterdir()):
            self._initialise()
        self._configure()
        return notes

    def log(self, message: str) -> None:
        """Write a line of ragcore to the server's log."""
        with contextlib.suppress(OSError), open(self.path / "log", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} ragcore: {message}\n")

    def _initialise(self) -> None:
        """Run initdb in a sibling folder, which is renamed when it is complete."""
        for left in self.path.parent.glob("postgres.new-*"):
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self.path.parent))
        self.programs.hand_over(new)
        arguments = ["--auth=peer", "--encoding=UTF8", "--locale=C", "--lc-ctype=C.UTF-8", "-U", "postgres"]
        made = self._run_initdb(new, arguments)
        if made.returncode and b"locale" in made.stderr:  # a system without C.UTF-8
            arguments.remove("--lc-ctype=C.UTF-8")
            made = self._run_initdb(new, arguments)
        if made.returncode:
            shutil.rmtree(new, ignore_errors=True)
            raise RuntimeError(f"initdb failed: {made.stderr.decode(errors='replace').strip()[-500:]}")
        with contextlib.suppress(OSError):
            self.path.rmdir()  # succeeds only if the folder is empty
        os.rename(new, self.path)

    def _run_initdb(self, folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
        with self.programs.place(folder) as (where, descriptors):
            return subprocess.run(
                [str(self.programs.binaries / "initdb"), "-D", where, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd="/",
                pass_fds=descriptors,
                check=False,
                **self.programs.as_user(),
            )

    def _configure(self) -> None:
        """Accept connections only over the socket, and only from the server's user and the user that started the server."""
        self._write("ragcore_hba.conf", "local all all peer map=ragcore\n")
        self._write("ragcore_ident.conf", "".join(f'ragcore "{login}" all\n' for login in self.logins))

    def _write(self, name: str, text: str) -> None:
        path = self.path / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        descriptor, temporary = tempfile.mkstemp(dir=self.path, prefix=f"{name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        self.programs.hand_over(temporary)
        os.replace(temporary, path)


class Server:
    """The server of a data folder, from its start to its end.

    Attributes:
        pid: process id of its main process; 0 until it accepts connections.
        unwanted: whether the server is to stop. The supervisor sets it, also in a signal handler or another thread. If the server is just starting, `up`
            then raises an error.
    """

    pid: int

    def __init__(self, data: Path, programs: Programs, *, sockets: str | None) -> None:
        self.data = data
        self.programs = programs
        self.sockets = sockets
        self.child: subprocess.Popen[bytes] | None = None
        self.pid = 0
        self.unwanted = False

    def up(self) -> None:
        """Wait until a server accepts connections. If none runs in the folder, start one."""
        deadline = time.monotonic() + READY_SECONDS
        settling = time.monotonic() + SETTLE_SECONDS
        running = postmaster_of(self.data)
        if running is None:
            self._launch()
        while True:
            if self.child is not None and self.child.poll() is not None:
                said = self._end_of_log()
                # The other processes of a killed server end a moment later.
                if "shared memory" not in said or time.monotonic() > settling or self.unwanted:
                    raise RuntimeError(f"the server ended immediately; its log {self.data / 'log'} says: {said}")
                time.sleep(0.1)
                self._launch()
            running = postmaster_of(self.data)
            if running is not None and running[1]:
                self.pid = running[0]
                return
            if time.monotonic() > deadline or self.unwanted:
                raise RuntimeError(
                    f"the server was not ready within {READY_SECONDS:.0f} s; its log is {self.data / 'log'}"
                )
            time.sleep(0.01)

    def create(self) -> None:
        """Create the application's role and the database if they do not exist. The migration creates the extension."""
        with self.programs.place(self.data) as (where, descriptors):
            made = subprocess.run(
                [
                    str(self.programs.binaries / "psql"),
                    *("-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres"),
                ],
                input=CREATE.encode(),
                capture_output=True,
                cwd="/",
                env={**os.environ, "PGHOST": self.sockets or where, "PGPORT": "5432", "PGCONNECT_TIMEOUT": "30"},
                pass_fds=descriptors,
                check=False,
                **self.programs.as_user(),
            )
        if made.returncode:
            raise RuntimeError(
                f"role and database could not be created: {made.stderr.decode(errors='replace').strip()[-300:]}"
            )

    def lives(self) -> bool:
        """Whether the server's process runs."""
        if self.child is not None and self.child.poll() is not None:
            return False
        return serves(self.pid, self.data)

    def down(self) -> None:
        """Stop the server: with PostgreSQL's fast shutdown, then an immediate one, then SIGKILL."""
        for number, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 2.0), (signal.SIGKILL, 2.0)):
            running = postmaster_of(self.data)
            pid = self.child.pid if self.child is not None and self.child.poll() is None else running and running[0]
            if not pid:
                return
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                # The signal is sent repeatedly, because a server that is just starting ignores the first signals.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                for _ in range(20):
                    if (self.child is None or self.child.poll() is not None) and not serves(pid, self.data):
                        return
                    time.sleep(0.01)

    def _launch(self) -> None:
        log = self.data / "log"
        if log.exists() and log.stat().st_size > LOG_BYTES:
            os.replace(log, self.data / "log.old")
        environment = dict(os.environ)
        stale = self._stale_pid()
        if stale is not None:
            # With this variable, PostgreSQL treats a postmaster.pid with this number as outdated, and continues with its other checks. The variable exists
            # for pg_ctl, which sets it to the process id of its own parent: after a reboot, postmaster.pid may contain the same number.
            environment["PG_GRANDPARENT_PID"] = str(stale)
        with self.programs.place(self.data) as (where, descriptors), open(log, "ab") as output:
            self.programs.hand_over(log)
            quoted = (where if self.sockets is None else self.sockets).replace('"', '""')
            settings = {
                "listen_addresses": "",
                "unix_socket_directories": f'"{quoted}"',
                "unix_socket_permissions": "0700",
                "hba_file": f"{where}/ragcore_hba.conf",
                "ident_file": f"{where}/ragcore_ident.conf",
            }
            self.child = subprocess.Popen(
                [
                    str(self.programs.binaries / "postgres"),
                    "-D",
                    where,
                    *(f"--{name}={value}" for name, value in settings.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment,
                pass_fds=descriptors,
                start_new_session=True,
                **self.programs.as_user(),
            )

    def _stale_pid(self) -> int | None:
        """Return the number in postmaster.pid if it belongs to a process that is not a server of this folder; else None."""
        try:
            pid = int((self.data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
        except (OSError, ValueError, IndexError):
            return None
        return None if serves(pid, self.data) else pid

    def _end_of_log(self) -> str:
        try:
            return (self.data / "log").read_text(encoding="utf-8", errors="replace").strip()[-500:]
        except OSError:
            return "(no log)"


def say(message: dict[str, Any]) -> None:
    """Write one line to the process that started this one, if it still runs; then redirect the standard streams to /dev/null."""
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def main() -> None:
    """Leave the caller's session and become the supervisor."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    Supervisor(json.loads(sys.argv[1])).run()


if __name__ == "__main__":
    main()
