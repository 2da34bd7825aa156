"""`ingest.changes`: real changes in a real folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

import ragcore
from ragcore import ConfigurationError, InvalidInput
from ragcore.ingest import changes
from ragcore.testing import FakeEmbedder, FakeGenerator

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed]
SECONDS = 30.0


@pytest.fixture
async def rag(anyio_backend: str) -> AsyncIterator[ragcore.RAG]:
    async with ragcore.MemoryStore() as store, FakeEmbedder() as embedder:
        retriever = ragcore.Retriever(store=store, embedder=embedder)
        async with ragcore.RAG(retriever=retriever, generator=FakeGenerator()) as made:
            yield made


async def test_a_folder_is_kept_in_step_through_edits_renames_moves_and_deletions(
    rag: ragcore.RAG, tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    for number in range(10):
        (folder / f"d{number}.md").write_text(f"text {number}")
    stored: dict[str, str] = {}

    async def keep() -> None:
        async with aclosing(changes(folder, debounce=0.2)) as changed:
            async for _ in changed:
                await rag.ingest(folder, tenant="a", sync=True, confirmed=True, processes=0)
                stored.clear()
                stored.update(await rag.documents(tenant="a"))

    async def until(*names: str, old: str = "") -> None:
        with anyio.fail_after(SECONDS):
            while set(stored) != set(names) or stored.get("d0.md") == old:
                await anyio.sleep(0.02)

    rest = [f"d{number}.md" for number in range(1, 10)]
    async with anyio.create_task_group() as group:
        group.start_soon(keep)
        await until("d0.md", *rest)
        # An editor writes a new file and renames it over the old one; its hidden file is ignored.
        before = stored["d0.md"]
        (folder / ".d0.md.swp").write_text("swap")
        (folder / "d0.md~").write_text("new text")
        (folder / "d0.md~").rename(folder / "d0.md")
        await until("d0.md", *rest, old=before)
        (folder / "d1.md").rename(folder / "sub" / "d1.md")
        await until("d0.md", "sub/d1.md", *rest[1:])
        (folder / "sub").rename(folder / "other")
        await until("d0.md", "other/d1.md", *rest[1:])
        (folder / "other" / "d1.md").unlink()
        await until("d0.md", *rest[1:])
        group.cancel_scope.cancel()


async def test_without_an_event_it_looks_again_after_a_while(tmp_path: Path) -> None:
    with anyio.fail_after(SECONDS):
        async with aclosing(changes(tmp_path, rescan=0.1)) as changed:
            for _ in range(3):
                await anext(changed)


async def test_what_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.md").write_text("text")
    for path, message in ((tmp_path / "file.md", "only folders"), (tmp_path / "none", "no file or folder")):
        with pytest.raises(InvalidInput, match=message):
            await anext(changes(path))
    with pytest.raises(ConfigurationError, match="positive"):
        await anext(changes(tmp_path, debounce=0))
