"""Files are read in separate processes, so that one file can't harm another."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from tests.pace import in_time
from tests.support.damage import poison

from ragcore import ConfigurationError, Document, Unreadable
from ragcore.ingest import read, worker

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed]


@pytest.fixture(autouse=True)
async def no_process_is_left(anyio_backend: str) -> AsyncIterator[None]:
    yield
    with anyio.fail_after(5):
        while [one for one in psutil.Process().children() if "ragcore.ingest.worker" in " ".join(one.cmdline() or [])]:
            await anyio.sleep(0.02)
    gc.collect()  # an unclosed pipe must fail this test, and not the next one


async def everything(*paths: Path, **options: Any) -> dict[str, Document | Unreadable]:
    return {document.id: document async for document in read(*paths, **options)}


def poisoned(folder: Path) -> list[str]:
    """Write files that harm a reader, each in a different way, and return their names."""
    (folder / "gone.md").symlink_to(folder / "nowhere.md")
    return [*poison(folder), "gone.md"]


@pytest.mark.slow
async def test_poisoned_files_are_reported_and_the_others_are_read(tmp_path: Path) -> None:
    names = poisoned(tmp_path)
    for number in range(60):
        (tmp_path / f"good {number:02}.md").write_text(f"# Plan {number}\n\nA visit costs ${number}.")
    found = await everything(tmp_path)
    read_well = [id for id, one in found.items() if isinstance(one, Document)]
    failed = {id: one.reason for id, one in found.items() if isinstance(one, Unreadable)}
    assert [id for id in read_well if id.startswith("good")] == [f"good {number:02}.md" for number in range(60)]
    assert {id.partition(":")[0] for id in failed} == set(names)
    assert all(reason and len(reason) < 400 for reason in failed.values())
    assert "regular file" in failed["pipe.txt"]
    assert "symbolic link" in failed["device.txt"]


@pytest.mark.parametrize("how", ["hangs", "crashes", "takes all memory"])
@pytest.mark.slow
async def test_a_reader_that_fails_loses_only_one_file(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's module is replaced by one whose reader fails on a certain word."""
    folder = tmp_path / "changed"
    (folder / "ragcore_broken").mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(
        "import ragcore.ingest.readers.plain as plain\n"
        "import os, time\n"
        "given = plain.read_text\n"
        "def read_text(data):\n"
        "    if b'hangs' in data: time.sleep(1000)\n"
        "    if b'crashes' in data: os.abort()\n"
        "    if b'takes all memory' in data: bytearray(1 << 40)\n"
        "    return given(data)\n"
        "plain.read_text = read_text\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    files = tmp_path / "files"
    files.mkdir()
    for number in range(6):
        (files / f"{number}.txt").write_text(how if number == 2 else f"good {number}")
    with anyio.fail_after(30):
        found = await everything(files, read_timeout=1.5)
    assert [id for id, one in found.items() if isinstance(one, Document)] == [
        "0.txt",
        "1.txt",
        "3.txt",
        "4.txt",
        "5.txt",
    ]
    refused = found["2.txt"]
    assert isinstance(refused, Unreadable)
    assert {"hangs": "within 1.5 s", "crashes": "crashed", "takes all memory": "memory"}[how] in refused.reason


@pytest.mark.slow
async def test_leaving_early_ends_all_workers(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_text("text")
    documents = read(tmp_path)
    assert (await anext(documents)).id == "00.txt"
    await documents.aclose()  # type: ignore[attr-defined]


def large(path: Path) -> None:
    """Write a small file whose documents take many seconds to read."""
    packed = zlib.compressobj(wbits=31)
    line = json.dumps({"id": "x", "text": "word " * 1_000}).encode() + b"\n"
    path.write_bytes(b"".join(packed.compress(line * 100) for _ in range(200)) + packed.flush())


@pytest.mark.slow
async def test_a_cancelled_read_returns_within_a_second(tmp_path: Path) -> None:
    large(tmp_path / "many.jsonl.gz")
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("text " * 100_000)
    began = anyio.current_time()
    with anyio.move_on_after(0.5) as scope:
        while True:
            await everything(tmp_path)
    assert scope.cancelled_caught
    assert in_time(anyio.current_time() - began, 1.5)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.slow
async def test_a_read_cancelled_by_asyncio_returns_as_well(tmp_path: Path) -> None:
    large(tmp_path / "many.jsonl.gz")
    began = anyio.current_time()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(everything(tmp_path), 0.5)
    assert in_time(anyio.current_time() - began, 1.5)


@pytest.mark.slow
async def test_threads_read_if_processes_are_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def forbidden(*_: object, **__: object) -> None:
        raise PermissionError("no processes here")

    poisoned(tmp_path)
    (tmp_path / "good.md").write_text("# Plan\n\nText.")
    (tmp_path / "other.md").write_text("Another text.")
    monkeypatch.setattr("ragcore.ingest.processes.anyio.open_process", forbidden)
    found = await everything(tmp_path)
    assert isinstance(found["good.md"], Document)
    assert isinstance(found["deep.json"], Unreadable)
    assert "read on threads" in caplog.text
    documents = [one async for one in read(tmp_path) if isinstance(one, Document)]
    said = [warning for document in documents for warning in document.warnings if "read on threads" in warning]
    assert len(said) == 1 < len(documents)  # only one document has the warning
    assert isinstance((await everything(tmp_path, processes=0))["good.md"], Document)


async def test_a_users_reader_runs_in_this_process_and_may_fail(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture of a cat")
    (tmp_path / "b.png").write_bytes(b"broken")
    (tmp_path / "c.md").write_text("text")

    def describe(data: bytes) -> str:
        if data == b"broken":
            raise KeyError("x")
        return f"I see: {data.decode()}"

    found = await everything(tmp_path, readers={".PNG": describe})
    first, second = found["a.png"], found["b.png"]
    assert isinstance(first, Document)
    assert first.text == "I see: picture of a cat"
    assert isinstance(second, Unreadable)
    assert "KeyError" in second.reason
    assert isinstance(found["c.md"], Document)


@pytest.mark.parametrize(
    "wrong", [{"read_timeout": 0}, {"read_timeout": float("inf")}, {"processes": -1}, {"processes": 1.5}]
)
async def test_invalid_options_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        read(tmp_path, **wrong)


async def test_unknown_types_are_left_out_or_reported(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("text")
    (tmp_path / "b.exe").write_bytes(b"x")
    assert list(await everything(tmp_path / "a.md", tmp_path / "b.exe")) == ["a.md"]
    found = await everything(tmp_path, strict=True)
    assert isinstance(found["b.exe"], Unreadable)
    assert "readers=" in found["b.exe"].reason


@pytest.mark.slow
async def test_links_are_followed_only_on_request(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    (outside / "a.md").write_text("text")
    (folder / "link").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "inside.md").write_text("text")
    (folder / "same.md").symlink_to(folder / "inside.md")
    found = await everything(folder)
    assert {id: type(one).__name__ for id, one in found.items()} == {
        "inside.md": "Document",
        "link": "Unreadable",
        "same.md": "Document",
    }
    followed = await everything(folder, follow_symlinks=True)
    assert [id for id, one in followed.items() if isinstance(one, Document)] == ["inside.md", "link/a.md", "same.md"]


def test_invalid_lines_are_refused_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"id": "a", "text": "t"}\n'
        + b"[" * 50_000
        + b"\n7\n\xff\n"
        + b'{"id": true, "text": "t"}\n{"id": 7, "text": "t"}'
    )
    lines = [line for answer in worker.answers(str(path), lines=True, whole_pages=False) for line in answer["lines"]]
    assert [(line["number"], "fields" in line) for line in lines] == [
        (1, True),
        (2, False),
        (3, False),
        (4, False),
        (5, False),
        (6, True),
    ]


async def test_a_missing_extra_loses_only_the_files_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.md").write_text("Your deductible is $1,500.")
    (tmp_path / "b.docx").write_bytes(b"PK\x03\x04 a document")
    (tmp_path / "c.html").write_text("<p>A visit costs $40.</p>")
    for module in ("kreuzberg", "selectolax", "selectolax.lexbor"):
        monkeypatch.setitem(sys.modules, module, None)
    found = {one.id: one async for one in read(tmp_path, processes=0)}
    assert isinstance(found["a.md"], Document)
    for name, extra in (("b.docx", "office"), ("c.html", "chunking")):
        failed = found[name]
        assert isinstance(failed, Unreadable)
        assert f"[{extra}]" in failed.reason
