"""`FileSystemSource`: fsspec's file system in memory, and S3 by moto's server over HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import ragcore
from ragcore import ConfigurationError, DependencyError, InvalidInput
from ragcore.ingest import Entry, FileSystemSource
from ragcore.testing import FakeEmbedder, FakeGenerator
from ragcore.types.secret import Secret

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed]

CANARY = "canary-secret-key"


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    root = f"/{os.urandom(4).hex()}"
    for name in ("a.md", "sub/b.md", "sub/c.txt", ".hidden.md", "sub/deep/d.md"):
        system.pipe(f"{root}/{name}", f"The text of {name}.".encode())
    yield root
    system.rm(root, recursive=True)


async def names(source: FileSystemSource) -> list[str]:
    return [entry.id async for entry in source.entries()]


async def test_the_files_below_a_url_are_listed(memory: str) -> None:
    assert await names(FileSystemSource(f"memory:/{memory}")) == ["a.md", "sub/b.md", "sub/c.txt", "sub/deep/d.md"]
    assert await names(FileSystemSource(f"memory:/{memory}/**/*.md")) == ["a.md", "sub/b.md", "sub/deep/d.md"]
    assert await names(FileSystemSource(f"memory:/{memory}/sub/*.md")) == ["b.md"]
    with pytest.raises(InvalidInput, match="does not exist"):
        await names(FileSystemSource(f"memory:/{memory}/none"))


async def test_a_file_with_the_name_of_its_folder_has_its_own_url() -> None:
    system = fsspec.filesystem("memory")
    root = os.urandom(4).hex()
    system.pipe(f"/{root}/{root}/{root}", b"A text.")
    system.pipe(f"/{root}/{root}.md", b"A text.")
    try:
        for url, name, address in (
            (f"memory://{root}/{root}", root, f"memory://{root}/{root}/{root}"),
            (f"memory://{root}/{root}/{root}", root, f"memory://{root}/{root}/{root}"),
            (f"memory://{root}/{root}.md", f"{root}.md", f"memory://{root}/{root}.md"),
            (f"memory://{root}", f"{root}.md", f"memory://{root}/{root}.md"),
        ):
            source = FileSystemSource(url)
            found = {entry.id: entry async for entry in source.entries() if isinstance(entry, Entry)}
            assert source.address(found[name]) == address, url
    finally:
        system.rm(f"/{root}", recursive=True)


async def test_a_vanished_or_large_file_is_reported_and_no_copy_stays(memory: str, tmp_path: Path) -> None:
    source = FileSystemSource(f"memory:/{memory}")
    found = {entry.id: entry async for entry in source.entries() if isinstance(entry, Entry)}
    assert (await source.fetch(found["a.md"], into=tmp_path)).read_text() == "The text of a.md."
    system = fsspec.filesystem("memory")
    system.rm(f"{memory}/a.md")
    system.pipe(f"{memory}/sub/b.md", b"x" * (64 * 1024 * 1024 + 1))
    for name, message in (("a.md", "vanished"), ("sub/b.md", "larger than 64 MB")):
        with pytest.raises(InvalidInput, match=message):
            await source.fetch(found[name], into=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


async def test_an_unknown_scheme_or_a_missing_package_says_what_to_do() -> None:
    with pytest.raises(InvalidInput, match="nonsense"):
        await names(FileSystemSource("nonsense://bucket/x"))
    with pytest.raises(ConfigurationError, match="another package"):
        await names(FileSystemSource("dropbox://x/y"))


async def test_secrets_never_appear(monkeypatch: pytest.MonkeyPatch) -> None:
    source = FileSystemSource(f"sftp://user:{CANARY}@127.0.0.1:9/x", options={"password": Secret(CANARY)})
    assert CANARY not in f"{source!r} {source.name} {source.address(Entry(id='x'))}"

    with pytest.raises(InvalidInput, match="has a query") as refused:
        FileSystemSource(f"s3://bucket/x?token={CANARY}")
    assert CANARY not in str(refused.value)

    def broken(self: FileSystemSource) -> tuple[Any, str]:
        raise PermissionError(f"sftp://user:{CANARY}@h/x?X-Amz-Signature={CANARY} key={CANARY}")

    monkeypatch.setattr(FileSystemSource, "_opened", broken)
    with pytest.raises(DependencyError, match="PermissionError") as caught:
        await names(source)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_timeout_of_the_file_system_is_not_reported_as_our_own(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(self: FileSystemSource) -> tuple[Any, str]:
        raise TimeoutError("read timed out")

    monkeypatch.setattr(FileSystemSource, "_opened", late)
    with pytest.raises(DependencyError, match="failed: TimeoutError: read timed out"):
        await names(FileSystemSource(f"memory:/{memory}"))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a real HTTP server that speaks S3."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    endpoint = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket="docs")
    for name in ("a.md", "sub/b.md", "sub/c.md", "sub/../odd.md", "sub/", "e.md", "f.md"):
        client.put_object(Bucket="docs", Key=f"manuals/{name}", Body=f"The text of {name}.".encode())
    try:
        yield endpoint
    finally:
        client.close()
        server.stop()


@pytest.mark.system
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
async def test_a_bucket_is_kept_in_step_and_unchanged_objects_are_not_fetched(bucket: str) -> None:
    import boto3

    client = boto3.client("s3")
    async with ragcore.MemoryStore() as store, FakeEmbedder() as embedder:
        retriever = ragcore.Retriever(store=store, embedder=embedder)
        async with ragcore.RAG(retriever=retriever, generator=FakeGenerator()) as rag:
            url = "s3://docs/manuals"
            report = await rag.ingest(url, tenant="a", sync=True, processes=0)
            assert report.added == 5, report.failed  # a folder named ".." is hidden
            known = set(await rag.documents(tenant="a"))
            assert {"a.md", "sub/b.md", "sub/c.md"} <= known
            fetched: list[str] = []
            original = FileSystemSource.fetch

            async def fetch(self: FileSystemSource, entry: Entry, /, *, into: Path) -> Path:
                fetched.append(entry.id)
                return await original(self, entry, into=into)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(FileSystemSource, "fetch", fetch)
                client.put_object(Bucket="docs", Key="manuals/a.md", Body=b"changed")
                client.delete_object(Bucket="docs", Key="manuals/sub/c.md")
                report = await rag.ingest(url, tenant="a", sync=True, processes=0)
            assert (report.updated, report.unchanged, report.gone, report.deleted) == (1, 3, ("sub/c.md",), 1)
            assert fetched == ["a.md"]
            with pytest.raises(InvalidInput, match="does not exist"):
                await rag.ingest("s3://docs/none", tenant="a", sync=True)
            with pytest.raises((InvalidInput, DependencyError)) as caught:
                await rag.ingest("s3://no-such-bucket/manuals", tenant="a", sync=True)
            assert CANARY not in str(caught.value)
    client.close()
