"""`TableStore` on tables that LangChain and LlamaIndex have made themselves: the reading half of the contract."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import asyncpg
import pytest

from tests.conftest import outside
from tests.support.environments import InstallError, environment

from .contract import DIMENSION
from .tables import LANGCHAIN, LLAMA_INDEX, FilledTable
from .test_tables import TestLangChain as ReadLangChain
from .test_tables import TestLlamaIndex as ReadLlamaIndex

pytestmark = [pytest.mark.system, pytest.mark.thorough, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).parents[1] / "support" / "foreign_tables.py"
# What the documentation of TableStore recommends for LangChain's table, and a second collection that no search may read.
LANGCHAIN_OWN = replace(
    LANGCHAIN,
    create="""
        insert into langchain_pg_collection (uuid, name)
            values ('00000000-0000-0000-0000-000000000001', 'mine'), ('00000000-0000-0000-0000-000000000002', 'other');
        create index on langchain_pg_embedding using hnsw ((embedding::vector({dimension})) vector_cosine_ops);
        grant select on langchain_pg_embedding to ragcore;
    """,
)
LLAMA_INDEX_OWN = replace(LLAMA_INDEX, create="grant select on data_documents to ragcore")


def made_by(library: str, server: tuple[str, str]) -> Iterator[str]:
    """Yield the name of a database with the library's table. Skip if the library can't be installed."""
    try:
        python = environment("tables", library, variables=outside())
    except InstallError as error:
        pytest.skip(f"THE TABLE OF {library.upper()} WAS NOT TESTED: the library can't be installed: {error}")
    name = f"made_{os.urandom(4).hex()}"

    async def run(*statements: str, database: str | None = None) -> None:
        admin = await asyncpg.connect(
            server[1] if database is None else server[1].replace("/ragcore?", f"/{database}?")
        )
        for statement in statements:
            await admin.execute(statement)
        await admin.close()

    anyio.run(run, f"create database {name}")
    try:
        dsn = server[1].replace("/ragcore?", f"/{name}?")
        done = subprocess.run(
            [str(python), str(SCRIPT), library, dsn, str(DIMENSION)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=outside(),
        )
        assert done.returncode == 0, done.stderr
        yield name
    finally:
        anyio.run(run, f"drop database {name} with (force)")


@pytest.fixture(scope="module")
def langchains(server: tuple[str, str]) -> Iterator[str]:
    yield from made_by("langchain", server)


@pytest.fixture(scope="module")
def llama_indexes(server: tuple[str, str]) -> Iterator[str]:
    yield from made_by("llama-index", server)


async def copied(server: tuple[str, str], template: str, shape: object) -> AsyncIterator[FilledTable]:
    """Yield a store on a copy of the database."""
    assert isinstance(shape, type(LANGCHAIN))
    name = f"test_{os.urandom(6).hex()}"
    admin = await asyncpg.connect(server[1])
    await admin.execute(f"create database {name} template {template}")
    plain, owner = (dsn.replace("/ragcore?", f"/{name}?") for dsn in server)
    try:
        connection = await asyncpg.connect(owner)
        await connection.execute(shape.create.replace("{dimension}", str(DIMENSION)))
        await connection.close()
        async with FilledTable(plain, owner, shape) as made:
            yield made
    finally:
        with anyio.CancelScope(shield=True):
            await admin.execute(f"drop database {name} with (force)")
            await admin.close()


class TestLangChainsOwn(ReadLangChain):
    shape = LANGCHAIN_OWN

    @pytest.fixture
    async def store(self, server: tuple[str, str], langchains: str) -> AsyncIterator[FilledTable]:
        async for made in copied(server, langchains, self.shape):
            yield made


class TestLlamaIndexesOwn(ReadLlamaIndex):
    shape = LLAMA_INDEX_OWN

    @pytest.fixture
    async def store(self, server: tuple[str, str], llama_indexes: str) -> AsyncIterator[FilledTable]:
        async for made in copied(server, llama_indexes, self.shape):
            yield made


COLUMNS = """
    select table_name, column_name, udt_name, is_nullable, is_generated from information_schema.columns
    where table_schema = 'public' and table_name in ('langchain_pg_embedding', 'data_documents') order by 1, 2
"""


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("library", "shape"), [("langchains", LANGCHAIN), ("llama_indexes", LLAMA_INDEX)])
async def test_the_copies_of_other_tests_have_the_same_columns(
    request: pytest.FixtureRequest, server: tuple[str, str], database: tuple[str, str], library: str, shape: object
) -> None:
    assert isinstance(shape, type(LANGCHAIN))
    copy = await asyncpg.connect(database[1])
    await copy.execute("create extension vector")
    await copy.execute(shape.create.replace("{dimension}", str(DIMENSION)))
    made = await asyncpg.connect(server[1].replace("/ragcore?", f"/{request.getfixturevalue(library)}?"))
    assert [tuple(row) for row in await copy.fetch(COLUMNS)] == [tuple(row) for row in await made.fetch(COLUMNS)]
    await copy.close()
    await made.close()
