"""Each format, made by independent writers and by hand."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import pytest

from ragcore import InvalidInput
from ragcore.ingest.parsed import Parsed
from ragcore.ingest.readers import reader_of
from ragcore.ingest.readers.html import html_to_markdown
from ragcore.ingest.readers.markdown import read_markdown

ROWS = [
    ("Service", "Copay", "Limit"),
    ("Specialist", "$35", "20 visits"),
    ("Urgent care", "$75", "none"),
    ("Ambulance", "$250", "none"),
]
# What every format must keep: each row's cells together, in its line.
TABLE_LINES = [("Specialist", "$35", "20 visits"), ("Urgent care", "$75"), ("Ambulance", "$250")]


def parsed(name: str, data: bytes) -> Parsed:
    reader = reader_of(PurePath(name))
    assert reader is not None
    return reader(data)


def docx() -> bytes:
    import docx as writer

    made = writer.Document()
    made.core_properties.title = "Silver plan"
    made.add_heading("Benefits", 1)
    made.add_paragraph("An efficient office visit costs $40.")
    table = made.add_table(rows=0, cols=3)
    for row in ROWS:
        cells = table.add_row().cells
        for cell, text in zip(cells, row, strict=True):
            cell.text = text
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def docx_by_hand() -> bytes:
    cell = "<w:tc><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:tc>"
    rows = "".join("<w:tr>" + "".join(cell.format(text) for text in row) + "</w:tr>" for row in ROWS)
    namespace = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    body = f"<w:p><w:r><w:t>An efficient office visit costs $40.</w:t></w:r></w:p><w:tbl>{rows}</w:tbl>"
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Override PartName="/word/document.xml" ContentType="{kind}"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" '
            'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>',
        )
        archive.writestr(
            "word/document.xml", f'<?xml version="1.0"?><w:document {namespace}><w:body>{body}</w:body></w:document>'
        )
    return out.getvalue()


def xlsx(writer: str) -> bytes:
    out = io.BytesIO()
    if writer == "openpyxl":
        import openpyxl

        book = openpyxl.Workbook()
        book.active.title = "Benefits"
        for row in ROWS:
            book.active.append(row)
        book.save(out)
    else:
        import xlsxwriter

        made = xlsxwriter.Workbook(out)
        sheet = made.add_worksheet("Benefits")
        for number, row in enumerate(ROWS):
            sheet.write_row(number, 0, row)
        made.close()
    return out.getvalue()


def pptx() -> bytes:
    import pptx as writer

    made = writer.Presentation()
    slide = made.slides.add_slide(made.slide_layouts[1])
    slide.shapes.title.text = "Benefits"
    slide.placeholders[1].text = "An efficient office visit costs $40."
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def pdf_by_fpdf() -> bytes:
    from fpdf import FPDF

    made = FPDF()
    made.set_title("Silver plan")
    made.add_page()
    made.set_font("Helvetica", "B", 18)
    made.cell(text="Benefits", new_x="LMARGIN", new_y="NEXT")
    made.set_font("Helvetica", "", 11)
    made.multi_cell(0, text="An efficient office visit costs $40.", new_x="LMARGIN", new_y="NEXT")
    with made.table() as table:
        for row in ROWS:
            table.row(row)
    return bytes(made.output())


def pdf_by_reportlab() -> bytes:
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import Paragraph, SimpleDocTemplate, Table

    styles = getSampleStyleSheet()
    out = io.BytesIO()
    parts = [
        Paragraph("Benefits", styles["Heading1"]),
        Paragraph("An efficient office visit costs $40.", styles["BodyText"]),
        Table(ROWS, colWidths=150),
    ]
    SimpleDocTemplate(out, title="Silver plan").build(parts)
    return out.getvalue()


MADE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "python-docx": ("a.docx", docx),
    "docx by hand": ("a.docx", docx_by_hand),
    "openpyxl": ("a.xlsx", lambda: xlsx("openpyxl")),
    "xlsxwriter": ("a.xlsx", lambda: xlsx("xlsxwriter")),
    "fpdf2": ("a.pdf", pdf_by_fpdf),
    "reportlab": ("a.pdf", pdf_by_reportlab),
    "csv": ("a.csv", lambda: "\r\n".join(",".join(row) for row in ROWS).encode()),
    "semicolons": ("a.csv", lambda: "\n".join(";".join(row) for row in ROWS).encode("cp1252")),
    "tsv": ("a.tsv", lambda: "\n".join("\t".join(row) for row in ROWS).encode("utf-16")),
    "html": (
        "a.html",
        lambda: ("<table>" + "".join("<tr>" + "".join(f"<td>{text}" for text in row) for row in ROWS)).encode(),
    ),
    "xhtml": (
        "a.xhtml",
        lambda: (
            "<table>"
            + "".join("<tr>" + "".join(f"<td>{text}</td>" for text in row) + "</tr>" for row in ROWS)
            + "</table>"
        ).encode(),
    ),
    "markdown": ("a.md", lambda: "\n".join(" | ".join(row) for row in ROWS).encode()),
}


@pytest.mark.parametrize("maker", MADE)
def test_a_tables_rows_stay_together(maker: str) -> None:
    name, make = MADE[maker]
    lines = parsed(name, make()).text.splitlines()
    for row in TABLE_LINES:
        assert any(all(cell in line for cell in row) for line in lines), (row, lines)


@pytest.mark.parametrize("maker", ["python-docx", "fpdf2", "reportlab"])
def test_headings_titles_and_text(maker: str) -> None:
    name, make = MADE[maker]
    made = parsed(name, make())
    assert made.title == "Silver plan"
    assert any(line.startswith("#") and "Benefits" in line for line in made.text.splitlines())
    assert "An efficient office visit costs $40." in made.text
    assert "## $" not in made.text


def test_slides_mail_and_rich_text() -> None:
    assert "An efficient office visit costs $40." in parsed("a.pptx", pptx()).text
    mail = b"From: a@example.org\r\nSubject: Your plan\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nA visit costs $40.\r\n"
    assert "A visit costs $40." in parsed("a.eml", mail).text
    assert "caf\u00e9 $40" in parsed("a.rtf", rb"{\rtf1\ansi\ansicpg1252 caf\'e9 $40\par}").text


def test_json_and_xml() -> None:
    assert parsed("a.json", b'{"plan": {"name": "Silver", "copays": [{"for": "visit", "usd": 40}]}}').text.splitlines() == [
        "plan.name: Silver", "plan.copays.for: visit", "plan.copays.usd: 40",
    ]  # fmt: skip
    assert parsed("a.xml", b"<plan><name>Silver</name><copay for='visit'>$40</copay></plan>").text.splitlines() == [
        "Silver",
        "$40",
    ]
    for name, data in (
        ("a.json", b"[" * 100_000),
        ("a.xml", b"<a>" * 1_000),
        ("a.xml", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'),
    ):
        with pytest.raises(InvalidInput):
            parsed(name, data)


@pytest.mark.parametrize(
    ("text", "title", "metadata", "rest"),
    [
        (
            "---\ntitle: Silver plan\ntags: [a, b]\ndate: 2026-01-02\n---\n# Costs\n",
            "Silver plan",
            {"tags": ["a", "b"], "date": "2026-01-02"},
            "# Costs\n",
        ),
        ('+++\ntitle = "Silver plan"\nyear = 2026\n+++\nText\n', "Silver plan", {"year": 2026}, "Text\n"),
        ("# Costs\n\n---\n\nText\n", "Costs", {}, "# Costs\n\n---\n\nText\n"),
        ("---\n\nA rule, no front matter.\n", "", {}, "---\n\nA rule, no front matter.\n"),
        ("---\n: [broken\n---\nText\n", "", {}, "---\n: [broken\n---\nText\n"),
        ("---\njust: text\n", "", {}, "---\njust: text\n"),
    ],
)
def test_front_matter(text: str, title: str, metadata: dict[str, Any], rest: str) -> None:
    made = read_markdown(text.encode())
    assert (made.title, made.metadata, made.text) == (title, metadata, rest)


HTML = [
    ("<table><tr><td>a<td>b<tr><td>c<td>d</table>", "| a | b |\n| --- | --- |\n| c | d |\n"),
    ("<ul><li>one<li>two<ul><li>inner</ul></ul>", "- one\n- two\n  - inner\n"),
    ("<p>one<p>two", "one\n\ntwo\n"),
    ("<h2>Costs</h2>A <b>visit</b>: $40<br>per <i>day</i>", "## Costs\n\nA **visit**: $40\nper day\n"),
    ("<nav>menu</nav><p>text</p><script>x()</script><style>y</style><footer>foot</footer>", "text\n\nfoot\n"),
    ('<p>See <a href="javascript:x()">this</a> <img src="data:image/png;base64,AAAA" alt="a chart"></p>', "See this a chart\n"),
    ('<div class="cookie-banner">We use cookies</div><p>text that is long enough to be the page</p>', "text that is long enough to be the page\n"),
    ("<p style='display:none'>hidden</p><p hidden>hidden</p><p>shown", "shown\n"),
    ("<pre>a\n  b</pre>", "```\na\n  b\n```\n"),
    ("<table><tr><th>Plan<th colspan=2>Costs<tr><td rowspan=2>Silver<td>visit<td>$40<tr><td>urgent<td>$75</table>",
     "| Plan | Costs | Costs |\n| --- | --- | --- |\n| Silver | visit | $40 |\n| Silver | urgent | $75 |\n"),
    ("<math><mi>x</mi><mo>=</mo><mn>2</mn></math>", "x=2\n"),
]  # fmt: skip


@pytest.mark.parametrize(("html", "markdown"), HTML)
def test_html_by_the_standard(html: str, markdown: str) -> None:
    assert html_to_markdown(html)[0] == markdown


def test_html_nested_deeply_and_in_any_encoding() -> None:
    deep = "<div>" * 5_000 + "deep" + "</div>" * 5_000
    assert html_to_markdown(deep)[0] == "deep\n"
    assert parsed("a.html", "<meta charset=iso-8859-1><p>café – €".encode("cp1252")).text == "café – €\n"
    assert parsed("a.html", b"<meta charset=shift_jis><p>" + "診察料".encode("cp932")).text == "診察料\n"
    assert parsed("a.html", "<p>café".encode("cp1252")).text == "café\n"
    page = parsed(
        "a.html", b'<html lang="de"><title> Silver\n plan </title><main>' + b"<p>text " * 100 + b"</main><aside>more"
    )
    assert (page.title, page.metadata) == ("Silver plan", {"language": "de"})
    assert "more" not in page.text


def test_a_pdfs_pages_have_numbers_and_lose_their_headers() -> None:
    from fpdf import FPDF

    class Paged(FPDF):
        def header(self) -> None:
            self.set_font("Helvetica", "", 8)
            self.cell(text=f"Silver plan 2026 - page {self.page_no()}", new_x="LMARGIN", new_y="NEXT")

    made = Paged()
    for number in range(6):
        made.add_page()
        made.set_font("Helvetica", "", 11)
        made.multi_cell(0, text=f"On this page number {number} is said. It has words of its own: word{number}.")
    text = parsed("a.pdf", bytes(made.output())).text
    pages = text.split("\f")
    assert [f"word{number}" in page for number, page in enumerate(pages)] == [True] * 6
    assert "Silver plan 2026" not in text
    assert parsed("a.pdf", pdf_by_fpdf()).text.count("\f") == 1
