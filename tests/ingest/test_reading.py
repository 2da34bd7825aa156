"""Reading files and folders."""

from __future__ import annotations

import gzip
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ragcore import Document, InvalidInput, Unreadable
from ragcore.ingest import read

pytestmark = pytest.mark.anyio


async def everything(*paths: Path) -> dict[str, Document | Unreadable]:
    return {document.id: document async for document in read(*paths)}


def pdf(*pages: str, **options: object) -> bytes:
    from fpdf import FPDF

    made = FPDF()
    made.set_title("A plan")
    for page in pages:
        made.add_page()
        if page:
            made.set_font("Helvetica", "B", 16)
            made.cell(text="Heading", new_x="LMARGIN", new_y="NEXT")
            made.set_font("Helvetica", "", 11)
            made.multi_cell(0, text=page)
    if options.get("password"):
        made.set_encryption(owner_password="owner", user_password=str(options["password"]))
    return bytes(made.output())


async def test_each_format_is_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.md").write_text("# Title\n\nText.")
    (tmp_path / "sub" / "b.txt").write_bytes(b"\xef\xbb\xbfwith a mark")
    (tmp_path / "c.html").write_text(
        "<title>T</title><nav>no</nav><h2>Costs</h2><p>A visit: <b>$40</b></p><ul><li>one<li>two</ul><script>x()</script>"
    )
    (tmp_path / "d.pdf").write_bytes(pdf("A visit costs $40. " * 5, "Second page."))
    (tmp_path / "e.jsonl").write_text(json.dumps({"id": "e1", "title": "E", "text": "t", "year": 2024}) + "\n\n")
    with gzip.open(tmp_path / "f.jsonl.gz", "wt") as file:
        file.write(json.dumps({"id": 7, "text": "t"}) + "\n")
    (tmp_path / ".hidden.md").write_text("no")
    found = await everything(tmp_path)
    assert list(found) == ["a.md", "c.html", "d.pdf", "e1", "7", "sub/b.txt"]
    assert all(isinstance(document, Document) for document in found.values())
    documents = {id: document for id, document in found.items() if isinstance(document, Document)}
    assert documents["a.md"].title == "Title"
    assert documents["sub/b.txt"].text == "with a mark"
    html = documents["c.html"]
    assert (html.title, "## Costs" in html.text, "A visit: **$40**" in html.text) == ("T", True, True)
    assert "x()" not in html.text
    assert "no" not in html.text
    paper = documents["d.pdf"]
    assert paper.metadata == {"pages": 2}
    assert paper.text.count("\f") == 1
    assert "## Heading" in paper.text
    assert documents["e1"].metadata == {"year": 2024}


async def test_lines_may_have_expires_at(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"id": "a", "text": "t", "expires_at": "2030-01-31T12:00:00+01:00"},
        {"id": "b", "text": "t", "expires_at": None, "metadata": {"expires_at": "in the document's own words"}},
        {"id": "c", "text": "t", "expires_at": "2030-01-31T12:00:00"},
        {"id": "d", "text": "t", "expires_at": "soon"},
        {"id": "e", "text": "t", "expires_at": 7},
        {"id": "f", "text": "t", "expires_at": "2030-01-31T12:00:00Z"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = await everything(tmp_path)
    a, b, f = found["a"], found["b"], found["f"]
    assert isinstance(a, Document)
    assert isinstance(b, Document)
    assert isinstance(f, Document)
    assert (a.expires_at, a.metadata) == (datetime(2030, 1, 31, 11, tzinfo=UTC), {})
    assert (b.expires_at, b.metadata) == (None, {"expires_at": "in the document's own words"})
    assert f.expires_at == datetime(2030, 1, 31, 12, tzinfo=UTC)
    reasons = [one.reason for one in found.values() if isinstance(one, Unreadable)]
    assert len(reasons) == 3
    assert all("expires_at" in reason for reason in reasons)


async def test_broken_files_are_reported_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "binary.txt").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "latin.txt").write_bytes("déjà vu".encode("latin-1"))
    (tmp_path / "empty.md").write_text(" \n")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 not really")
    (tmp_path / "locked.pdf").write_bytes(pdf("secret", password="x"))
    (tmp_path / "images.pdf").write_bytes(pdf(""))
    (tmp_path / "lines.jsonl").write_text(
        '{"id": "good", "text": "t"}\n{"id": "bad"\n{"text": "no id"}\n[1]\n{"id": "nul", "text": "a\\u0000"}\n'
    )
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"id": "x", "text": "t"}\n' * 5_000)[:60])
    (tmp_path / "good.md").write_text("good")
    found = await everything(tmp_path)
    reasons = {id: document.reason for id, document in found.items() if isinstance(document, Unreadable)}
    assert {id for id, document in found.items() if isinstance(document, Document)} >= {"good", "good.md"}
    assert "binary" in reasons["binary.txt"]
    latin = found["latin.txt"]
    assert isinstance(latin, Document)
    assert latin.text == "déjà vu"
    assert "encoding was guessed" in latin.warnings[0]
    assert "no text" in reasons["empty.md"]
    assert "broken" in reasons["broken.pdf"]
    assert "encrypted" in reasons["locked.pdf"]
    assert "only images" in reasons["images.pdf"]
    assert {"lines.jsonl:2", "lines.jsonl:3", "lines.jsonl:4"} <= set(reasons)
    assert "nul" in found
    assert "reading stopped after line" in reasons["cut.jsonl.gz"]


async def test_paths_without_readable_files_are_invalid(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InvalidInput, match=str(path.name)):
            await everything(path)
    (tmp_path / "x.exe").write_text("x")
    with pytest.raises(InvalidInput, match="type that can't be read"):
        await everything(tmp_path / "x.exe")


async def test_files_left_out_of_a_folder_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.md").write_text("a")
    (tmp_path / "x.exe").write_text("x")
    await everything(tmp_path)
    assert "1 .exe" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_without_read_permission_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("a")
    (tmp_path / "a.md").chmod(0)
    found = await everything(tmp_path / "a.md")
    assert isinstance(found["a.md"], Unreadable)


async def test_characters_that_databases_refuse_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"text": "one\\u0000two \\ud800 three"}')
    (tmp_path / "b.jsonl").write_bytes(b'{"id": "b", "text": "one\\u0000two \\udc00 three"}')
    (tmp_path / "c.txt").write_bytes(
        b"The deductible is one\0two of three, and so on, for everyone who is insured. " * 9
    )
    found = {one.id: one async for one in read(tmp_path)}
    for name in ("a.json", "b"):
        document = found[name]
        assert isinstance(document, Document)
        assert "one two \ufffd three" in document.text
    assert isinstance(found["c.txt"], Document)


@pytest.mark.anyio
async def test_of_two_files_with_the_same_id_the_second_is_reported(tmp_path: Path) -> None:
    """Otherwise it would replace the first, because the last document with an id wins."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "plan.txt").write_text(folder)
    found = [one async for one in read(tmp_path / "one", tmp_path / "two", processes=0)]
    assert [(type(one), one.id) for one in found] == [(Document, "plan.txt"), (Unreadable, "plan.txt")]
    assert "common folder" in getattr(found[1], "reason", "")
