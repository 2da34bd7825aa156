"""The first release and this one use one database under load, during an upgrade, a rollback and a contraction. No call fails, and no row is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import asyncpg
import pytest

from ragcore import ConfigurationError, Document, PgVectorStore, Retriever, StoreError
from ragcore.ingest import Ingestor
from ragcore.store import migrate
from ragcore.store.postgres import connection as connection_module
from ragcore.store.postgres import schema
from ragcore.store.postgres.connection import again_after_deadlocks, connect, transaction
from ragcore.store.postgres.dsn import parse
from ragcore.testing import FakeEmbedder

from ..conftest import ROOT
from .contract import DIMENSION

pytestmark = [
    pytest.mark.system,
    pytest.mark.anyio,
    pytest.mark.blocking_allowed,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
]
# The last commit of the first release.
FIRST_RELEASE = "8458741"
CLIENT = """
    import asyncio, json, sys, time
    from ragcore import Document, Ingestor, PgVectorStore, RagcoreError, Retriever
    from ragcore.testing import FakeEmbedder

    async def main(dsn, name):
        embedder = FakeEmbedder(dimension=64)
        asked, failed, number, retriever = 0, [], 0, Retriever(store=PgVectorStore(dsn, pool_size=3), embedder=embedder)
        async with retriever:
            ingestor = Ingestor(embedder=embedder, store=retriever.store)
            stop = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline))
            print("ready", flush=True)
            while not stop.done():
                number += 1
                try:
                    await ingestor.add([Document(f"{name}{number}", f"the deductible of {name} number {number} is high")], tenant="a")
                    for mode in ("vector", "text", "hybrid"):
                        found = await retriever.retrieve(f"deductible of {name} number {number}", tenant="a", mode=mode, top_k=200)
                        if f"{name}{number}" not in [passage.document_id for passage in found.passages]:
                            failed.append(f"{mode} misses {name}{number}")
                    if number % 5 == 0 and await retriever.store.delete([f"{name}{number}"], tenant="a") != 1:
                        failed.append(f"{name}{number} was not there to delete")
                    asked += 1
                except RagcoreError as error:
                    failed.append(f"{type(error).__name__}: {error}")
        print(json.dumps({"asked": asked, "failed": failed[:5], "failures": len(failed), "number": number}), flush=True)

    asyncio.run(main(*sys.argv[1:]))
"""
MIGRATE = """
    import asyncio, sys
    from ragcore.store import migrate
    asyncio.run(migrate(sys.argv[1], model="fake", dimension=64, role="ragcore"))
"""


@pytest.fixture(scope="module")
def first_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of the first release, from this repository's history."""
    folder = tmp_path_factory.mktemp("first-release")
    archive = subprocess.run(["git", "archive", FIRST_RELEASE, "src"], cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.skip(f"the history of this checkout does not reach the first release ({FIRST_RELEASE}): clone it whole")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return folder / "src"


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Ends the processes of a test that failed, so that they don't disturb the next one."""
    yield
    while STARTED:
        with STARTED.pop() as process:
            process.kill()


class Client:
    """A process that asks and writes until it gets the command to stop."""

    def __init__(self, source: Path, dsn: str, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CLIENT), dsn, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(source)},
        )
        STARTED.append(self._process)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def stop(self) -> int:
        """Stop the process; check that nothing failed; return the number of documents that it tried to write."""
        out, _ = self._process.communicate("\n", timeout=60)
        said = json.loads(out)
        assert said["failures"] == 0, said
        assert said["asked"] > 5
        return int(said["number"])


@pytest.fixture
async def upgraded(database: tuple[str, str], first_release: Path) -> tuple[str, str]:
    """A database of the first release."""
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MIGRATE), database[1]],
        check=True,
        env={**os.environ, "PYTHONPATH": str(first_release)},
    )
    return database


@pytest.mark.parametrize("deadlocks", [1, 2])
async def test_a_migration_that_meets_deadlocks_begins_again(
    database: tuple[str, str], monkeypatch: pytest.MonkeyPatch, deadlocks: int
) -> None:
    plain, owner = database
    step, ended = schema._migrate, 0

    async def ends_in_a_deadlock(connection: Any, *args: Any, **options: Any) -> None:
        nonlocal ended
        await step(connection, *args, **options)
        if ended < deadlocks:
            ended += 1
            await connection.execute("do $$ begin raise exception using errcode = '40P01'; end $$")

    monkeypatch.setattr(schema, "_migrate", ends_in_a_deadlock)
    monkeypatch.setattr(connection_module, "MOST_ATTEMPTS", 2)
    if deadlocks == 2:  # each attempt ended in a deadlock
        with pytest.raises(StoreError, match="40P01"):
            await migrate(owner, model="fake", dimension=DIMENSION, role="ragcore")
        return
    await migrate(owner, model="fake", dimension=DIMENSION, role="ragcore")
    async with PgVectorStore(plain) as store:
        assert (await store.inspect()).has_schema


async def stopped(client: Client) -> int:
    return await anyio.to_thread.run_sync(client.stop)


