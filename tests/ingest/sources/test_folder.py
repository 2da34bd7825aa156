"""`FolderSource`: names, patterns, links, rights, and names that are not UTF-8. The files are real."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from ragcore import InvalidInput, Unreadable
from ragcore.ingest import Entry, FolderSource
from ragcore.ingest.sources.named import sources_of
from ragcore.ingest.sources.patterns import compiled


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("text")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.md", "b.txt", "sub/c.md", "sub/deep/d.md", ".hidden/e.md", "sub/~$lock.docx", "x[1].md"):
        write(tmp_path / "docs" / name)
    return tmp_path / "docs"


async def listed(*given: str | Path, **options: bool) -> list[Entry | Unreadable]:
    found = await sources_of(given, follow_symlinks=options.get("follow_symlinks", False), hosts=())
    return [entry for source in found async for entry in source.entries()]


async def names(*given: str | Path, **options: bool) -> list[str]:
    return [entry.id for entry in await listed(*given, **options)]


@pytest.mark.anyio
async def test_a_folder_lists_its_files_by_name_without_hidden_ones(folder: Path) -> None:
    assert await names(folder) == ["a.md", "b.txt", "sub/c.md", "sub/deep/d.md", "x[1].md"]
    (source,) = await sources_of([folder / "sub" / "..", folder / "a.md"][:1], follow_symlinks=False, hosts=())
    assert source.name == str(folder)
    assert await names(folder / "a.md") == ["a.md"]


@pytest.mark.anyio
async def test_a_pattern_selects_files_and_is_part_of_the_name(folder: Path) -> None:
    assert await names(f"{folder}/**/*.md") == ["a.md", "sub/c.md", "sub/deep/d.md", "x[1].md"]
    assert await names(f"{folder}/*.md") == ["a.md", "x[1].md"]
    assert await names(f"{folder}/sub/**") == ["c.md", "deep/d.md"]
    assert await names(f"{folder}/?.[!m]*") == ["b.txt"]
    (source,) = await sources_of([f"{folder}/sub/../**/*.md"], follow_symlinks=False, hosts=())
    assert source.name == f"{folder}/**/*.md"
    # A name with a wildcard's character is a name if there is such a file.
    assert await names(f"{folder}/x[1].md") == ["x[1].md"]


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("**/*.md", "a.md", True),
        ("**/*.md", "a/b/c.md", True),
        ("*.md", "a/b.md", False),
        ("a/**/z.md", "a/z.md", True),
        ("a/**/z.md", "ab/z.md", False),
        ("a/**", "a/b/c.txt", True),
        ("[!a]*.md", "b.md", True),
        ("[!a]*.md", "a.md", False),
        ("[a-c].md", "b.md", True),
        ("[].md", "[].md", True),
        ("a.md", "abmd", False),
        ("?.md", "/.md", False),
        ("[^a].md", "^.md", True),
        ("", "any/thing", True),
    ],
)
def test_patterns(pattern: str, path: str, matches: bool) -> None:
    assert (compiled(pattern).fullmatch(path) is not None) is matches


@pytest.mark.anyio
async def test_a_pattern_with_an_invalid_set_of_characters_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'\[z-a\]\.md' is invalid"):
        await names(f"{folder}/[z-a].md")


@pytest.mark.anyio
async def test_links_that_loop_lead_out_or_are_broken_end_the_listing_of_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "sub" / "self").symlink_to("self")
    write(tmp_path / "outside" / "secret.md")
    (folder / "out").symlink_to(tmp_path / "outside")
    (folder / "broken").symlink_to("nowhere")
    found = await listed(folder)
    assert {one.id for one in found if isinstance(one, Unreadable)} == {"out", "broken", "sub/self"}
    assert {one.id for one in found if isinstance(one, Entry)} == {
        "a.md",
        "b.txt",
        "sub/c.md",
        "sub/deep/d.md",
        "x[1].md",
    }
    assert "out/secret.md" in await names(folder, follow_symlinks=True)


@pytest.mark.anyio
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_folder_without_permission_is_reported_and_the_root_is_an_error(folder: Path) -> None:
    (folder / "sub").chmod(0)
    try:
        assert [one.id for one in await listed(folder) if isinstance(one, Unreadable)] == ["sub"]
    finally:
        (folder / "sub").chmod(0o700)
    folder.chmod(0)
    try:
        with pytest.raises(InvalidInput, match="can't be listed: Permission denied"):
            await listed(folder)
    finally:
        folder.chmod(0o700)


@pytest.mark.anyio
async def test_a_name_that_is_not_utf_8_is_reported_in_valid_unicode(folder: Path) -> None:
    try:
        (folder / os.fsdecode(b"na\xffme.md")).write_text("text")
    except OSError:
        pytest.skip("this file system accepts only UTF-8")
    (bad,) = (one for one in await listed(folder) if isinstance(one, Unreadable))
    assert (bad.id, bad.reason) == ("na\\udcffme.md", "its name is not valid UTF-8: rename it")
    bad.source.encode()


@pytest.mark.anyio
async def test_the_version_changes_with_the_file_and_is_unknown_while_it_is_fresh(folder: Path) -> None:
    fresh = {entry.id: entry for entry in await listed(folder) if isinstance(entry, Entry)}
    assert fresh["a.md"].version is None
    await anyio.sleep(2.1)
    settled = {entry.id: entry for entry in await listed(folder) if isinstance(entry, Entry)}
    assert settled["a.md"].version is not None
    assert settled["a.md"].version != settled["b.txt"].version


@pytest.mark.anyio
async def test_fetch_returns_the_file_itself_and_the_address_as_it_was_given(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (source,) = await sources_of(["docs"], follow_symlinks=False, hosts=())
    entry = Entry(id="sub/c.md")
    assert source.address(entry) == "docs/sub/c.md"
    assert await source.fetch(entry, into=tmp_path) == folder / "sub" / "c.md"
    assert isinstance(source, FolderSource)
    assert repr(source) == f"FolderSource('{folder}')"
