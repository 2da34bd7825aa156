"""Fixtures for all tests: both backends, a guard against blocking calls, and the embedded PostgreSQL."""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import certifi
import hypothesis
import pytest

from .leftovers import servers_left
from .scratch import keep_files_in_memory

keep_files_in_memory()

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"

# Without this, tiktoken would fetch its ranks from the network. Now it reads them from this folder, or reports that they are missing.
RANKS = SHARED / "tiktoken"
os.environ["TIKTOKEN_CACHE_DIR"] = str(RANKS) if RANKS.is_dir() else tempfile.mkdtemp()
# Each HTTP client reads the certificates of all authorities, which takes 26 ms of CPU. No test uses them, so one certificate is enough.
first = certifi.contents().partition("-----END CERTIFICATE-----")[0]
AUTHORITIES = Path(tempfile.mkdtemp(prefix="ragcore-tests-")) / "one.pem"
AUTHORITIES.write_text(first[first.index("-----BEGIN") :] + "-----END CERTIFICATE-----\n")
atexit.register(shutil.rmtree, AUTHORITIES.parent, ignore_errors=True)
os.environ["SSL_CERT_FILE"] = str(AUTHORITIES)
# Tests must not depend on the developer's environment.
for name in [n for n in os.environ if n.startswith(("RAGCORE_", "OPENAI_", "PG")) or n == "DATABASE_URL"]:
    del os.environ[name]

pytest_plugins = ["ragcore.testing.fixtures"]

# An example has no deadline, because its time depends on the machine.
hypothesis.settings.register_profile("ragcore", deadline=None, max_examples=30)  # for `make check` and `make test`
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2_000)  # for `make test-all`
hypothesis.settings.register_profile(
    "mutation", deadline=None, max_examples=15
)  # for `make mutants`, which traces each call
hypothesis.settings.load_profile("ragcore")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave the collected tests out of later garbage collections, which took a tenth of the whole time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Make the run fail if a server is left behind."""
    left = servers_left()
    if left:
        print(f"\nservers were left behind: {left}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def outside() -> dict[str, str]:
    """Return the environment for programs that use the network, such as pip. It has the certificates of all authorities."""
    return {name: value for name, value in os.environ.items() if name != "SSL_CERT_FILE"}


def shared(name: str) -> Path:
    """Return a folder of the shared data; skip the test if it does not exist."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no shared data {name!r} on this machine: {folder} does not exist")
    return folder


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _nothing_blocks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Make a test fail if its code blocks the event loop."""
    from blockbuster import blockbuster_ctx

    # Coverage takes a lock in every function, so blocking calls can't be checked.
    counting = "coverage" in sys.modules and sys.modules["coverage"].Coverage.current() is not None
    if counting or request.node.get_closest_marker("blocking_allowed"):
        yield
        return
    with blockbuster_ctx("ragcore") as blockbuster:
        # Imports read files, and an import inside a test runs on its event loop.
        for function in blockbuster.functions.values():
            function.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")
            # asyncpg looks for a password file when it connects.
            function.can_block_in(
                "asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args", "_read_password_from_pgpass"}
            )
            # /proc is in memory, so reading it never waits for a disk.
            function.can_block_in("ragcore/loadtest/driving/monitor.py", {"resident_mb", "cpu_seconds"})
        yield


@pytest.fixture
async def asyncpgs_noise() -> AsyncIterator[None]:
    """Ignore a future that asyncpg does not await if its connect is cancelled at a certain moment. The only effect is a line in the log."""
    loop = asyncio.get_running_loop()
    given = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "unexpected connection_lost() call" not in str(context.get("exception")):
            (given or asyncio.AbstractEventLoop.default_exception_handler)(loop, context)

    loop.set_exception_handler(handle)
    yield
    gc.collect()
    loop.set_exception_handler(given)


@pytest.fixture(scope="session")
def server() -> Iterator[tuple[str, str]]:
    """Return (DSN of the plain role, DSN of the owner) of an embedded PostgreSQL for the whole run."""
    from ragcore.store import embedded
    from tests.support.servers import without_fsync

    folder = Path(tempfile.mkdtemp(prefix="ragcore-tests-"))
    running = embedded.start(folder)
    try:
        asyncio.run(without_fsync(running.owner_dsn.reveal()))
        yield running.dsn.reveal(), running.owner_dsn.reveal()
    finally:
        embedded.stop(folder)


@pytest.fixture
async def database(server: tuple[str, str], anyio_backend_name: str) -> AsyncIterator[tuple[str, str]]:
    """Return the same two DSNs for a new, empty database of this test. It is not migrated."""
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncpg runs on asyncio")
    async with _copy_of("template1", server) as made:
        yield made


@pytest.fixture
async def migrated(server: tuple[str, str], template: str, anyio_backend_name: str) -> AsyncIterator[tuple[str, str]]:
    """Return the same two DSNs for a new database of this test, with an empty collection for the fake embedder."""
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncpg runs on asyncio")
    async with _copy_of(template, server) as made:
        yield made


@pytest.fixture(scope="session")
def template(server: tuple[str, str]) -> str:
    """Return the name of a migrated database. To copy it takes a third of the time of a migration."""
    from ragcore.store import migrate
    from tests.support.servers import DIMENSION, ROLE

    async def make() -> None:
        import asyncpg

        owner = await asyncpg.connect(server[1])
        await owner.execute("create database migrated")
        await owner.close()
        await migrate(server[1].replace("/ragcore?", "/migrated?"), model="fake", dimension=DIMENSION, role=ROLE)

    asyncio.run(make())
    return "migrated"


@asynccontextmanager
async def _copy_of(template: str, server: tuple[str, str]) -> AsyncIterator[tuple[str, str]]:
    import asyncpg

    name = f"test_{os.urandom(6).hex()}"
    admin = await asyncpg.connect(server[1])
    await admin.execute(f"create database {name} template {template} strategy file_copy")
    plain, owner = (dsn.replace("/ragcore?", f"/{name}?") for dsn in server)
    try:
        yield plain, owner
    finally:
        with anyio.CancelScope(shield=True):
            await admin.execute(f"drop database {name} with (force)")
            await admin.close()


def tasks_left() -> list[str]:
    """Return the names of ragcore's tasks on the running asyncio loop, except the current task."""
    current = asyncio.current_task()
    return [task.get_name() for task in asyncio.all_tasks() if task is not current and "ragcore" in task.get_name()]
