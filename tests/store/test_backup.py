"""Dumps and restores with the commands of the manual: all data comes back, and tenants stay isolated."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import asyncpg
import pytest

from ragcore import PgVectorStore, RagcoreError
from ragcore.store import embedded, migrate
from ragcore.store.embedded.cluster import Cluster
from ragcore.testing import OpenAIServer
from ragcore.types import Mode

from .contract import DIMENSION, LETTER, OLD, PLAN, query
from .contract import embedded as document

pytestmark = [
    pytest.mark.system,
    pytest.mark.blocking_allowed,
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
]

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "back_up_and_restore.md").read_text()
PROGRAMS = ("pg_dump", "pg_dumpall", "pg_restore", "psql", "createdb")
QUESTIONS = ("deductible", "specialist visit", "glasses", "dental cleaning")
MODES: tuple[Mode, ...] = ("vector", "text", "hybrid")
ERASED = document("erased", "zqerased is gone for good")


def blocks(heading: str, kind: str = "sh") -> list[str]:
    """Return the code blocks below a heading of the manual, without the addresses, because the test sets other addresses."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert section is not None, heading
    found = re.findall(rf"^```{kind}\n(.*?)^```", section[1], re.DOTALL | re.MULTILINE)
    return ["\n".join(line for line in block.splitlines() if not line.startswith("export ")) for block in found]


ROLE = blocks("Create a role for backups", "sql")[0]
WHOLE, PLAIN, ONE = blocks("Dump the database")
MAKE, RESTORE, RESTORE_PLAIN, RESTORE_ONE = blocks("Restore into a new database")
(ELSEWHERE,) = blocks("Restore on a new server")
(CHECK,) = blocks("Check the restored database")


