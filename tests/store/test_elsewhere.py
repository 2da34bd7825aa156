"""PostgreSQL in other setups: another version, a real PgBouncer, TLS, a standby, rules in pg_hba.conf."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import asyncpg
import pytest

from ragcore import ConfigurationError, PgVectorStore, RagcoreError, StoreError
from ragcore.resilience import Policy
from ragcore.store import embedded, migrate
from ragcore.store.embedded.cluster import Cluster
from ragcore.store.postgres.dsn import parse
from ragcore.store.postgres.translate import translate
from tests.pace import in_time
from tests.support.pooler import free_port, pgbouncer

from .contract import DIMENSION, PLAN, StoreContract, query

pytestmark = [pytest.mark.system, pytest.mark.blocking_allowed]
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture(scope="module")
def reachable() -> Iterator[Path]:
    """A folder that the server's own user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="ragcore-elsewhere-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def sixteen(reachable: Path) -> Iterator[tuple[str, str]]:
    """Return the DSNs (plain, owner) of a PostgreSQL 16."""
    running = embedded.start(reachable / "16", version=16)
    yield running.dsn.reveal(), running.owner_dsn.reveal()
    embedded.stop(reachable / "16")


async def emptied(owner_dsn: str) -> None:
    """Create the schema again. A database for each test is not used, because PgBouncer would open a pool for each."""
    owner = await asyncpg.connect(owner_dsn)
    await owner.execute("drop schema if exists ragcore cascade")
    await owner.close()
    await migrate(owner_dsn, model="fake", dimension=DIMENSION, role="ragcore")


@pytest.mark.thorough  # `TestBouncer` runs the contract on the same server
class TestSixteen(StoreContract):
    """The contract on PostgreSQL 16."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def store(self, sixteen: tuple[str, str]) -> AsyncIterator[PgVectorStore]:
        await emptied(sixteen[1])
        async with PgVectorStore(sixteen[0], exact_rows=0) as made:
            yield made


@contextmanager
def pooled(reachable: Path, folder: Path, extra: str = "") -> Iterator[int]:
    """Run a PgBouncer in front of PostgreSQL 16. It closes idle clients after 2 s."""
    server, login = f"host={reachable}/16/postgres port=5432", Cluster(reachable / "16").login
    settings = f"default_pool_size = 3\nclient_idle_timeout = 2\n{extra}"
    with pgbouncer(folder, login, server=server, extra=settings) as port:
        yield port


@pytest.fixture(scope="module")
def bouncer(reachable: Path, sixteen: tuple[str, str]) -> Iterator[int]:
    folder = reachable / "bouncer"
    folder.mkdir()
    with pooled(reachable, folder) as port:
        yield port


class TestBouncer(StoreContract):
    """The contract behind a real PgBouncer in transaction mode, through the HNSW index for tenants of any size."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def store(self, sixteen: tuple[str, str], bouncer: int) -> AsyncIterator[PgVectorStore]:
        await emptied(sixteen[1])
        dsn = f"postgresql://ragcore@127.0.0.1:{bouncer}/ragcore?pgbouncer=true"
        async with PgVectorStore(dsn, exact_rows=0) as made:
            yield made


@on_asyncio
@pytest.mark.anyio
async def test_a_pooler_that_closes_idle_clients_costs_no_call(sixteen: tuple[str, str], bouncer: int) -> None:
    await emptied(sixteen[1])
    dsn = f"postgresql://ragcore@127.0.0.1:{bouncer}/ragcore?pgbouncer=true"
    async with PgVectorStore(dsn, pool_size=4) as store:
        await store.upsert([PLAN], tenant="a")
        await anyio.sleep(3.2)
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(store.search, query("deductible"))
        assert store.policy.snapshot()["breaker"]["failure"] == 0


@on_asyncio
@pytest.mark.anyio
async def test_errors_of_pgbouncer_reach_the_caller(bouncer: int) -> None:
    for database, kind, said in (
        ("missing", ConfigurationError, "no such database"),
        ("nowhere", StoreError, "refused|connect|failed"),
    ):
        dsn = f"postgresql://ragcore:c4n4ry@127.0.0.1:{bouncer}/{database}?pgbouncer=true"
        async with PgVectorStore(dsn, policy=Policy(retry=False)) as store:
            with pytest.raises(kind, match=said) as caught:
                await store.search(query("q"))
            assert "c4n4ry" not in str(caught.value)


@dataclass(frozen=True)
class Tls:
    """The port of a PgBouncer that requires TLS, and its root certificate."""

    port: int
    root: Path


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Create a key and a self-signed certificate; return their paths."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on this machine, so no certificate can be made")
    key, made = folder / f"{name}.key", folder / f"{name}.crt"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run(
        [*command, "-addext", f"subjectAltName=DNS:{name}", "-keyout", key, "-out", made],
        check=True,
        capture_output=True,
    )
    key.chmod(0o644)
    return key, made


@pytest.fixture(scope="module")
def tls(reachable: Path, sixteen: tuple[str, str]) -> Iterator[Tls]:
    folder = reachable / "tls"
    folder.mkdir()
    key, root = certificate(folder, "localhost")
    extra = f"client_tls_sslmode = require\nclient_tls_key_file = {key}\nclient_tls_cert_file = {root}"
    with pooled(reachable, folder, extra) as port:
        yield Tls(port, root)


