"""The same table of benefits in each format: answers have the right number, and cite the right page, sheet or heading."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ragcore import ExtractiveGenerator, Ingestor, LocalEmbedder, MemoryStore, Retriever
from ragcore.client.rag import RAG
from ragcore.ingest import read

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.blocking_allowed,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
]

HEADER = ("Service", "You pay", "Limit")
# Two tables with different numbers, so that an answer must come from the right table.
TABLES = {
    f"{metal} plan": [
        HEADER,
        ("Specialist visit", f"${35 + add}", "20 visits"),
        ("Ambulance ride", f"${250 + add}", "no limit"),
        ("Hearing aid", f"${400 + add}", "one every three years"),
        *[(f"Other service number {n}", f"${1_000 + n + add}", f"{n} times") for n in range(25)],
    ]
    for metal, add in (("Gold", 0), ("Silver", 7))
}


def pdf() -> bytes:
    from fpdf import FPDF

    made = FPDF()
    for name, rows in TABLES.items():
        made.add_page()
        made.set_font("Helvetica", "B", 18)
        made.cell(text=name, new_x="LMARGIN", new_y="NEXT")
        made.set_font("Helvetica", "", 10)
        with made.table() as table:
            for row in rows:
                table.row(row)
    return bytes(made.output())


def pdf_by_reportlab() -> bytes:
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Table

    styles = getSampleStyleSheet()
    parts: list[Any] = []
    for name, rows in TABLES.items():
        parts += [Paragraph(name, styles["Heading1"]), Table(rows, colWidths=150), PageBreak()]
    out = io.BytesIO()
    SimpleDocTemplate(out).build(parts)
    return out.getvalue()


def docx() -> bytes:
    import docx as writer

    made = writer.Document()
    for name, rows in TABLES.items():
        made.add_heading(name, 1)
        table = made.add_table(rows=0, cols=3)
        for row in rows:
            for cell, text in zip(table.add_row().cells, row, strict=True):
                cell.text = text
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def xlsx() -> bytes:
    import openpyxl

    made = openpyxl.Workbook()
    made.remove(made.active)
    for name, rows in TABLES.items():
        sheet = made.create_sheet(name)
        for row in rows:
            sheet.append(row)
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def html() -> bytes:
    def table(rows: Sequence[Sequence[str]]) -> str:
        return "<table>" + "".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows) + "</table>"

    return "".join(f"<h1>{name}</h1>{table(rows)}" for name, rows in TABLES.items()).encode()


def markdown() -> bytes:
    parts = []
    for name, rows in TABLES.items():
        lines = ["| " + " | ".join(row) + " |" for row in (rows[0], ("---",) * 3, *rows[1:])]
        parts.append(f"# {name}\n\n" + "\n".join(lines))
    return "\n\n".join(parts).encode()


FORMATS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "fpdf2": ("benefits.pdf", pdf, "page"),
    "reportlab": ("benefits.pdf", pdf_by_reportlab, "page"),
    "docx": ("benefits.docx", docx, "heading"),
    "xlsx": ("benefits.xlsx", xlsx, "heading"),
    "html": ("benefits.html", html, "heading"),
    "markdown": ("benefits.md", markdown, "heading"),
}


@pytest.fixture
async def embedder(anyio_backend: str) -> AsyncIterator[LocalEmbedder]:
    async with LocalEmbedder() as made:
        yield made


async def ask(embedder: LocalEmbedder, folder: Path, question: str) -> tuple[str, dict[str, Any]]:
    """Return the answer, and the metadata of the passage that it cites."""
    async with MemoryStore() as store:
        report = await Ingestor(embedder=embedder, store=store).add(read(folder), tenant="m")
        assert report.failed == ()
        assert report.warnings == ()
        retriever = Retriever(embedder=embedder, store=store, top_k=3, mode="hybrid")
        async with RAG(retriever=retriever, generator=ExtractiveGenerator(embed_timeout=60)) as rag:
            answer = await rag.ask(question, tenant="m")
    return answer.text, dict(answer.citations[0].passage.metadata)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.slow
async def test_the_answer_has_the_right_number_and_place(embedder: LocalEmbedder, tmp_path: Path, format: str) -> None:
    name, make, key = FORMATS[format]
    (tmp_path / name).write_bytes(make())
    text, metadata = await ask(embedder, tmp_path, "What do I pay for a hearing aid with the Silver plan?")
    assert "$407" in text
    assert "$400" not in text
    assert metadata[key] == (2 if key == "page" else "Silver plan")


async def test_a_csv_of_each_plan_is_answered_right(embedder: LocalEmbedder, tmp_path: Path) -> None:
    for plan, rows in TABLES.items():
        (tmp_path / f"{plan}.csv").write_text("\n".join(",".join(f'"{cell}"' for cell in row) for row in rows))
    text, _ = await ask(embedder, tmp_path, "What do I pay for a hearing aid with the Silver plan?")
    assert "$407" in text
    assert "$400" not in text


async def test_each_chunk_of_a_spreadsheet_has_its_header(embedder: LocalEmbedder, tmp_path: Path) -> None:
    (tmp_path / "benefits.xlsx").write_bytes(xlsx())
    async with MemoryStore() as store:
        await Ingestor(embedder=embedder, store=store, chunk_tokens=80).add(read(tmp_path), tenant="m")
        retriever = Retriever(embedder=embedder, store=store, top_k=50)
        async with retriever:
            found = await retriever.retrieve("service", tenant="m", mode="vector")
    assert len(found.passages) > 8
    assert all("| Service | You pay | Limit |" in passage.text for passage in found.passages)
    assert {passage.metadata["heading"] for passage in found.passages} == {"Gold plan", "Silver plan"}