@dataclass(frozen=True)
class Server:
    """A separate server, since roles belong to all databases of a server."""

    folder: Path

    def dsn(self, user: str, database: str) -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}/postgres"

    async def run(self, *statements: str, database: str = "postgres") -> None:
        connection = await asyncpg.connect(self.dsn("postgres", database))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    def programs(self) -> Path:
        """Return the folder of PostgreSQL's programs in the server's version."""
        folder = Cluster(self.folder).binaries
        missing = [name for name in PROGRAMS if not (folder / name).exists()]
        if missing:
            pytest.skip(f"{', '.join(missing)} of this PostgreSQL are not in {folder}: dumps are not tested")
        return folder


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that the server's own user may enter."""
    made = Path(tempfile.mkdtemp(prefix="ragcore-backup-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def started(folder: Path) -> Iterator[Server]:
    embedded.start(folder)
    try:
        yield Server(folder)
    finally:
        embedded.stop(folder)


@pytest.fixture(scope="module")
def old(folder: Path) -> Iterator[Server]:
    yield from started(folder / "old")


@pytest.fixture(scope="module")
def new(folder: Path) -> Iterator[Server]:
    """A server without the roles."""
    yield from started(folder / "new")


@dataclass(frozen=True)
class Backups:
    """Runs the manual's commands in a folder."""

    old: Server
    new: Server
    folder: Path

    def __call__(self, commands: str, **environment: str) -> subprocess.CompletedProcess[str]:
        addresses = {
            "BACKUP_DSN": self.old.dsn("backup", "chat"),
            "ADMIN_DSN": self.old.dsn("postgres", "postgres"),
            "RESTORED_DSN": self.old.dsn("claims_owner", "chat_restored"),
            "NEW_ADMIN_DSN": self.new.dsn("postgres", "postgres"),
            "OWNER_DSN": self.old.dsn("claims_owner", "chat"),
        }
        path = os.pathsep.join([str(self.old.programs()), str(Path(sys.executable).parent), os.environ["PATH"]])
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            env={**os.environ, **addresses, "PATH": path, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def succeed(self, commands: str) -> None:
        done = self(commands)
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()


@pytest.fixture
async def backups(old: Server, new: Server, tmp_path: Path) -> AsyncIterator[Backups]:
    """Yield `Backups` with a database of two tenants on the old server, and no database on the new one."""
    made = Backups(old, new, tmp_path)
    made.old.programs()
    roles = ["create role claims_owner login", "create role app login", *ROLE.rstrip().rstrip(";").split(";\n")]
    await old.run(*roles, "create database chat owner claims_owner")
    await old.run("create extension vector", database="chat")
    await migrate(old.dsn("claims_owner", "chat"), model="fake", dimension=DIMENSION, role="app")
    async with PgVectorStore(old.dsn("app", "chat")) as store:
        await store.upsert([PLAN, OLD, ERASED], tenant="a")
        await store.upsert([LETTER], tenant="b")
        await store.delete([ERASED.document.id], tenant="a")
    yield made
    gone = [f"drop database if exists {name} with (force)" for name in ("chat", "chat_restored")]
    roles = [f"drop role if exists {role}" for role in ("app", "backup", "claims_owner")]
    for server in (old, new):
        await server.run(*gone, *roles)


CATALOGUE = {
    "tables": """
        select relname, relkind, relpersistence, relrowsecurity, relforcerowsecurity, reloptions::text, relowner::regrole::text
        from pg_class where relnamespace = $1::regnamespace and relkind in ('r', 'p', 'v', 'm', 'S')""",
    "columns": """
        select attrelid::regclass::text, attnum, attname, format_type(atttypid, atttypmod), attnotnull, attgenerated, attstattarget, attstorage,
            attcollation::regcollation::text, pg_get_expr(adbin, adrelid)
        from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum join pg_class on pg_class.oid = attrelid
        where relnamespace = $1::regnamespace and relkind = 'r' and attnum > 0 and not attisdropped""",
    "policies": """
        select tablename, policyname, permissive, roles::text, cmd, qual, with_check from pg_policies where schemaname::regnamespace = $1::regnamespace""",
    "functions": """
        select pg_get_functiondef(oid), proowner::regrole::text, prosecdef, proconfig::text from pg_proc where pronamespace = $1::regnamespace""",
    "triggers": """
        select pg_get_triggerdef(pg_trigger.oid), tgenabled from pg_trigger join pg_class on pg_class.oid = tgrelid
        where relnamespace = $1::regnamespace and not tgisinternal""",
    "indexes": "select indexdef from pg_indexes where schemaname::regnamespace = $1::regnamespace",
    "constraints": """
        select conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated from pg_constraint where connamespace = $1::regnamespace""",
    "rights": """
        select object, grantor::regrole::text, case when grantee = 0 then 'public' else grantee::regrole::text end, privilege_type, is_grantable
        from (
            select 'table ' || relname as object, coalesce(relacl, acldefault('r', relowner)) as acl
                from pg_class where relnamespace = $1::regnamespace and relkind = 'r'
            union all select 'function ' || oid::regprocedure, coalesce(proacl, acldefault('f', proowner))
                from pg_proc where pronamespace = $1::regnamespace
            union all select 'schema ' || nspname, coalesce(nspacl, acldefault('n', nspowner)) from pg_namespace where oid = $1::regnamespace
        ) as objects cross join lateral aclexplode(acl)""",
    "extension": "select extname, extversion, extnamespace::regnamespace::text from pg_extension where $1 <> '' and extname = 'vector'",
    "settings": "select name, value from ragcore.setting where $1 <> ''",
    "migrations": "select number, name, done_at::text from ragcore.migration where $1 <> ''",
    "documents": "select document::text from ragcore.document where $1 <> ''",
    "chunks": "select chunk::text from ragcore.chunk where $1 <> ''",
    "postings": "select posting::text from ragcore.posting where $1 <> ''",
}


async def catalogue(server: Server, database: str) -> dict[str, list[str]]:
    """Return the objects of the collection, as a superuser sees them."""
    connection = await asyncpg.connect(server.dsn("postgres", database))
    try:
        return {
            name: sorted(str(tuple(row)) for row in await connection.fetch(statement, "ragcore"))
            for name, statement in CATALOGUE.items()
        }
    finally:
        await connection.close()


async def found(server: Server, database: str) -> dict[tuple[str, str, Mode], list[tuple[str, str, float | None]]]:
    """Return the passages that each tenant's questions find."""
    async with PgVectorStore(server.dsn("app", database)) as store:
        return {
            (tenant, question, mode): [
                (passage.chunk_id, passage.text, passage.score)
                for passage in await store.search(query(question, tenant=tenant, mode=mode))
            ]
            for tenant in ("a", "b")
            for question in QUESTIONS
            for mode in MODES
        }


async def check(backups: Backups, server: Server, database: str) -> None:
    """Check that a database has the data of the old one, and that reads, writes and rights work."""
    assert await catalogue(server, database) == await catalogue(backups.old, "chat")
    assert await found(server, database) == await found(backups.old, "chat")
    async with PgVectorStore(server.dsn("app", database)) as store:
        assert (await store.inspect()).findings() == []
        assert (await store.count(tenant=None)).documents == 3
    before = await catalogue(server, database)
    owner = server.dsn("claims_owner", database)
    await migrate(owner, model="fake", dimension=DIMENSION, role="app")
    assert await catalogue(server, database) == before
    await check_isolation(server, database)
    async with PgVectorStore(server.dsn("app", database)) as store:  # triggers and grants work for new documents
        await store.upsert([document("new", "a helicopter is covered")], tenant="b")
        assert [one.chunk_id for one in await store.search(query("helicopter", tenant="b", mode="text"))] == ["new#0"]
        await store.delete(["new"], tenant="b")
        assert await store.search(query("helicopter", tenant="b", mode="text")) == []


async def check_isolation(server: Server, database: str) -> None:
    """Check that the application's role and the owner see only one tenant's rows, or an error, for each statement."""
    for user in ("app", "claims_owner"):
        connection = await asyncpg.connect(server.dsn(user, database))
        try:
            for table in ("document", "chunk", "posting"):
                async with connection.transaction():
                    await connection.execute("select set_config('ragcore.tenant', 'b', true)")
                    rows = await connection.fetch(f"select tenant from ragcore.{table}")
                    assert {row["tenant"] for row in rows} == {"b"}
                with pytest.raises(asyncpg.PostgresError, match=r"ragcore\.tenant is not set"):
                    await connection.fetch(f"select * from ragcore.{table}")
        finally:
            await connection.close()


async def test_a_whole_dump_comes_back_on_the_same_server(backups: Backups) -> None:
    backups.succeed(WHOLE)
    backups.succeed(f"{MAKE}\n{RESTORE}")
    await check(backups, backups.old, "chat_restored")


async def test_a_dump_in_sql_comes_back(backups: Backups) -> None:
    backups.succeed(PLAIN)
    backups.succeed(f"{MAKE}\n{RESTORE_PLAIN}")
    await check(backups, backups.old, "chat_restored")


async def test_one_collection_comes_back(backups: Backups) -> None:
    await migrate(backups.old.dsn("claims_owner", "chat"), model="other", dimension=3, role="app", schema="another")
    backups.succeed(ONE)
    backups.succeed(f"{MAKE}\n{RESTORE_ONE}")
    await check(backups, backups.old, "chat_restored")


async def test_a_whole_dump_comes_back_on_a_server_without_the_roles(backups: Backups) -> None:
    backups.succeed(WHOLE)
    assert "password" not in backups.read("roles.sql").lower()
    backups.succeed(ELSEWHERE)
    await check(backups, backups.new, "chat")


async def test_backup_files_are_readable_only_by_their_owner(backups: Backups) -> None:
    backups.succeed(f"{WHOLE}\n{PLAIN}\n{ONE}")
    names = ("chat.dump", "roles.sql", "chat.sql", "ragcore.dump")
    assert {(backups.folder / name).stat().st_mode & 0o077 for name in names} == {0}


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("pg_dump", "", "query would be affected by row-level security policy"),
        ("pg_dump --enable-row-security", "", "ragcore.tenant is not set"),
    ],
)
async def test_commands_fail_as_the_manual_says(backups: Backups, command: str, options: str, said: str) -> None:
    done = backups(f'{command} --file=owner.sql --dbname="$OWNER_DSN"', PGOPTIONS=options)
    assert done.returncode != 0
    assert said in done.stderr
    assert said in PAGE


@pytest.mark.parametrize(
    ("options", "there", "missing"),
    [
        ("-c ragcore.tenant=a", ["the ambulance costs 250"], ["thank you for your letter"]),
        ("-c ragcore.counting=on", ["the ambulance costs 250", "thank you for your letter"], ["\tambul\t"]),
    ],
)
async def test_a_dump_by_the_owner_is_incomplete_without_an_error(
    backups: Backups, options: str, there: list[str], missing: list[str]
) -> None:
    done = backups('pg_dump --enable-row-security --file=owner.sql --dbname="$OWNER_DSN"', PGOPTIONS=options)
    assert done.returncode == 0, done.stderr
    backups.succeed(PLAIN)
    assert all(text in backups.read("owner.sql") for text in there)
    assert not any(text in backups.read("owner.sql") for text in missing)
    assert all(text in backups.read("chat.sql") for text in [*there, *missing])


async def test_the_role_for_backups_can_neither_write_nor_serve(backups: Backups) -> None:
    connection = await asyncpg.connect(backups.old.dsn("backup", "chat"))
    try:
        for statement in (
            "delete from ragcore.chunk",
            "update ragcore.setting set value = ''",
            "truncate ragcore.posting",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()
    async with PgVectorStore(backups.old.dsn("backup", "chat")) as store:
        with pytest.raises(RagcoreError, match="BYPASSRLS|allow_unsafe_role"):
            await store.search(query("deductible"))


async def test_a_restore_without_privileges_is_reported(backups: Backups) -> None:
    backups.succeed(WHOLE)
    backups.succeed(f'{MAKE}\npg_restore --exit-on-error --no-privileges --dbname="$RESTORED_DSN" chat.dump')
    async with PgVectorStore(backups.old.dsn("app", "chat_restored")) as store:
        assert [finding.severity for finding in (await store.inspect()).findings()][:1] == ["error"]
    open_to_all = re.compile(
        r"(count_all|record_embed_text|remove_expired|remove_old_quotas|postings).*'public', 'EXECUTE'"
    )
    rights = (await catalogue(backups.old, "chat_restored"))["rights"]
    assert sum(open_to_all.search(str(right)) is not None for right in rights) >= 8
    await migrate(backups.old.dsn("claims_owner", "chat_restored"), model="fake", dimension=DIMENSION, role="app")
    rights = (await catalogue(backups.old, "chat_restored"))["rights"]
    assert [right for right in rights if open_to_all.search(str(right))] == []
    async with PgVectorStore(backups.old.dsn("app", "chat_restored")) as store:
        assert [finding for finding in (await store.inspect()).findings() if finding.severity == "error"] == []


async def test_rows_alone_can_not_be_restored_into_an_existing_collection(backups: Backups) -> None:
    backups.succeed(f"{WHOLE}\n{MAKE}")
    owner = backups.old.dsn("claims_owner", "chat_restored")
    await migrate(owner, model="fake", dimension=DIMENSION, role="app")
    for tables in ("", "--table=document", "--table=chunk", "--table=posting"):
        done = backups(f'pg_restore --exit-on-error --data-only {tables} --dbname="$RESTORED_DSN" chat.dump')
        assert done.returncode != 0, tables


async def test_a_restore_with_no_owner_gives_the_functions_to_a_superuser(backups: Backups) -> None:
    backups.succeed(WHOLE)
    restored = backups.old.dsn("postgres", "chat_restored")
    backups.succeed(f"{MAKE}\npg_restore --exit-on-error --no-owner --dbname='{restored}' chat.dump")
    functions = (await catalogue(backups.old, "chat_restored"))["functions"]
    assert all("'postgres'" in function for function in functions)


async def test_a_later_dump_does_not_contain_erased_data(backups: Backups) -> None:
    backups.succeed(PLAIN)
    assert "zqerased" not in backups.read("chat.sql")
    async with PgVectorStore(backups.old.dsn("app", "chat")) as store:
        await store.upsert([ERASED], tenant="a")
        backups.succeed(PLAIN)
        assert "zqerased" in backups.read("chat.sql")
        backups.succeed(WHOLE)
        await store.delete([ERASED.document.id], tenant="a")
    backups.succeed(PLAIN)
    assert "zqerased" not in backups.read("chat.sql")
    backups.succeed(f"{MAKE}\n{RESTORE}")  # the older dump
    async with PgVectorStore(backups.old.dsn("app", "chat_restored")) as store:
        assert await store.search(query("zqerased", tenant="a", mode="text"))
        await store.delete([ERASED.document.id], tenant="a")
        assert not await store.search(query("zqerased", tenant="a", mode="text"))


@pytest.mark.thorough
async def test_the_commands_of_the_manual_check_a_restore(backups: Backups) -> None:
    backups.succeed(f"{WHOLE}\n{MAKE}\n{RESTORE}")
    before = await catalogue(backups.old, "chat_restored")
    async with OpenAIServer(dimension=DIMENSION) as model:
        environment = {
            "DATABASE_URL": backups.old.dsn("app", "chat_restored"),
            "RAGCORE_OWNER_DSN": backups.old.dsn("claims_owner", "chat_restored"),
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": model.base_url,
            "RAGCORE_EMBEDDING_MODEL": "fake",
            "RAGCORE_EMBEDDING_DIMENSION": str(DIMENSION),
        }
        done = await anyio.to_thread.run_sync(partial(backups, CHECK, **environment))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "row-level security is forced" in done.stdout
    assert "✗" not in done.stdout
    assert await catalogue(backups.old, "chat_restored") == before
