"""Generates a corpus of 60 files in all formats, with the difficulties of real files, and the content that a reader should find in each."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

__all__ = ["MadeFile", "made_files"]

WORDS = """
    deductible copay coinsurance premium referral specialist physician hospital pharmacy prescription generic brand network provider claim
    benefit coverage exclusion dependent subscriber enrollment emergency urgent ambulance maternity newborn imaging laboratory therapy
    rehabilitation outpatient inpatient surgery preventive screening vaccination dental vision hearing appeal grievance authorization
    eligibility limitation maximum calendar annual lifetime allowance reimbursement statement card member plan year visit service efficient
    office difficult affordable final first file flow
""".split()
SERVICES = [
    "Specialist visit",
    "Urgent care",
    "Ambulance ride",
    "MRI scan",
    "Generic drugs",
    "Hearing aid",
    "Eye exam",
    "Dental cleaning",
]


@dataclass(frozen=True)
class MadeFile:
    """A file and its content.

    Attributes:
        name: the file's name with its suffix.
        data: the file's bytes.
        texts: the sentences of its content, in order.
        rows: rows of its tables.
        places: the page, sheet or heading of a sentence, by sentence.
        boilerplate: texts around the content, which should not be read.
    """

    name: str
    data: bytes
    texts: Sequence[str]
    rows: Sequence[Sequence[str]] = ()
    places: dict[str, int | str] = field(default_factory=dict)
    boilerplate: Sequence[str] = ()


def made_files(seed: int = 0) -> list[MadeFile]:
    """Return the corpus. Equal seeds give equal contents."""
    draw = random.Random(seed)
    makers: list[tuple[Callable[[random.Random, int], MadeFile], int]] = [
        (_pdf_pages, 4),
        (_pdf_tables, 4),
        (_pdf_columns, 2),
        (_pdf_letters, 2),
        (_pdf_hyphens, 2),
        (_pdf_scripts, 2),
        (_html_page, 6),
        (_html_open_tags, 3),
        (_html_encoded, 3),
        (_html_deep, 2),
        (_docx, 5),
        (_xlsx, 5),
        (_pptx, 3),
        (_odt, 2),
        (_rtf, 2),
        (_epub, 2),
        (_eml, 2),
        (_markdown, 3),
        (_csv, 2),
        (_text, 3),
        (_json_xml, 1),
    ]
    return [make(draw, number) for make, count in makers for number in range(count)]


def _sentence(draw: random.Random, words: int = 11) -> str:
    chosen = draw.choices(WORDS, k=words)
    amount = f"${draw.randint(5, 9_000):,}" if draw.random() < 0.5 else str(draw.randint(2, 90))
    chosen.insert(draw.randrange(2, words - 1), amount)
    return " ".join(chosen).capitalize() + "."


def _sentences(draw: random.Random, count: int) -> list[str]:
    return [_sentence(draw) for _ in range(count)]


def _rows(draw: random.Random, count: int = 6) -> list[tuple[str, str, str]]:
    return [
        (name, f"${draw.randint(5, 900)}", f"{draw.randint(2, 60)} visits")
        for name in draw.sample(SERVICES, min(count, len(SERVICES)))
    ]


HEADER = ("Service", "You pay", "Limit")


def _pdf(writer: int, pages: Sequence[Callable[[Any], None]], *, title: str = "") -> bytes:
    """Draw a PDF with reportlab."""
    from reportlab.lib.pagesizes import A4
    from reportlab.pdfgen.canvas import Canvas

    out = io.BytesIO()
    canvas = Canvas(out, pagesize=A4, pageCompression=writer % 2)
    canvas.setTitle(title or "(anonymous)")
    for draw_page in pages:
        canvas.setFont("Helvetica", 11)
        draw_page(canvas)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def _pdf_pages(draw: random.Random, number: int) -> MadeFile:
    """Make pages with a repeated header and footer and a heading each, with fpdf2 and reportlab in turn."""
    count = 5 if number else 1
    pages = [_sentences(draw, 8) for _ in range(count)]
    headings = [f"Part {page + 1} about {draw.choice(WORDS)}" for page in range(count)]
    repeated = "Acme Health Plan 2026 booklet"
    texts = [text for heading, page in zip(headings, pages, strict=True) for text in (heading, *page)]
    places: dict[str, int | str] = {page[3]: position + 1 for position, page in enumerate(pages)}
    if number % 2:

        def page_of(position: int) -> Callable[[Any], None]:
            def paint(canvas: Any) -> None:
                canvas.drawString(72, 815, repeated)
                canvas.drawString(280, 25, f"Page {position + 1} of {count}")
                canvas.setFont("Helvetica-Bold", 16)
                canvas.drawString(72, 770, headings[position])
                canvas.setFont("Helvetica", 9)
                for row, text in enumerate(pages[position]):
                    canvas.drawString(72, 740 - 16 * row, text)

            return paint

        data = _pdf(number, [page_of(position) for position in range(count)], title="Booklet")
    else:
        from fpdf import FPDF

        class Booklet(FPDF):
            def header(self) -> None:
                self.set_font("Helvetica", "", 8)
                self.cell(text=repeated, new_x="LMARGIN", new_y="NEXT")

            def footer(self) -> None:
                self.set_y(-15)
                self.set_font("Helvetica", "", 8)
                self.cell(text=f"Page {self.page_no()} of {count}")

        made = Booklet()
        for heading, page in zip(headings, pages, strict=True):
            made.add_page()
            made.set_font("Helvetica", "B", 16)
            made.cell(text=heading, new_x="LMARGIN", new_y="NEXT")
            made.set_font("Helvetica", "", 10)
            for text in page:
                made.multi_cell(0, text=text, new_x="LMARGIN", new_y="NEXT")
        data = bytes(made.output())
    return MadeFile(f"pages{number}.pdf", data, texts, places=places, boilerplate=[repeated] if count > 3 else [])


def _pdf_tables(draw: random.Random, number: int) -> MadeFile:
    rows = _rows(draw)
    before, after = _sentences(draw, 3), _sentences(draw, 3)
    if number % 2:
        from reportlab.lib.styles import getSampleStyleSheet
        from reportlab.platypus import Paragraph, SimpleDocTemplate, Table

        style = getSampleStyleSheet()["BodyText"]
        out = io.BytesIO()
        parts = [*(Paragraph(text, style) for text in before), Table([HEADER, *rows], colWidths=140)]
        SimpleDocTemplate(out).build([*parts, *(Paragraph(text, style) for text in after)])
        data = out.getvalue()
    else:
        from fpdf import FPDF

        made = FPDF()
        made.add_page()
        made.set_font("Helvetica", "", 10)
        for text in before:
            made.multi_cell(0, text=text, new_x="LMARGIN", new_y="NEXT")
        with made.table() as table:
            for row in [HEADER, *rows]:
                table.row(row)
        for text in after:
            made.multi_cell(0, text=text, new_x="LMARGIN", new_y="NEXT")
        data = bytes(made.output())
    texts = [*before, *(cell for row in [HEADER, *rows] for cell in row), *after]
    return MadeFile(f"table{number}.pdf", data, texts, rows=rows, places={after[-1][:30]: 1})


def _pdf_columns(draw: random.Random, number: int) -> MadeFile:
    left, right = _sentences(draw, 14), _sentences(draw, 14)

    def paint(canvas: Any) -> None:
        canvas.setFont("Times-Roman", 6)
        for x, texts in ((50, left), (310, right)):
            for row, text in enumerate(texts):
                canvas.drawString(x, 780 - 12 * row, text)

    return MadeFile(f"columns{number}.pdf", _pdf(number, [paint]), [*left, *right], places={right[-1]: 1})


def _pdf_letters(draw: random.Random, number: int) -> MadeFile:
    """Draw letters one by one, as browsers print, or words without blanks between them."""
    texts = _sentences(draw, 12)

    def paint(canvas: Any) -> None:
        canvas.setFont("Helvetica", 9)
        for row, text in enumerate(texts):
            x = 50.0
            for piece in text if number % 2 else [f"{word} " for word in text.split()]:
                canvas.drawString(x, 780 - 14 * row, piece.strip())
                x += canvas.stringWidth(piece, "Helvetica", 9)

    return MadeFile(f"letters{number}.pdf", _pdf(number, [paint]), texts, places={texts[5]: 1})


def _pdf_hyphens(draw: random.Random, number: int) -> MadeFile:
    """Make lines that break within a word. The whole word also occurs elsewhere in the document."""
    word = draw.choice(["reimbursement", "authorization", "rehabilitation", "coinsurance"])
    texts = [f"The {word} is due in {draw.choice(WORDS)}.", *_sentences(draw, 6)]
    broken = [f"See the {word[:6]}-", f"{word[6:]} of your {draw.choice(WORDS)}."]

    def paint(canvas: Any) -> None:
        canvas.setFont("Helvetica", 9)
        for row, text in enumerate([*texts, *broken]):
            canvas.drawString(50, 780 - 14 * row, text)

    return MadeFile(
        f"hyphens{number}.pdf", _pdf(number, [paint]), [*texts, broken[0][:-1] + broken[1]], places={texts[0]: 1}
    )


def _pdf_scripts(draw: random.Random, number: int) -> MadeFile:
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont

    name, texts = [
        ("HeiseiMin-W3", ["免責金額は年間千五百ドルです", "歯科の診察は無料です"]),
        ("STSong-Light", ["您的免赔额为每年一千五百美元", "牙科检查免费"]),
    ][number % 2]
    pdfmetrics.registerFont(UnicodeCIDFont(name))

    def paint(canvas: Any) -> None:
        canvas.setFont(name, 12)
        for row, text in enumerate(texts):
            canvas.drawString(50, 780 - 20 * row, text)

    return MadeFile(f"script{number}.pdf", _pdf(number, [paint]), texts, places={texts[1]: 1})


MENU = ["Home", "Find a doctor", "Login portal", "Careers"]
NOISE = [
    "We use cookies on this website to improve it",
    "Subscribe to our newsletter today",
    "Copyright Acme Incorporated",
]


def _html_page(draw: random.Random, number: int) -> MadeFile:
    """Make a page with the parts of a web site around its content: menus, banner, sidebar and footer."""
    heading = f"Benefits of {draw.choice(WORDS)}"
    first, second, rows = _sentences(draw, 5), _sentences(draw, 5), _rows(draw)
    table = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in [HEADER, *rows])
    menu = "".join(f'<li><a href="/{name}">{name}</a></li>' for name in MENU)
    body = (
        f"<h1>{heading}</h1>"
        + "".join(f"<p>{text} {other}</p>" for text, other in zip(first[::2], [*first[1::2], ""], strict=True))
        + f"<h2>Costs</h2><table>{table}</table>"
        + "".join(f"<p>{text}</p>" for text in second)
    )
    container = [
        "<main>{}</main>",
        '<div id="content">{}</div>',
        '<article class="post">{}</article>',
        "<div>{}</div>",
    ][number % 4]
    html = (
        f'<!doctype html><html lang="en"><head><title>{heading}</title><style>p {{ color: red }}</style><script>var tracking = 1;</script></head><body>'
        f'<header class="site-header"><nav><ul>{menu}</ul></nav></header>'
        f'<div class="cookie-banner">{NOISE[0]} <a href="javascript:accept()">Accept</a></div>'
        f"{container.format(body)}"
        f'<aside class="sidebar"><p>{NOISE[1]}</p><img src="data:image/png;base64,{"QUJD" * 50}"></aside><footer>{NOISE[2]}</footer></body></html>'
    )
    texts = [heading, *first, "Costs", *(cell for row in [HEADER, *rows] for cell in row), *second]
    return MadeFile(
        f"page{number}.html",
        html.encode(),
        texts,
        rows=rows,
        places={second[2]: f"{heading} › Costs"},
        boilerplate=[*MENU, *NOISE, "tracking", "Accept"],
    )


def _html_open_tags(draw: random.Random, number: int) -> MadeFile:
    """Make a page that omits end tags, as the standard allows."""
    rows, items, texts = _rows(draw), _sentences(draw, 4), _sentences(draw, 3)
    table = (
        "<table><thead><tr><th>"
        + "<th>".join(HEADER)
        + "<tbody>"
        + "".join("<tr><td>" + "<td>".join(row) for row in rows)
    )
    html = f"<title>Open</title><h1>Open tags<h2>List</h2><ul>{''.join(f'<li>{item}' for item in items)}</ul>{table}</table>"
    html += "".join(f"<p>{text}" for text in texts)
    return MadeFile(
        f"open{number}.html",
        html.replace("<h1>Open tags<h2>", "<h1>Open tags</h1><h2>").encode(),
        ["Open tags", "List", *items, *(cell for row in [HEADER, *rows] for cell in row), *texts],
        rows=rows,
        places={texts[0]: "Open tags › List"},
    )


def _html_encoded(draw: random.Random, number: int) -> MadeFile:
    encoding, declared = [("cp1252", ""), ("shift_jis", '<meta charset="shift_jis">'), ("utf-16", "")][number % 3]
    extra = "診察料は無料です" if encoding == "shift_jis" else "Prämie für Ärzte – 5 €"
    texts = [*_sentences(draw, 4), extra]
    html = f"{declared}<h1>Encoded</h1>" + "".join(f"<p>{text}</p>" for text in texts)
    return MadeFile(f"encoded{number}.html", html.encode(encoding), ["Encoded", *texts], places={texts[1]: "Encoded"})


def _html_deep(draw: random.Random, number: int) -> MadeFile:
    texts = _sentences(draw, 6)
    html = "<h1>Deep</h1>" + "<div>" * 5_000 + "".join(f"<p>{text}" for text in texts) + "</div>" * 5_000
    return MadeFile(f"deep{number}.html", html.encode(), ["Deep", *texts], places={texts[2]: "Deep"})


def _docx(draw: random.Random, number: int) -> MadeFile:
    import docx

    made = docx.Document()
    first, second, rows, notes = _sentences(draw, 4), _sentences(draw, 4), _rows(draw), _sentences(draw, 2)
    made.add_heading("Coverage & costs", 1)
    for text in first:
        made.add_paragraph(text, style="List Bullet" if number % 2 else None)
    made.add_heading("Table", 2)
    table = made.add_table(rows=0, cols=3)
    for row in [HEADER, *rows]:
        for cell, text in zip(table.add_row().cells, row, strict=True):
            cell.text = text
    if number == 2:  # a merged title row
        merged = table.add_row().cells
        merged[0].merge(merged[2]).text = notes[0]
    for text in second:
        made.add_paragraph(text)
    made.add_paragraph("Members <65 pay more & members >65 pay less.")
    out = io.BytesIO()
    made.save(out)
    texts = ["Coverage & costs", *first, "Table", *(cell for row in [HEADER, *rows] for cell in row)]
    texts += [*([notes[0]] if number == 2 else []), *second, "Members <65 pay more & members >65 pay less."]
    return MadeFile(
        f"letter{number}.docx", out.getvalue(), texts, rows=rows, places={second[1]: "Coverage & costs › Table"}
    )


def _xlsx(draw: random.Random, number: int) -> MadeFile:
    sheets = {f"Plan {letter}": _rows(draw, 8) for letter in "AB"}
    out = io.BytesIO()
    if number % 2:
        import xlsxwriter

        book = xlsxwriter.Workbook(out)
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            for at, row in enumerate([HEADER, *rows]):
                sheet.write_row(at, 0, row)
        book.close()
    else:
        import openpyxl

        made = openpyxl.Workbook()
        made.remove(made.active)
        for name, rows in sheets.items():
            sheet = made.create_sheet(name)
            for row in [HEADER, *rows]:
                sheet.append(row)
        made.save(out)
    texts = [
        text for name, rows in sheets.items() for text in (name, *(cell for row in [HEADER, *rows] for cell in row))
    ]
    all_rows = [row for rows in sheets.values() for row in rows]
    places: dict[str, int | str] = {f"{rows[-1][0]} | {rows[-1][1]}": name for name, rows in sheets.items()}
    return MadeFile(f"book{number}.xlsx", out.getvalue(), texts, rows=all_rows, places=places)


def _pptx(draw: random.Random, number: int) -> MadeFile:
    import pptx

    made = pptx.Presentation()
    texts: list[str] = []
    places: dict[str, int | str] = {}
    for position in range(3):
        slide = made.slides.add_slide(made.slide_layouts[1])
        title, body = f"Slide {position} on {draw.choice(WORDS)}", _sentences(draw, 3)
        slide.shapes.title.text = title
        slide.placeholders[1].text = "\n".join(body)
        texts += [title, *body]
        places[body[1]] = title
    out = io.BytesIO()
    made.save(out)
    return MadeFile(f"slides{number}.pptx", out.getvalue(), texts, places=places)


def _odt(draw: random.Random, number: int) -> MadeFile:
    texts, rows = _sentences(draw, 6), _rows(draw)
    name = "urn:oasis:names:tc:opendocument:xmlns"
    table = "".join(
        "<a:table-row>" + "".join(f"<a:table-cell><t:p>{cell}</t:p></a:table-cell>" for cell in row) + "</a:table-row>"
        for row in [HEADER, *rows]
    )
    body = f'<t:h t:outline-level="1">Terms</t:h>{"".join(f"<t:p>{text}</t:p>" for text in texts)}<a:table>{table}</a:table>'
    content = (
        f'<?xml version="1.0"?><o:document-content xmlns:o="{name}:office:1.0" xmlns:t="{name}:text:1.0" xmlns:a="{name}:table:1.0">'
        f"<o:body><o:text>{body}</o:text></o:body></o:document-content>"
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.text")
        archive.writestr("content.xml", content)
    cells = [cell for row in [HEADER, *rows] for cell in row]
    return MadeFile(
        f"terms{number}.odt", out.getvalue(), ["Terms", *texts, *cells], rows=rows, places={texts[3]: "Terms"}
    )


def _rtf(draw: random.Random, number: int) -> MadeFile:
    texts = _sentences(draw, 6)
    body = "\\par ".join(text.replace("\\", "\\\\") for text in texts)
    return MadeFile(f"old{number}.rtf", f"{{\\rtf1\\ansi\\deff0 {body}\\par}}".encode(), texts)


def epub(bodies: Sequence[str]) -> bytes:
    """Return an EPUB with one chapter for each body of XHTML."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile full-path="c.opf"/></rootfiles></container>',
        )
        numbers = range(len(bodies))
        items = "".join(f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>' for n in numbers)
        spine = "".join(f'<itemref idref="c{n}"/>' for n in numbers)
        archive.writestr(
            "c.opf",
            f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>',
        )
        for number, body in enumerate(bodies):
            page = f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{body}</body></html>'
            archive.writestr(f"c{number}.xhtml", page)
    return out.getvalue()


def _epub(draw: random.Random, number: int) -> MadeFile:
    chapters = [(f"Chapter {position} of {draw.choice(WORDS)}", _sentences(draw, 4)) for position in range(3)]
    made = epub([f"<h1>{title}</h1>" + "".join(f"<p>{text}</p>" for text in texts) for title, texts in chapters])
    texts = [text for title, inner in chapters for text in (title, *inner)]
    places: dict[str, int | str] = {inner[1]: title for title, inner in chapters}
    return MadeFile(f"book{number}.epub", made, texts, places=places)


def _eml(draw: random.Random, number: int) -> MadeFile:
    from email.message import EmailMessage

    texts = _sentences(draw, 6)
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Your claim", "plan@example.org", "member@example.org"
    message.set_content("\n".join(texts))
    if number:
        message.add_alternative("".join(f"<p>{escape(text)}</p>" for text in texts), subtype="html")
    return MadeFile(f"mail{number}.eml", bytes(message), ["Your claim", *texts])


def _markdown(draw: random.Random, number: int) -> MadeFile:
    texts, rows = _sentences(draw, 6), _rows(draw)
    table = "\n".join("| " + " | ".join(row) + " |" for row in [HEADER, ("---",) * 3, *rows])
    front = ["", "---\ntitle: Plan\nyear: 2026\n---\n", '+++\ntitle = "Plan"\n+++\n'][number % 3]
    text = f"{front}# Plan\n\n" + "\n\n".join(texts[:3]) + f"\n\n## Costs\n\n{table}\n\n" + "\n\n".join(texts[3:])
    cells = [cell for row in [HEADER, *rows] for cell in row]
    return MadeFile(
        f"note{number}.md",
        text.encode(),
        ["Plan", *texts[:3], "Costs", *cells, *texts[3:]],
        rows=rows,
        places={texts[4]: "Plan › Costs"},
    )


def _csv(draw: random.Random, number: int) -> MadeFile:
    rows = _rows(draw, 8)
    mark, suffix = [(",", "csv"), ("\t", "tsv")][number % 2]
    text = "\r\n".join(mark.join(row) for row in [HEADER, *rows])
    return MadeFile(
        f"list{number}.{suffix}", text.encode(), [cell for row in [HEADER, *rows] for cell in row], rows=rows
    )


def _text(draw: random.Random, number: int) -> MadeFile:
    texts = [
        *_sentences(draw, 20),
        "Prämien für Ärzte und Zähne übernehmen wir größtenteils: fünf Prozent über müde Bürger.",
    ]
    encoding = ["utf-8-sig", "utf-16", "cp1252"][number % 3]
    return MadeFile(f"plain{number}.txt", "\n\n".join(texts).encode(encoding), texts)


def _json_xml(draw: random.Random, number: int) -> MadeFile:
    texts = _sentences(draw, 6)
    xml = "<plan>" + "".join(f"<clause>{escape(text)}</clause>" for text in texts) + "</plan>"
    return MadeFile(f"data{number}.xml", xml.encode(), texts)