@on_asyncio
@pytest.mark.anyio
async def test_tls_is_used_and_reported_as_the_dsn_asks(sixteen: tuple[str, str], tls: Tls) -> None:
    await emptied(sixteen[1])
    base = f"postgresql://ragcore@localhost:{tls.port}/ragcore?pgbouncer=true"
    for options, verified in (
        ("", False),
        ("&sslmode=require", False),
        (f"&sslmode=verify-full&sslrootcert={tls.root}", True),
        ("&sslmode=require&channel_binding=require", False),
    ):
        async with PgVectorStore(base + options) as store:
            await store.upsert([PLAN], tenant="a")
            found = await store.inspect()
            assert (found.encrypted, found.verified) == (True, verified), options
            assert ["channel_binding" in finding.message for finding in found.findings()] == [True] * (
                "binding" in options
            )


@on_asyncio
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("host", "options", "said"),
    [
        ("localhost", "&sslmode=disable", "SSL required"),
        ("127.0.0.1", "&sslmode=verify-full&sslrootcert={root}", "certificate.*can't be verified"),
        ("localhost", "&sslmode=verify-full&sslrootcert={other}", "certificate.*can't be verified"),
        ("localhost", "&sslrootcert=system", "certificate.*can't be verified"),
    ],
)
async def test_a_refused_connection_reports_the_reason(
    tls: Tls, tmp_path: Path, host: str, options: str, said: str
) -> None:
    _, other = certificate(tmp_path, "other")
    base = f"postgresql://ragcore:c4n4ry@{host}:{tls.port}/ragcore?pgbouncer=true"
    async with PgVectorStore(base + options.format(root=tls.root, other=other)) as store:
        began = anyio.current_time()
        with pytest.raises(ConfigurationError, match=said) as caught:
            await store.search(query("q"))
        assert in_time(anyio.current_time() - began, 1.0)
    assert "c4n4ry" not in str(caught.value)


@on_asyncio
@pytest.mark.anyio
async def test_a_server_without_tls_is_reported_if_the_dsn_requires_tls(bouncer: int) -> None:
    async with PgVectorStore(f"postgresql://ragcore@127.0.0.1:{bouncer}/ragcore?sslmode=require") as store:
        with pytest.raises(ConfigurationError, match="offers no encryption"):
            await store.search(query("q"))


@contextmanager
def raw_server(folder: Path, *, standby: bool = False) -> Iterator[int]:
    """Run a server that listens on TCP, started directly from its binaries; yield its port."""
    cluster = Cluster(folder)
    port = free_port()
    rules = cluster.data / "test_hba.conf"
    rules.write_text("host all all 127.0.0.1/32 trust\n")
    if standby:
        (cluster.data / "standby.signal").touch()
    for path in (rules, cluster.data / "standby.signal"):
        if path.exists() and cluster.login.uid is not None:
            os.chown(path, cluster.login.uid, cluster.login.gid or -1)
    settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "hba_file": rules}
    process = subprocess.Popen(
        [cluster.binaries / "postgres", "-D", cluster.data, *(f"--{name}={value}" for name, value in settings.items())],
        user=cluster.login.uid,
        group=cluster.login.gid,
        extra_groups=[] if cluster.login.uid is not None else None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 30
    while _status(cluster.data) not in ("ready", "standby"):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.02)
    try:
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def _status(data: Path) -> str:
    try:
        return (data / "postmaster.pid").read_text().splitlines()[7].strip()
    except (OSError, IndexError):
        return ""


@on_asyncio
@pytest.mark.anyio
async def test_a_standby_is_searched_and_not_written_to_and_the_primary_is_found(reachable: Path) -> None:
    for name in ("primary", "standby"):
        running = embedded.start(reachable / name)
        await migrate(running.owner_dsn, model="fake", dimension=DIMENSION, role="ragcore")
        async with PgVectorStore(running.dsn) as store:
            await store.upsert([PLAN], tenant="a")
        embedded.stop(reachable / name)
    with raw_server(reachable / "primary") as primary, raw_server(reachable / "standby", standby=True) as standby:
        async with PgVectorStore(f"postgresql://ragcore@127.0.0.1:{standby}/ragcore") as store:
            for mode in ("vector", "text", "hybrid"):
                assert (await store.search(query("deductible", mode=mode)))[0].chunk_id == "plan#0"
            for write in (lambda: store.upsert([PLAN], tenant="a"), lambda: store.delete(["plan"], tenant="a")):
                with pytest.raises(ConfigurationError, match="read-only.*target_session_attrs=read-write"):
                    await write()
            assert any("standby" in finding.message for finding in (await store.inspect()).findings())
        both = f"postgresql://ragcore@127.0.0.1:{standby},127.0.0.1:{primary}/ragcore?target_session_attrs="
        async with PgVectorStore(both + "read-write") as store:
            await store.upsert([PLAN], tenant="a")
            assert not (await store.inspect()).in_recovery
        async with PgVectorStore(both + "standby") as store:
            assert (await store.inspect()).in_recovery
        alone = f"postgresql://ragcore@127.0.0.1:{standby}/ragcore?target_session_attrs=primary"
        async with PgVectorStore(alone, policy=Policy(retry=False)) as store:
            with pytest.raises(RagcoreError, match="target_session_attrs"):
                await store.search(query("q"))


def test_errors_of_pg_hba_rules_reach_the_caller() -> None:
    """The test uses sslmode=disable although pg_hba.conf has only a hostssl rule."""
    words = 'no pg_hba.conf entry for host "10.0.0.7", user "u", database "db", no encryption'
    error = asyncpg.InvalidAuthorizationSpecificationError(words)
    ours = translate(error, parse("postgresql://u:c4n4ry@h/db"), stage="search")
    assert isinstance(ours, ConfigurationError)
    assert words in str(ours)
    assert "sslmode" in str(ours)
    assert "c4n4ry" not in str(ours)
