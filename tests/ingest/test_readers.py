"""Tests the reader of each format, with files that independent programs have written, and with files written by hand."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import pytest
from tests.support.files import epub

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
# Every format must keep the cells of a row together, in one line.
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
def test_headings_titles_and_text_are_read(maker: str) -> None:
    name, make = MADE[maker]
    made = parsed(name, make())
    assert made.title == "Silver plan"
    assert any(line.startswith("#") and "Benefits" in line for line in made.text.splitlines())
    assert "An efficient office visit costs $40." in made.text
    assert "## $" not in made.text


def test_slides_mail_and_rich_text_are_read() -> None:
    assert "An efficient office visit costs $40." in parsed("a.pptx", pptx()).text
    mail = b"From: a@example.org\r\nSubject: Your plan\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nA visit costs $40.\r\n"
    assert "A visit costs $40." in parsed("a.eml", mail).text
    assert "caf\u00e9 $40" in parsed("a.rtf", rb"{\rtf1\ansi\ansicpg1252 caf\'e9 $40\par}").text


def test_records_of_json_and_xml_become_lines_with_their_names() -> None:
    assert parsed("a.json", b'{"plan": {"name": "Silver", "copays": [{"for": "visit", "usd": 40}]}}').text.splitlines() == [
        "plan.name: Silver", "plan.copays.for: visit", "plan.copays.usd: 40",
    ]  # fmt: skip
    assert parsed("a.xml", b"<plan><name>Silver</name><copay for='visit'>$40</copay></plan>").text.splitlines() == [
        "name: Silver",
        "copay for: visit",
        "copay: $40",
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
def test_front_matter_becomes_title_and_metadata(text: str, title: str, metadata: dict[str, Any], rest: str) -> None:
    made = read_markdown(text.encode())
    assert (made.title, made.metadata, made.text) == (title, metadata, rest)


HTML = [
    ("<table><tr><td>a<td>b<tr><td>c<td>d</table>", "| a | b |\n| --- | --- |\n| c | d |\n"),
    ("<ul><li>one<li>two<ul><li>inner</ul></ul>", "- one\n- two\n  - inner\n"),
    ("<p>one<p>two", "one\n\ntwo\n"),
    ("<h2>Costs</h2>A <b>visit</b>: $40<br>per <i>day</i>", "## Costs\n\nA **visit**: $40\nper day\n"),
    ("<nav>menu</nav><p>text</p><script>x()</script><style>y</style><footer>foot</footer>", "text\n"),
    ('<p>See <a href="javascript:x()">this</a> <img src="data:image/png;base64,AAAA" alt="a chart"></p>', "See this a chart\n"),
    ('<div class="cookie-banner">We use cookies</div><p>text that is long enough to be the page</p>', "text that is long enough to be the page\n"),
    ("<p style='display:none'>hidden</p><p hidden>hidden</p><p>shown", "shown\n"),
    ("<pre>a\n  b</pre>", "```\na\n  b\n```\n"),
    ("<table><tr><th>Plan<th colspan=2>Costs<tr><td rowspan=2>Silver<td>visit<td>$40<tr><td>urgent<td>$75</table>",
     "| Plan | Costs | Costs |\n| --- | --- | --- |\n| Silver | visit | $40 |\n| Silver | urgent | $75 |\n"),
    ("<math><mi>x</mi><mo>=</mo><mn>2</mn></math>", "x=2\n"),
]  # fmt: skip


@pytest.mark.parametrize(("html", "markdown"), HTML)
def test_html_is_read_by_the_standard(html: str, markdown: str) -> None:
    assert html_to_markdown(html)[0] == markdown


def test_deeply_nested_html_in_any_encoding_is_read() -> None:
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


PAGE = """
<html><body>
<header class="site-header"><a href="/">Home</a> <a href="/plans">Plans</a></header>
<nav><ul><li><a href="/a">A</a><li><a href="/b">B</a></ul></nav>
<div id="cookie-consent">We use cookies. <button>Accept</button></div>
<div class="sidebar widget"><h3>Popular</h3><ul><li><a href="/x">Ten tips</a></ul></div>
<div class="content">
  <h1>Benefits</h1>
  <p>The deductible of the silver plan is $1,500 a year for each member of the family, and $3,000 for all of them together.</p>
  <table><tr><th>Service<th>You pay<tr><td>Specialist<td>$35<tr><td>Laboratory<td>$5</table>
  <div class="accordion-panel" hidden><p>Hearing aids are paid up to $1,000 every three years, if a doctor has prescribed them to you.</p></div>
  <div style="display:none">secret tracking text</div>
  <p>A visit to a specialist needs a referral of your family doctor, who is named on the card that we have sent to you.</p>
  <div class="share-buttons"><a href="#">Tweet</a><a href="#">Post</a></div>
  <h3>You may also like</h3>
  <p><a href="/y">Another page</a></p>