async def test_upgraded_rolled_back_and_contracted_under_load(upgraded: tuple[str, str], first_release: Path) -> None:
    plain, owner = upgraded
    this = ROOT / "src"
    old = Client(first_release, plain, "old")
    await anyio.sleep(1.0)
    await migrate(owner, model="fake", dimension=DIMENSION, role="ragcore")
    new = Client(this, plain, "new")
    await anyio.sleep(1.5)
    counts = {"old": await stopped(old), "new": await stopped(new)}
    # Rollback: only the first release runs, on the migrated schema. Its own migration changes nothing.
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MIGRATE), owner],
        check=True,
        env={**os.environ, "PYTHONPATH": str(first_release)},
    )
    back = Client(first_release, plain, "back")
    await anyio.sleep(1.0)
    counts["back"] = await stopped(back)
    # This release is rolled out again, and the schema contracted.
    again = Client(this, plain, "again")
    await anyio.sleep(0.5)
    await migrate(owner, model="fake", dimension=DIMENSION, role="ragcore", contract=True)
    await anyio.sleep(0.5)
    counts["again"] = await stopped(again)
    expected = {f"{name}{n}" for name, count in counts.items() for n in range(1, count + 1) if n % 5}
    async with PgVectorStore(plain) as store:
        assert set(await store.hashes(None, tenant="a")) == expected
        found = await store.inspect()
        assert (found.contracted, found.text_is_ready, found.findings()) == (True, True, [])
    connection = await asyncpg.connect(owner)
    orphans = "select count(*) from ragcore.posting as p where not exists (select from ragcore.chunk where tenant = p.tenant and id = p.chunk_id)"
    unworded = "select count(*) from ragcore.chunk as c where not exists (select from ragcore.posting where tenant = c.tenant and chunk_id = c.id)"
    assert await connection.fetchval(orphans) == 0
    assert await connection.fetchval(unworded) == 0
    await connection.close()


async def test_before_the_contraction_a_missing_tenant_returns_no_rows(upgraded: tuple[str, str]) -> None:
    plain, owner = upgraded
    await migrate(owner, model="fake", dimension=DIMENSION, role="ragcore")
    async with PgVectorStore(plain) as store:
        found = await store.inspect()
        assert not found.contracted
        assert ["migrate --contract" in finding.message for finding in found.findings()] == [True]
        assert found.unsafe == ()
        assert await store.recorded_embed_text() == "text"  # the choice of the first release
        embedder = FakeEmbedder(dimension=DIMENSION)
        async with embedder:
            await Ingestor(embedder=embedder, store=store).add([Document("d", "text")], tenant="a")
    connection = await asyncpg.connect(plain)
    assert await connection.fetch("select * from ragcore.chunk") == []
    await migrate(owner, model="fake", dimension=DIMENSION, role="ragcore", contract=True)
    with pytest.raises(asyncpg.PostgresError, match=r"ragcore\.tenant is not set"):
        await connection.fetch("select * from ragcore.chunk")
    await connection.close()


async def test_chunks_of_the_first_release_are_prepared_in_slices_and_found_by_their_characters(
    upgraded: tuple[str, str], first_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, owner = upgraded
    script = """
        import asyncio, sys
        from ragcore import Document, Ingestor, PgVectorStore
        from ragcore.testing import FakeEmbedder

        async def main():
            embedder = FakeEmbedder(dimension=64)
            async with embedder, PgVectorStore(sys.argv[1]) as store:
                for tenant in ("a", "b"):
                    documents = [Document(f"d{n}", f"文書 {n} の免責金額は百ドル。 word{n} deductible") for n in range(50)]
                    await Ingestor(embedder=embedder, store=store).add(documents, tenant=tenant)

        asyncio.run(main())
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), plain],
        check=True,
        env={**os.environ, "PYTHONPATH": str(first_release)},
    )
    monkeypatch.setattr("ragcore.store.postgres.schema.PREPARED_AT_ONCE", 30)
    await migrate(owner, model="fake", dimension=DIMENSION, role="ragcore")
    await migrate(owner, model="fake", dimension=DIMENSION, role="ragcore")
    async with PgVectorStore(plain) as store, Retriever(store=store, mode="text") as retriever:
        for question in ("word7", "免責金額"):
            found = await retriever.retrieve(question, tenant="a", top_k=60)
            assert "d7" in [passage.document_id for passage in found.passages]
        assert len((await retriever.retrieve("免責金額", tenant="b", top_k=60)).passages) == 50
    connection = await asyncpg.connect(owner)
    doubled = (
        "select count(*) from (select from ragcore.posting group by tenant, chunk_id, lexeme having count(*) > 1) as d"
    )
    assert await connection.fetchval(doubled) == 0
    await connection.close()


async def test_an_upgraded_schema_refuses_an_embedder_of_another_model(upgraded: tuple[str, str]) -> None:
    await migrate(upgraded[1], model="fake", dimension=DIMENSION, role="ragcore")
    embedder = FakeEmbedder(dimension=DIMENSION)
    embedder.model = "other"
    async with embedder, PgVectorStore(upgraded[0]) as store:
        with pytest.raises(ConfigurationError, match="holds vectors of fake"):
            await Ingestor(embedder=embedder, store=store).add([Document("d", "text")], tenant="a")


async def test_transactions_that_wait_for_each_other_both_come_to_their_end(database: tuple[str, str]) -> None:
    ended: list[int] = []
    tried = 0
    both = anyio.Event()

    async def locked(first: int, second: int) -> None:
        async def step() -> int:
            nonlocal tried
            async with connect(parse(database[1])) as connection, transaction(connection):
                await connection.execute("select pg_advisory_xact_lock($1)", first)
                tried += 1
                if tried == 2:
                    both.set()
                await both.wait()
                await connection.execute("select pg_advisory_xact_lock($1)", second)
            return first

        ended.append(await again_after_deadlocks(step))

    async with anyio.create_task_group() as group:
        group.start_soon(locked, 1, 2)
        group.start_soon(locked, 2, 1)
    assert sorted(ended) == [1, 2]
    assert tried > 2
