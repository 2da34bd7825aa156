"""The page about existing tables: its tables are made by plain SQL, and its commands lead to an answer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import anyio
import asyncpg
import pytest

from ragcore.testing import FakeEmbedder, OpenAIServer

pytestmark = [
    pytest.mark.system,
    pytest.mark.thorough,
    pytest.mark.anyio,
    pytest.mark.blocking_allowed,
    pytest.mark.timeout(120),
]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "existing_tables.md"
TEXTS = ("The deductible is 1,500 dollars a year.", "A visit to a specialist costs 40 dollars.")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def blocks(kind: str) -> list[str]:
    """Return the blocks of the page, also those in lists."""
    found = re.findall(rf"^( *)```{kind}\n(.*?)^\1```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return ["\n".join(line.removeprefix(indent) for line in block.splitlines()) for indent, block in found]


async def run(folder: Path, line: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    assert line.startswith("ragcore ")
    command = f"{sys.executable} -m {line}"
    return await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            ["sh", "-c", command], cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False
        )
    )


async def test_the_page_leads_from_a_table_to_an_answer(database: tuple[str, str], tmp_path: Path) -> None:
    tables, role, *_ = blocks("sql")
    propose, ask = ([line for line in block.splitlines() if line.startswith("ragcore ")] for block in blocks("sh")[:2])
    user = re.search(r"--tenant (\S+)", ask[-1])
    assert user is not None
    name = f"reader_{os.urandom(4).hex()}"
    owner = await asyncpg.connect(database[1])
    await owner.execute("create extension vector")
    await owner.execute(tables)
    await owner.execute(role.replace("reader", name))
    embedder = FakeEmbedder(dimension=1536)
    await embedder.start()
    for tenant, texts in (
        (user[1], TEXTS),
        (str(uuid5(NAMESPACE_URL, "other")), ("The deductible is 9,999 dollars.",)),
    ):
        document = uuid5(NAMESPACE_URL, tenant)
        await owner.execute("insert into documents values ($1, $2, 'Gold plan')", document, tenant)
        for place, (text, vector) in enumerate(zip(texts, await embedder.embed(texts, kind="document"), strict=True)):
            await owner.execute(
                "insert into document_chunks (document_id, chunk_ord, text, embedding) values ($1, $2, $3, $4::text::vector)",
                document, place, text, str([float(number) for number in vector]),
            )  # fmt: skip
    source = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)}
    environ = {**source, "DATABASE_URL": re.sub(r"//[^@]*@", f"//{name}@", database[0])}
    try:
        async with OpenAIServer(embedder=embedder, text="Your deductible is 1,500 dollars [1].") as server:
            proposed = await run(tmp_path, propose[0], environ)
            assert proposed.returncode == 0, proposed.stderr
            assert proposed.stdout == blocks("text")[0] + "\n"
            settings = dict(line.split("=", 1) for line in proposed.stdout.splitlines()[2:])
            environ |= {**settings, "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": server.base_url}
            examined = await run(tmp_path, ask[0], environ)
            assert examined.returncode == 0, examined.stdout + examined.stderr
            assert "public.document_chunks: vector(1536)" in " ".join(examined.stdout.split())
            answered = await run(tmp_path, ask[1], environ)
            assert answered.returncode == 0, answered.stdout + answered.stderr
            assert "Your deductible is 1,500 dollars [1]." in answered.stdout
            assert f"[1] Gold plan ({uuid5(NAMESPACE_URL, user[1])})" in answered.stdout
            assert "9,999" not in answered.stdout
            asked = [body for path, body in server.requests if path.endswith("/chat/completions")]
            assert "9,999" not in str(asked)
            reviewed = await run(tmp_path, "ragcore doctor --production", environ)
            assert reviewed.returncode == 1
            assert "isolated by the WHERE clause alone: enable row-level security" in " ".join(reviewed.stdout.split())
    finally:
        await owner.execute(f"drop owned by {name}; drop role {name}")
        await owner.close()
        await embedder.aclose()