</div>
<div id="comments"><p>I had to wait for a long time until somebody answered my call, and then they knew nothing about my plan at all.</p></div>
<footer>Imprint</footer>
</body></html>
"""


def test_the_main_content_of_a_page_is_read_and_all_of_it_on_demand() -> None:
    main, _, _ = html_to_markdown(PAGE)
    assert main == (
        "# Benefits\n\n"
        "The deductible of the silver plan is $1,500 a year for each member of the family, and $3,000 for all of them together.\n\n"
        "| Service | You pay |\n| --- | --- |\n| Specialist | $35 |\n| Laboratory | $5 |\n\n"
        "Hearing aids are paid up to $1,000 every three years, if a doctor has prescribed them to you.\n\n"
        "A visit to a specialist needs a referral of your family doctor, who is named on the card that we have sent to you.\n"
    )
    whole, _, _ = html_to_markdown(PAGE, whole=True)
    for piece in (
        "Plans",
        "Ten tips",
        "Tweet",
        "Another page",
        "wait for a long time",
        "Imprint",
        "$35",
        "Hearing aids",
    ):
        assert piece in whole
    assert "secret tracking" not in whole


def test_a_page_of_links_is_read() -> None:
    links = "".join(f'<li><a href="/form{n}">Claim form number {n}</a>' for n in range(30))
    text, _, _ = html_to_markdown(f"<body><div class=list><ul>{links}</ul></div>")
    assert "Claim form number 29" in text


def test_a_short_page_is_read_whole() -> None:
    assert html_to_markdown("<div class=widget><b>Copay</b>: $35</div>")[0] == "**Copay**: $35\n"


def test_content_in_an_element_with_a_misleading_name_is_read() -> None:
    text = "<p>" + "The deductible is $1,500 a year for each member. " * 10
    for name in ("sidebar", "widget", "footer", "comments", "share"):
        assert "$1,500" in html_to_markdown(f'<body><div class="{name}">{text}</div>')[0], name


def test_links_and_images_of_office_files_become_their_text() -> None:
    import docx as writer
    from docx.opc.constants import RELATIONSHIP_TYPE
    from docx.oxml import OxmlElement
    from docx.oxml.ns import qn

    made = writer.Document()
    made.add_heading("Gold plan", 1)
    paragraph = made.add_paragraph("See <the> list* of ")
    target = made.part.relate_to("https://example.org/long(path)", RELATIONSHIP_TYPE.HYPERLINK, is_external=True)
    link = OxmlElement("w:hyperlink")
    link.set(qn("r:id"), target)
    run = OxmlElement("w:r")
    text = OxmlElement("w:t")
    text.text = "covered drugs"
    run.append(text)
    link.append(run)
    paragraph._p.append(link)
    out = io.BytesIO()
    made.save(out)
    found = parsed("a.docx", out.getvalue())
    assert found.title == "Gold plan"
    assert "See <the> list* of covered drugs" in found.text
    assert "example.org" not in found.text


def test_html_within_a_feed_becomes_text() -> None:
    feed = "<rss><item><title>News</title><description>&lt;p&gt;Copays &lt;b&gt;fall&lt;/b&gt; if 3 &lt; 4.&lt;/p&gt;</description></item></rss>"
    assert parsed("a.xml", feed.encode()).text.splitlines() == ["News", "description: Copays fall if 3 < 4."]


def test_a_file_without_a_title_gets_its_first_heading() -> None:
    from fpdf import FPDF

    made = FPDF()
    made.add_page()
    made.set_font("Helvetica", "B", 18)
    made.cell(text="Silver benefits", new_x="LMARGIN", new_y="NEXT")
    made.set_font("Helvetica", "", 11)
    made.multi_cell(0, text="An efficient office visit costs $40. " * 20)
    assert parsed("a.pdf", bytes(made.output())).title == "Silver benefits"


SIGNS = "AT&T <65 & >66 \"q\" 'a' é €"


def signs_docx() -> bytes:
    import docx as writer

    made = writer.Document()
    made.add_heading(SIGNS, 1)
    made.add_table(rows=1, cols=1).rows[0].cells[0].text = SIGNS
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def signs_docx_by_references() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(signs_docx())) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename == "word/document.xml":
                content = (
                    content.replace(b"&lt;", b"&#60;").replace(b"&amp;", b"&#x26;").replace("é".encode(), b"&#233;")
                )
            target.writestr(entry, content)
    return out.getvalue()


def signs_pptx() -> bytes:
    import pptx as writer

    made = writer.Presentation()
    made.slides.add_slide(made.slide_layouts[1]).shapes.title.text = SIGNS
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def signs_xlsx() -> bytes:
    import openpyxl

    made = openpyxl.Workbook()
    made.active.append([SIGNS, "b"])
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def escaped() -> str:
    return SIGNS.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def signs_odt() -> bytes:
    name = "urn:oasis:names:tc:opendocument:xmlns"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.text")
        archive.writestr(
            "content.xml",
            f'<?xml version="1.0"?><o:document-content xmlns:o="{name}:office:1.0" xmlns:t="{name}:text:1.0"><o:body><o:text>'
            f"<t:p>{escaped()}</t:p></o:text></o:body></o:document-content>",
        )
    return out.getvalue()


def signs_epub() -> bytes:
    return epub([f"<p>{escaped()}</p>"])


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.docx", signs_docx),
        ("a.docx", signs_docx_by_references),
        ("a.pptx", signs_pptx),
        ("a.xlsx", signs_xlsx),
        ("a.odt", signs_odt),
        ("a.epub", signs_epub),
        ("a.eml", lambda: f"Subject: s\nContent-Type: text/plain; charset=utf-8\n\n{SIGNS}\n".encode()),
        ("a.html", lambda: f"<meta charset=utf-8><p>{escaped()}".encode()),
        ("a.xml", lambda: f"<a>{escaped()}</a>".encode()),
        ("a.csv", lambda: f"{SIGNS.replace(chr(34), chr(39))},b\n".encode()),
        ("a.md", SIGNS.encode),
        ("a.txt", SIGNS.encode),
    ],
)
def test_no_character_is_lost(name: str, make: Callable[[], bytes]) -> None:
    text = parsed(name, make()).text
    assert "AT&T <65 & >66" in text
    assert "'a' é €" in text


def word(xml: str, **parts: str) -> str:
    """Return the text of a .docx with this content in a paragraph."""
    namespaces = (
        'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" xmlns:v="urn:schemas-microsoft-com:vml" '
        'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    )
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(docx_by_hand())) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename == "word/document.xml":
                content = f"<w:document {namespaces}><w:body>{xml}</w:body></w:document>".encode()
            target.writestr(entry, content)
        for name, part in parts.items():
            target.writestr(f"word/{name}.xml", f"<w:hdr {namespaces}>{part}</w:hdr>")
    return parsed("a.docx", out.getvalue()).text.strip()


def run(*pieces: str) -> str:
    return "<w:p>" + "".join(f"<w:r>{piece}</w:r>" for piece in pieces) + "</w:p>"


def t(text: str) -> str:
    return f'<w:t xml:space="preserve">{text}</w:t>'


BOX = f"<w:txbxContent>{run(t('In the box.'))}</w:txbxContent>"


@pytest.mark.parametrize(
    ("xml", "text"),
    [
        (run(t("Copay 2025"), "<w:tab/>", t("40")), "Copay 2025 40"),
        (run(t("Change: "), "<w:noBreakHyphen/>", t("24, open 24"), "<w:noBreakHyphen/>", t("7")), "Change: -24, open 24-7"),
        (run(t("Dental "), '<w:sym w:font="Symbol" w:char="F0A3"/>', t(" 500")), "Dental ≤ 500"),
        (run('<w:sym w:font="Wingdings" w:char="F0FE"/>', t(" yes "), '<w:sym w:font="Wingdings" w:char="F0A8"/>', t(" no")), "☑ yes ☐ no"),
        (run(t("effi"), "<w:softHyphen/>", t("cient")), "efficient"),
        ("<w:p><w:moveFrom><w:r>" + t("Old $500. ") + "</w:r></w:moveFrom><w:r>" + t("Rest.") + "</w:r></w:p>", "Rest."),
        (run(t("Before. "), f"<w:pict><v:shape><v:textbox>{BOX}</v:textbox></v:shape></w:pict>", t("After.")), "Before. After.\n\nIn the box."),
        (
            run(
                t("Anchor."),
                f"<mc:AlternateContent><mc:Choice>{BOX}</mc:Choice><mc:Fallback><w:pict><v:textbox>{BOX}</v:textbox></w:pict></mc:Fallback></mc:AlternateContent>",
            ),
            "Anchor.\n\nIn the box.",
        ),
        (run(t("A"), f"<w:pict>{BOX}</w:pict>", f"<w:pict>{BOX}</w:pict>") + run(t("B")), "A\n\nIn the box.\n\nIn the box.\n\nB"),
    ],
)  # fmt: skip
def test_text_of_a_word_file_is_neither_joined_nor_lost(xml: str, text: str) -> None:
    assert word(xml) == text


def test_a_line_break_of_a_word_file_separates_words() -> None:
    assert word(run(t("Deductible 1500"), "<w:cr/>", t("2000"))).split() == ["Deductible", "1500", "2000"]


def test_headers_and_footers_of_a_word_file_are_read_once() -> None:
    text = word(
        run(t("Body.")), header1=run(t("Policy no. 4711")), header2=run(t("Policy no. 4711")), footer1=run(t("3"))
    )
    assert text == "Body.\n\nPolicy no. 4711"


def test_an_html_mail_keeps_its_rows_and_lists_its_attachments() -> None:
    from email.message import EmailMessage

    message = EmailMessage()
    message["Subject"], message["From"] = "Your quote & more", "a@example.org"
    message.set_content(
        "<table><tr><td>Deductible 2025<td>500<tr><td>Copay &lt; 65<td>20</table><p>One.<p>Two.", subtype="html"
    )
    message.add_attachment(b"Limit: $2,000", maintype="text", subtype="plain", filename="limits.txt")
    message.add_attachment(docx(), maintype="application", subtype="octet-stream", filename="plan.docx")
    message.add_attachment(b"\x7fELF", maintype="application", subtype="octet-stream", filename="tool.exe")
    message.add_attachment(b"PNG", maintype="image", subtype="png", filename="logo.png")
    made = parsed("a.eml", bytes(message))
    assert made.title == "Your quote & more"
    for piece in (
        "| Deductible 2025 | 500 |",
        "| Copay < 65 | 20 |",
        "One.\n\nTwo.",
        "Limit: $2,000",
        "| Specialist | $35 |",
    ):
        assert piece in made.text
    assert made.warnings == ("the attachment 'tool.exe' was not read: there is no reader for its type",)


def test_a_plain_mail_keeps_its_lines() -> None:
    text = parsed(
        "a.eml",
        b"Subject: =?utf-8?q?Pr=C3=A4mie?=\nContent-Type: text/plain; charset=latin-1\n\nGold   -5\nSilver  7 \xe9\n",
    ).text
    assert "# Prämie" in text
    assert "Gold   -5\nSilver  7 é" in text


@pytest.mark.parametrize("data", [b"", b"Subject: only\n\n", b"Content-Type: multipart/mixed; boundary=x\n\n--x\n"])
def test_a_mail_without_text_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="no text"):
        parsed("a.eml", data)


def test_a_book_whose_manifest_encodes_its_names_is_whole() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(signs_epub())) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            content, name = source.read(entry), entry.filename
            target.writestr("a b.xhtml" if name == "a.xhtml" else name, content.replace(b'"a.xhtml"', b'"a%20b.xhtml"'))
    assert "AT&T" in parsed("a.epub", out.getvalue()).text


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<p>Deductible $500<sup>1</sup>, limit 10<sup>6</sup>.", "Deductible $500^1, limit 10^6.\n"),
        ("<p><del>$50</del> <ins>$70</ins>", "$70\n"),
        ("<h2>Deductible<br>and copay</h2><p>x", "## Deductible and copay\n\nx\n"),
        ("<ol start=5><li>Five<li value=9>Nine<li>Ten</ol>", "5. Five\n9. Nine\n10. Ten\n"),
        (
            (
                "<table><tr><th>Plan<th>Cost<th>Dental<tr><td>Gold<td>$<b>1</b>,<b>500</b><td><img alt='covered' src=x>"
                "<tr><td>Silver<td>-<b>5</b> %<td><style>.a{}</style>no<tr style='display:none'><td>x<td>y<td>z</table>"
            ),
            "| Plan | Cost | Dental |\n| --- | --- | --- |\n| Gold | $1,500 | covered |\n| Silver | -5 % | no |\n",
        ),
        ("<main><h1>Plans</h1><h3><a href=/g>Gold plan</a></h3><p>Deductible $500.</main>", "# Plans\n\n### Gold plan\n\nDeductible $500.\n"),
        ("<main><h2><button>Is dental covered?</button></h2><div>No.</div></main>", "## Is dental covered?\n\nNo.\n"),
        ("<form id=aspnetForm><h1>Gold</h1><p>Deductible $500.</p><input value=x></form>", "# Gold\n\nDeductible $500.\n"),
        ('<main><h3>Deductible</h3><div hidden="until-found"><p>$500 a year.</div></main>', "### Deductible\n\n$500 a year.\n"),
    ],
)  # fmt: skip
def test_html_keeps_the_meaning_of_numbers(html: str, markdown: str) -> None:
    assert html_to_markdown(html)[0] == markdown


def test_class_names_do_not_remove_content() -> None:
    text = (
        "<p>"
        + "The plan pays for cleanings twice a year and for fillings after the deductible is met by the member. " * 4
    )
    names = "cmp-text footnotes info-box top-limits ratings-table shared-costs menu-benefits related-conditions comments-on-coverage".split()
    parts = "".join(
        f'<div class="{name}"><p>Of {name}: implants are not covered before a waiting period of a year.</div>'
        for name in names
    )
    forms = "<ul>" + "".join(f'<li><a href="/f{n}">Claim form {n}</a>' for n in range(8)) + "</ul>"
    page = f"<main><h1>Dental</h1>{text * 3}{parts}<aside><p>{text}</aside>{forms}</main><nav>Menu</nav>"
    markdown, _, _ = html_to_markdown(page)
    assert [name for name in names if f"Of {name}" not in markdown] == []
    assert "Claim form 7" in markdown
    assert "Menu" not in markdown


def test_late_doubled_quotes_do_not_shift_columns() -> None:
    rows = ["id,name,price", *(f'{n},"Plan {n}, basic",{n}' for n in range(1_500)), '9001,"Plan ""Gold"", family",500']
    text = parsed("a.csv", "\n".join(rows).encode()).text
    assert text.splitlines()[-1] == '| 9001 | Plan "Gold", family | 500 |'
    assert text.splitlines()[2] == "| 0 | Plan 0, basic | 0 |"


@pytest.mark.parametrize(
    ("name", "data", "lines"),
    [
        ("a.tsv", 'size\tprice\n5"\t$3\n"7 inch\t$4\n', ["| size | price |", '| 5" | $3 |', '| "7 inch | $4 |']),
        ("a.csv", "sep=;\r\na;b\r\n1;2\r\n", ["| a | b |", "| 1 | 2 |"]),
    ],
)
def test_other_kinds_of_separated_values_are_read(name: str, data: str, lines: list[str]) -> None:
    assert [line for line in parsed(name, data.encode()).text.splitlines() if "---" not in line] == lines


def test_each_row_of_a_wide_table_has_its_column_names_and_a_ragged_table_does_not_grow() -> None:
    header = ["State", *(f"Premium of an adult of {age} years" for age in range(20, 60, 2))]
    text = parsed("a.csv", "\n".join(",".join(row) for row in (header, ["NY", *map(str, range(20))])).encode()).text
    assert text.startswith("State: NY; Premium of an adult of 20 years: 0; ")
    ragged = ",".join("x" * 20_000) + "\n" + "1\n" * 5_000
    assert len(parsed("a.csv", ragged.encode()).text) < 2_000_000


def test_json_keeps_records_apart_and_numbers_as_they_are_written() -> None:
    text = parsed(
        "a.json",
        b'{"plans": [{"name": "A", "fee": 1.10}, {"name": "B", "fee": 12345678901234567.89, "fee": 2}], "max": 1e400}',
    ).text
    assert text.splitlines() == [
        "plans.name: A", "plans.fee: 1.10", "", "plans.name: B", "plans.fee: 12345678901234567.89", "plans.fee: 2", "", "max: 1e400",
    ]  # fmt: skip


def test_xml_keeps_names_and_attributes() -> None:
    text = parsed("a.xml", b'<plans><plan name="Gold" price="500">text<age>20</age></plan></plans>').text
    assert text.splitlines() == ["plan name: Gold", "plan price: 500", "plan: text", "age: 20"]


def test_a_bad_byte_in_utf_8_loses_one_character() -> None:
    made = parsed("a.txt", "Prämie für Köln: 5 €. ".encode() * 30 + b"\xff")
    assert made.text.startswith("Prämie für Köln: 5 €.")
    assert "utf-8, with some invalid bytes" in made.warnings[0]
    assert "é" in parsed("a.txt", "café, déjà vu, über".encode("cp1252")).text


def test_a_title_may_be_a_number() -> None:
    assert read_markdown(b"---\ntitle: 2026\n---\ntext").title == "2026"
