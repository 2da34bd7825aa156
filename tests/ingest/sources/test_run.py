"""An ingest from sources: what it adds, skips, deletes and keeps. The files are real; the store is in memory."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

import ragcore
from ragcore import DependencyError, Document, InvalidInput, Overloaded, Unreadable, Unsupported
from ragcore.ingest import Entry, FolderSource
from ragcore.testing import FakeEmbedder, FakeGenerator
from ragcore.types import IngestReport

# The tests themselves write files on the event loop; ragcore must not, and test_folder.py checks it.
pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed]

PAST = 1_000_000_000


@pytest.fixture
async def rag(anyio_backend: str) -> AsyncIterator[ragcore.RAG]:
    async with ragcore.MemoryStore() as store, FakeEmbedder() as embedder:
        retriever = ragcore.Retriever(store=store, embedder=embedder)
        async with ragcore.RAG(retriever=retriever, generator=FakeGenerator()) as made:
            yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    root.mkdir()
    for number in range(10):
        write(root / f"d{number}.md", f"# Title\n\nThe text of document {number}.")
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def counts(report: IngestReport) -> tuple[int, int, int, int, int]:
    return report.added, report.updated, report.unchanged, len(report.failed), report.deleted


async def sync(rag: ragcore.RAG, *sources: Any, tenant: str = "a", **options: Any) -> IngestReport:
    return await rag.ingest(*sources, tenant=tenant, sync=True, processes=0, **options)


async def stored(rag: ragcore.RAG, tenant: str = "a") -> set[str]:
    return set(await rag.documents(tenant=tenant))


class Listed:
    """A source whose listing a test decides."""

    def __init__(self, *items: Document | Unreadable | Exception, name: str = "test:one") -> None:
        self.items = items
        self.name = name

    async def entries(self) -> AsyncIterator[Entry | Unreadable]:
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            yield item if isinstance(item, Unreadable) else Entry(id=item.id, document=item)

    def address(self, entry: Entry) -> str:
        return entry.id

    async def fetch(self, entry: Entry, *, into: Path) -> Path:
        raise InvalidInput("nothing to fetch")


def documents(count: int, start: int = 0) -> list[Document]:
    return [Document(f"d{n}", f"text {n}") for n in range(start, count)]


async def test_the_store_keeps_in_step_with_a_folder(rag: ragcore.RAG, folder: Path) -> None:
    assert counts(await sync(rag, folder)) == (10, 0, 0, 0, 0)
    write(folder / "d1.md", "changed")
    write(folder / "sub" / "new.md", "new")
    (folder / "d2.md").unlink()
    report = await sync(rag, folder)
    assert (counts(report), report.gone, report.kept) == ((1, 1, 8, 0, 1), ("d2.md",), "")
    assert await stored(rag) == {*(f"d{n}.md" for n in range(10) if n != 2), "sub/new.md"}


async def test_without_sync_nothing_is_deleted_but_the_source_is_recorded(rag: ragcore.RAG, folder: Path) -> None:
    await rag.ingest(folder, tenant="a", processes=0)
    (folder / "d2.md").unlink()
    report = await rag.ingest(folder, tenant="a", processes=0)
    assert (report.gone, len(await stored(rag))) == ((), 10)
    assert (await sync(rag, folder)).gone == ("d2.md",)


async def test_documents_of_others_are_never_deleted(rag: ragcore.RAG, folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "other" / "x.md", "of another folder")
    await rag.add([Document("by hand", "text"), Document("d3.md", "stored before it was in the folder")], tenant="a")
    await sync(rag, tmp_path / "other")
    await sync(rag, folder)
    await sync(rag, folder, tenant="b")
    (folder / "d2.md").unlink()
    # Replaced by hand: it is not the source's any more.
    (folder / "d3.md").unlink()
    await rag.add([Document("d3.md", "by hand")], tenant="a")
    assert (await sync(rag, folder)).gone == ("d2.md",)
    assert {"by hand", "x.md", "d3.md"} <= await stored(rag)
    assert "d2.md" in await stored(rag, "b")


async def test_a_document_that_was_deleted_by_hand_comes_back(rag: ragcore.RAG, folder: Path) -> None:
    for number in range(10):
        os.utime(folder / f"d{number}.md", (PAST, PAST))
    await sync(rag, folder)
    await rag.delete(["d4.md"], tenant="a")
    report = await sync(rag, folder)
    assert (report.added, report.gone) == (1, ())


async def test_a_dry_run_changes_nothing(rag: ragcore.RAG, folder: Path) -> None:
    report = await sync(rag, folder, dry_run=True)
    assert (counts(report), report.chunks, await stored(rag)) == ((10, 0, 0, 0, 0), 0, set())
    await sync(rag, folder)
    write(folder / "d1.md", "changed")
    (folder / "d2.md").unlink()
    report = await sync(rag, folder, dry_run=True)
    assert (counts(report), report.gone, report.kept) == (
        (0, 1, 8, 0, 0),
        ("d2.md",),
        "this was a dry run, so nothing was deleted",
    )
    assert "d2.md" in await stored(rag)
    assert (await sync(rag, folder)).updated == 1


async def test_more_than_a_fifth_is_deleted_only_if_it_is_confirmed(rag: ragcore.RAG, folder: Path) -> None:
    await sync(rag, folder)
    for number in range(3):
        (folder / f"d{number}.md").unlink()
        # New files don't make the share smaller.
        write(folder / f"new{number}.md", "new")
    report = await sync(rag, folder)
    assert (report.deleted, len(report.gone)) == (0, 3)
    assert "3 of 10 documents are gone" in report.kept
    assert "--yes" in report.kept
    assert len(await stored(rag)) == 13
    assert "3 of 13" in (await sync(rag, folder, dry_run=True)).kept
    assert (await sync(rag, folder, confirmed=True)).deleted == 3
    (folder / "d9.md").unlink()
    (folder / "d8.md").unlink()
    assert (await sync(rag, folder)).deleted == 2  # exactly a fifth


async def test_an_empty_folder_deletes_nothing_unless_it_is_confirmed(rag: ragcore.RAG, folder: Path) -> None:
    await sync(rag, folder)
    for file in folder.iterdir():
        file.unlink()
    report = await sync(rag, folder)
    assert (report.deleted, len(report.gone), len(await stored(rag))) == (0, 10, 10)
    assert "lists nothing" in report.kept
    assert (await sync(rag, folder, confirmed=True)).deleted == 10
    with pytest.raises(InvalidInput, match="no readable file"):
        await rag.ingest(folder, tenant="a")


async def test_a_folder_that_vanished_is_an_error_and_deletes_nothing(rag: ragcore.RAG, folder: Path) -> None:
    source = FolderSource(folder)
    await sync(rag, source)
    shutil.rmtree(folder)
    for given in (source, folder):
        with pytest.raises(InvalidInput, match="there is no file or folder"):
            await sync(rag, given, confirmed=True)
    assert len(await stored(rag)) == 10


@pytest.mark.parametrize("error", [DependencyError("half-way"), ConnectionResetError("secret")])
async def test_a_listing_that_fails_half_way_deletes_nothing(rag: ragcore.RAG, error: Exception) -> None:
    await sync(rag, Listed(*documents(20)))
    with pytest.raises(DependencyError) as caught:
        await sync(rag, Listed(*documents(15), Document("new", "text"), error), confirmed=True)
    assert "secret" not in str(caught.value)
    assert {f"d{n}" for n in range(20)} <= await stored(rag)


async def test_what_can_not_be_listed_or_read_is_not_gone(rag: ragcore.RAG, folder: Path) -> None:
    write(folder / "sub" / "a.md", "a")
    write(folder / "sub" / "deep" / "b.md", "b")
    write(folder / "lines.jsonl", '{"id": "l1", "text": "one"}\n{"id": "l2", "text": "two"}\n')
    await sync(rag, folder)
    assert len(await stored(rag)) == 14
    # A folder that became a broken link, a file that became unreadable, a broken line instead of a document, and a truncated document.
    shutil.rmtree(folder / "sub")
    (folder / "sub").symlink_to(folder / "nowhere")
    (folder / "d1.md").unlink()
    (folder / "d1.md").symlink_to("/etc/hostname")
    write(folder / "d2.md", "")
    write(folder / "lines.jsonl", '{"id": "l1", "text": "one"}\n{"id": "l2", "te\n')
    report = await sync(rag, folder, confirmed=True)
    assert report.gone == ()
    assert {one.id for one in report.failed} == {"sub", "d1.md", "d2.md", "lines.jsonl:2"}
    assert len(await stored(rag)) == 14


async def test_a_line_that_is_gone_from_a_readable_file_is_deleted(rag: ragcore.RAG, folder: Path) -> None:
    write(folder / "lines.jsonl", '{"id": "l1", "text": "one"}\n{"id": "l2", "text": "two"}\n')
    await sync(rag, folder)
    write(folder / "lines.jsonl", '{"id": "l1", "text": "one"}\n')
    assert (await sync(rag, folder)).gone == ("l2",)


async def test_an_unchanged_file_is_not_read_again(rag: ragcore.RAG, folder: Path) -> None:
    await sync(rag, folder)
    for number in range(10):
        os.utime(folder / f"d{number}.md", (PAST, PAST))
    # Until two seconds after a change, the file may change again without a change of its times.
    assert (await sync(rag, folder)).unchanged == 10
    await anyio.sleep(2.1)
    reports: list[IngestReport] = []
    await sync(rag, folder)
    seen = await rag.retriever.store.origins(["d1.md"], tenant="a")  # type: ignore[attr-defined]
    assert seen["d1.md"].version is not None
    (folder / "d1.md").chmod(0o600)  # changes the inode, not the content
    report = await sync(rag, folder, progress=reports.append)
    assert counts(report) == (0, 0, 10, 0, 0)
    # Other settings than those of the stored version: everything is read.
    assert (await sync(rag, folder, expires_at=datetime(2090, 1, 1, tzinfo=UTC))).updated == 10


async def test_another_source_never_steals_a_document(rag: ragcore.RAG, folder: Path, tmp_path: Path) -> None:
    await sync(rag, folder)
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    write(moved / "d1.md", "changed")
    report = await sync(rag, moved)
    assert counts(report) == (0, 0, 0, 10, 0)
    assert f"recorded for the source {folder}" in report.failed[0].reason
    report = await sync(rag, moved, take_over=True)
    assert counts(report) == (0, 10, 0, 0, 0)  # the path is a part of a document
    assert [doubt.message for doubt in report.warnings] == [
        f"10 documents recorded for the source {folder} now belong to {moved}"
    ]
    # The former source has nothing left to delete.
    (folder / "d2.md").unlink()
    assert (await sync(rag, folder, confirmed=True)).gone == ()
    assert len(await stored(rag)) == 10


async def test_without_sync_a_document_is_taken_over_with_a_warning(
    rag: ragcore.RAG, folder: Path, tmp_path: Path
) -> None:
    await rag.ingest(folder, tenant="a", processes=0)
    shutil.copytree(folder, tmp_path / "moved")
    report = await rag.ingest(tmp_path / "moved", tenant="a", processes=0)
    assert (report.failed, len(report.warnings)) == ((), 1)


async def test_two_sources_in_one_run_report_the_second_document_of_an_id(
    rag: ragcore.RAG, folder: Path, tmp_path: Path
) -> None:
    write(tmp_path / "other" / "d1.md", "the same name")
    report = await sync(rag, folder, tmp_path / "other")
    assert [(one.id, one.reason[:23]) for one in report.failed] == [("d1.md", "an earlier document has")]
    (folder / "d1.md").unlink()
    # It is gone from the source that it is recorded for. The other source adds its own at the next run.
    report = await sync(rag, tmp_path / "other", folder)
    assert (report.gone, [one.id for one in report.failed]) == (("d1.md",), ["d1.md"])
    assert (await sync(rag, tmp_path / "other", folder)).added == 1


async def test_two_rows_with_one_id_keep_the_first(rag: ragcore.RAG) -> None:
    report = await sync(rag, Listed(Document("d", "one"), Document("d", "two"), Document("e", "three")))
    assert counts(report) == (2, 0, 0, 1, 0)


async def test_a_second_run_at_the_same_time_is_refused(rag: ragcore.RAG, folder: Path) -> None:
    held = Listed(*documents(3), name="test:slow")
    holding, go_on = anyio.Event(), anyio.Event()
    entries = held.entries

    async def slow() -> AsyncIterator[Entry | Unreadable]:
        holding.set()
        await go_on.wait()
        async for entry in entries():
            yield entry

    held.entries = slow  # type: ignore[method-assign]
    async with anyio.create_task_group() as group:
        group.start_soon(sync, rag, held)
        await holding.wait()
        with pytest.raises(Overloaded, match="another task is synchronising test:slow for the tenant a"):
            await sync(rag, folder, held)
        await sync(rag, folder)
        go_on.set()
    await sync(rag, Listed(*documents(3), name="test:slow"))


async def test_a_run_that_was_cancelled_leaves_neither_lock_nor_temporary_files(
    rag: ragcore.RAG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = Listed(*documents(3))

    async def endless() -> AsyncIterator[Entry | Unreadable]:
        yield Entry(id="d", document=Document("d", "text"))
        await anyio.sleep_forever()

    with anyio.move_on_after(0.3) as scope:
        hanging = Listed()
        hanging.entries = endless  # type: ignore[method-assign]
        await sync(rag, hanging)
    assert scope.cancelled_caught
    assert list(tmp_path.iterdir()) == []
    await sync(rag, source)


async def test_sync_needs_a_store_with_records(folder: Path, anyio_backend: str) -> None:
    async with ragcore.MemoryStore() as store, FakeEmbedder() as embedder:

        class Plain:
            search, upsert, hashes = store.search, store.upsert, store.hashes
            delete, count, scores = store.delete, store.count, store.scores

        retriever = ragcore.Retriever(store=Plain(), embedder=embedder)
        async with ragcore.RAG(retriever=retriever, generator=FakeGenerator()) as rag:
            with pytest.raises(Unsupported, match="records of sources"):
                await sync(rag, folder)
            assert (await rag.ingest(folder, tenant="a", processes=0)).added == 10


async def test_wrong_arguments_are_refused(rag: ragcore.RAG, folder: Path) -> None:
    for wrong, message in (
        ((), "there is no source"),
        ((folder, str(folder)), "more than once"),
        ((7,), "of type int"),
        (("file:///etc",), "without it"),
        ((b"docs",), "of type bytes"),
        (("no/such/folder",), "there is no file or folder"),
        (("no/*.md",), "there is no file or folder"),
        (("a\0b",), "is not the path"),
    ):
        with pytest.raises(InvalidInput, match=message):
            await sync(rag, *wrong)


async def test_the_deletion_is_a_call_of_its_own(rag: ragcore.RAG, folder: Path) -> None:
    await sync(rag, folder)
    (folder / "d2.md").unlink()
    await sync(rag, folder)
    assert {"ingest", "delete"} <= {call.method for call in rag.recent()}


async def test_a_view_and_the_blocking_client_have_the_same(rag: ragcore.RAG, folder: Path) -> None:
    report = await rag.for_tenant("v").ingest(folder, sync=True, processes=0)
    assert report.added == 10
    assert pickle.loads(pickle.dumps(FolderSource(folder))).name == str(folder)
    assert replace(report, gone=("x",)).to_dict()["gone"] == ["x"]
