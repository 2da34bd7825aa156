"""PDF files in the forms that programs write."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ragcore import InvalidInput
from ragcore.ingest.parsed import Parsed
from ragcore.ingest.readers.pdf import read_pdf
from ragcore.ingest.readers.pdf.doubts import EMPTY, doubt

LINES = ["The deductible is $1,500 a year.", "A visit to a specialist costs $35."]


def drawn(draw: Callable[[Any], None], *, pages: int = 1) -> bytes:
    """Return a PDF whose pages `draw` draws on a canvas of reportlab."""
    from reportlab.lib.pagesizes import A4
    from reportlab.pdfgen.canvas import Canvas

    out = io.BytesIO()
    canvas = Canvas(out, pagesize=A4)
    for _ in range(pages):
        canvas.setFont("Helvetica", 11)
        draw(canvas)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def by_fpdf(draw: Callable[[Any], None], *, pages: int = 1) -> bytes:
    from fpdf import FPDF

    made = FPDF()
    for _ in range(pages):
        made.add_page()
        made.set_font("helvetica", size=11)
        draw(made)
    return bytes(made.output())


def read(data: bytes) -> Parsed:
    return read_pdf(data)


def letter_by_letter(canvas: Any) -> None:
    for row, line in enumerate(LINES):
        x = 72.0
        for letter in line:
            canvas.drawString(x, 700 - 14 * row, letter)
            x += canvas.stringWidth(letter, "Helvetica", 11)


def word_by_word_without_blanks(canvas: Any) -> None:
    for row, line in enumerate(LINES):
        x = 72.0
        for word in line.split():
            canvas.drawString(x, 700 - 14 * row, word)
            x += canvas.stringWidth(word + " ", "Helvetica", 11)


def kerned(canvas: Any) -> None:
    """Draw each letter with its own operator, as browsers and Google Docs do."""
    for row, line in enumerate(LINES):
        text = canvas.beginText(72, 700 - 14 * row)
        for letter in line:
            text.setCharSpace(0.1 if letter in "aeiou" else 0)
            text.textOut(letter)
        canvas.drawText(text)


@pytest.mark.parametrize("way", [letter_by_letter, word_by_word_without_blanks, kerned])
def test_words_are_whole_for_every_way_of_drawing_them(way: Callable[[Any], None]) -> None:
    text = read(drawn(way)).text
    assert all(line in text for line in LINES)


def test_a_word_that_was_hyphenated_is_joined_and_one_with_a_hyphen_is_not() -> None:
    rows = [
        "Be efficient. It is well known that you are effi-",
        "cient, and that a co-payment is due. A well-",
        "known doctor asks for a co-",
        "payment as well as the others do.",
    ]

    def draw(canvas: Any) -> None:
        for row, line in enumerate(rows):
            canvas.drawString(72, 700 - 14 * row, line)

    text = read(drawn(draw)).text
    assert "you are efficient," in text
    assert "well-known doctor" in text
    assert "co-payment as well" in text
    assert "\x02" not in text


def test_two_heading_lines_are_one_heading_and_large_paragraphs_are_prose() -> None:
    def draw(canvas: Any) -> None:
        canvas.setFont("Helvetica-Bold", 20)
        canvas.drawString(72, 780, "The benefits of the")
        canvas.drawString(72, 756, "silver plan")
        canvas.setFont("Helvetica", 14)
        for row in range(6):
            canvas.drawString(72, 700 - 17 * row, f"An introduction in larger letters, line {row}.")
        canvas.setFont("Helvetica", 11)
        for row in range(30):
            canvas.drawString(72, 580 - 14 * row, f"This is line {row} of the text, in the letters of the body.")

    text = read(drawn(draw)).text
    assert [line for line in text.splitlines() if line.startswith("#")] == ["## The benefits of the silver plan"]


def test_an_amount_in_bold_is_not_a_heading() -> None:
    def draw(canvas: Any) -> None:
        for row in range(20):
            canvas.drawString(72, 700 - 14 * row, f"This is line {row} of the text.")
        canvas.setFont("Helvetica-Bold", 11)
        canvas.drawString(72, 400, "Out-of-pocket maximum")
        canvas.setFont("Helvetica-Bold", 16)
        canvas.drawString(72, 380, "$12,500.00")

    assert "#" not in read(drawn(draw)).text


def test_line_numbers_are_removed() -> None:
    def draw(canvas: Any) -> None:
        for row in range(20):
            canvas.drawString(100, 700 - 20 * row, f"The sentence of line {row} stands here.")
        for row in range(20):
            canvas.drawString(40, 703 - 20 * row, str(row + 1))

    lines = read(drawn(draw)).text.strip("\f").splitlines()
    assert [line for line in lines if line.strip().isdecimal()] == []
    assert sum("The sentence of line" in line for line in lines) == 20


def test_a_page_with_only_repeated_lines_keeps_them() -> None:
    def draw(canvas: Any) -> None:
        canvas.drawString(72, 810, "Silver plan 2026")

    made = read(drawn(draw, pages=6))
    assert made.text.count("Silver plan 2026") == 6
    assert made.warnings == ()


@pytest.mark.parametrize("writer", ["fpdf2", "reportlab"])
def test_figures_of_neighbouring_columns_stay_apart(writer: str) -> None:
    rows = [("Visit", "20", "35"), ("Surgery", "1,500", "2,500")]

    def draw(page: Any) -> None:
        for row, cells in enumerate(rows):
            for x, cell in zip((72, 250, 300), cells, strict=True):
                page.drawString(x, 700 - 14 * row, cell)

    def draw_by_fpdf(page: Any) -> None:
        for row, cells in enumerate(rows):
            for x, cell in zip((20, 90, 110), cells, strict=True):
                page.text(x, 40 + 6 * row, cell)

    data = drawn(draw) if writer == "reportlab" else by_fpdf(draw_by_fpdf)
    assert read(data).text.strip("\f").splitlines() == ["Visit | 20 | 35", "Surgery | 1,500 | 2,500"]


def test_columns_of_text_are_read_one_after_the_other() -> None:
    def draw(canvas: Any) -> None:
        for column, x in (("left", 72), ("right", 320)):
            for row in range(10):
                canvas.drawString(x, 700 - 14 * row, f"The {column} column, line number {row}.")

    text = read(drawn(draw)).text
    assert text.index("left column, line number 9") < text.index("right column, line number 0")


def test_form_fields_are_read_with_their_page() -> None:
    def draw(canvas: Any) -> None:
        page = canvas.getPageNumber()
        canvas.drawString(72, 700, f"Form, page {page}")
        canvas.acroForm.textfield(name=f"member{page}", value=f"Number {page * 111}", x=72, y=650, width=200)

    made = read(drawn(draw, pages=2))
    first, second = made.text.split("\f")
    assert "member1: Number 111" in first
    assert "member2: Number 222" in second


def test_a_page_with_only_form_fields_is_not_reported_as_an_image() -> None:
    made = read(drawn(lambda canvas: canvas.acroForm.textfield(name="member", value="Ann", x=72, y=650, width=200)))
    assert (made.text, made.warnings) == ("member: Ann\f", ())


def test_text_typed_over_a_page_is_read() -> None:
    import pypdf
    from pypdf.annotations import FreeText

    writer = pypdf.PdfWriter(io.BytesIO(by_fpdf(lambda page: page.text(20, 20, "Claim form"))))
    writer.add_annotation(0, FreeText(text="Paid on 3 May\u00a02026", rect=(50, 550, 300, 650)))
    out = io.BytesIO()
    writer.write(out)
    assert "Paid on 3 May 2026" in read(out.getvalue()).text


def font(name: str) -> str:
    matplotlib = pytest.importorskip("matplotlib")
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name)


def in_unicode(*lines: str, name: str = "DejaVuSans.ttf") -> bytes:
    from fpdf import FPDF

    made = FPDF()
    made.add_page()
    made.add_font("unicode", fname=font(name))
    made.set_font("unicode", size=12)
    for line in lines:
        made.cell(text=line, new_x="LMARGIN", new_y="NEXT")
    return bytes(made.output())


def own(data: bytes) -> str:
    """Return the text that pdfium itself extracts from a file."""
    import pypdfium2

    return str(pypdfium2.PdfDocument(data)[0].get_textpage().get_text_range())


@pytest.mark.parametrize(
    "line",
    [
        "השתתפות עצמית היא 1500 דולר לשנה",
        "قيمة التحمل السنوي هي ١٥٠٠ دولار",
        "Ο ασφαλισμένος πληρώνει 1.500 ευρώ",
        "Страховка покрывает лечение зубов",
    ],
)
def test_other_scripts_come_as_pdfium_reads_them(line: str) -> None:
    data = in_unicode(line, line)
    assert read(data).text.strip("\f").split() == own(data).split()


def test_chinese_and_japanese_come_as_pdfium_reads_them() -> None:
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont

    pdfmetrics.registerFont(UnicodeCIDFont("HeiseiMin-W3"))

    def draw(canvas: Any) -> None:
        canvas.setFont("HeiseiMin-W3", 12)
        canvas.drawString(72, 700, "免責金額は年間千五百ドルです。")
        canvas.drawString(72, 680, "歯科の診察は無料です。")

    data = drawn(draw)
    assert read(data).text.strip("\f") == "免責金額は年間千五百ドルです。\n歯科の診察は無料です。"
    assert own(data).split() == read(data).text.split()


def test_letters_beyond_the_first_plane_are_whole() -> None:
    data = in_unicode("𝑥 + 𝑦 = 𝑧", name="STIXGeneral.ttf")
    assert read(data).text.strip("\f").encode().decode() == "𝑥 + 𝑦 = 𝑧"


def plain() -> bytes:
    from fpdf import FPDF

    made = FPDF()
    made.set_compression(False)
    for number in range(3):
        made.add_page()
        made.set_font("helvetica", size=11)
        made.multi_cell(0, text=f"The deductible of plan {number} is $1,500 a year for each member of the family.")
    return bytes(made.output())


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "no header": lambda data: data.replace(b"%PDF-1.3", b"%XXX-1.3"),
    "no root": lambda data: re.sub(rb"/Root \d+ 0 R", b"/Root 999 0 R", data),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_second_reader_may_read_a_file_that_pdfium_refuses(damage: str) -> None:
    made = read(DAMAGE[damage](plain()))
    assert [f"plan {number} is $1,500" in page for number, page in enumerate(made.text.split("\f"))] == [True] * 3
    assert "it is damaged" in made.warnings[0]


def test_a_page_that_fails_its_check_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragcore.ingest.readers.pdf.text_of", lambda page, *_: "/g18/g152/g135 " * 20)
    made = read(plain())
    assert "plan 2 is $1,500" in made.text
    assert made.warnings == ()


def test_the_report_warns_if_both_readers_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragcore.ingest.readers.pdf.text_of", lambda page, *_: "/g18/g152/g135 " * 20)
    monkeypatch.setattr("ragcore.ingest.readers.pdf.read_again", lambda data, pages: {})
    assert read(plain()).warnings == ("names of glyphs instead of letters (page 1, 2, 3)",)


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7", b"%PDF-1.7\n" + b"\0" * 10_000, b"no pdf at all"])
def test_a_file_that_no_reader_can_read_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="it is broken, or not a PDF"):
        read(data)


SENTENCE = "The deductible is $1,500 a year, and a visit to a specialist costs $35 with a referral. "


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("/g18/g152/g135/g148 /g12/g13/g14/g15 " * 5, "names of glyphs instead of letters"),
        ("(cid:12)(cid:13)(cid:14) " * 5, "names of glyphs instead of letters"),
        ("% & ( ) $ + ' " * 40, "few readable letters"),
        ("\ufffd\ufffd\ufffd abc " * 10, "few readable letters"),
        ("\ue001\ue002\ue003 " * 10, "few readable letters"),
        ("\n".join(SENTENCE.replace(" ", "")), "one letter a line"),
        (" ".join(SENTENCE.replace(" ", "")), "blanks between all letters"),
        ("Explaintheimportanceofaskingquestionsanddescribing " * 4, "words without spaces between them"),
        ("", EMPTY),
        (" \n ", EMPTY),
    ],
)
def test_implausible_text_raises_a_doubt(text: str, kind: str) -> None:
    assert doubt(text) == kind


@pytest.mark.parametrize(
    "text",
    [
        SENTENCE * 5,
        "Visit | $35\nLab | $5\nMRI | 20 %\n" * 20,
        "Contents\n" + "Costs . . . . . . . . . . . . . 3\n" * 20,
        "免責金額は年間千五百ドルです。" * 20,
        "☐ yes ☐ no ☑ maybe\n" * 20,
        "a1\na2\na3\n" * 20,
        "abcdefghijklmnopqrstuvwxyz 0123456789",
        "Donaudampfschifffahrtsgesellschaftskapitän und die Rechtsschutzversicherungsgesellschaft " + SENTENCE * 2,
        "https://example.org/aVeryLongAddressWithoutAnyBlanksInIt " + SENTENCE * 2,
        "4/12/2024, 5/12/2024, 6/12/2024",
    ],
)
def test_plausible_text_raises_no_doubt(text: str) -> None:
    assert doubt(text) == ""


def test_an_empty_cell_does_not_move_numbers_to_another_column() -> None:
    rows = [
        ["Benefit", "Gold", "Silver", "Bronze"],
        ["Dental", "500", "", "100"],
        ["Vision", "", "", "200"],
        ["Lab", "5", "6", ""],
    ]

    def draw(canvas: Any) -> None:
        for number, row in enumerate(rows):
            for column, text in enumerate(row):
                if text:
                    canvas.drawString(60 + column * 120, 700 - number * 16, text)

    assert read(drawn(draw)).text.strip("\f").splitlines() == [
        "Benefit | Gold | Silver | Bronze", "Dental | 500 |  | 100", "Vision |  |  | 200", "Lab | 5 | 6 | ",
    ]  # fmt: skip


def test_lines_at_the_edge_that_differ_between_pages_are_kept() -> None:
    def draw(canvas: Any) -> None:
        page = canvas.getPageNumber()
        canvas.drawString(60, 815, "Acme Health Plan")
        canvas.drawString(60, 800, f"Tariff {100 + page}: monthly premium {page * 37 + 20} euro")
        for row in range(20):
            canvas.drawString(60, 750 - row * 14, f"Text of page {page} in line {row} about the plan.")
        canvas.drawString(60, 50, f"Deductible: {page * 250} euro")
        canvas.drawString(280, 25, f"Page {page} of 6")

    text = read(drawn(draw, pages=6)).text
    for page in range(1, 7):
        assert f"Tariff {100 + page}: monthly premium {page * 37 + 20} euro" in text
        assert f"Deductible: {page * 250} euro" in text
    assert "Acme" not in text
    assert "of 6" not in text


def test_a_column_of_consecutive_numbers_is_kept() -> None:
    def draw(canvas: Any) -> None:
        canvas.drawString(60, 750, "Premium by age")
        for row in range(12):
            canvas.drawString(60, 700 - row * 14, str(1 + row))
        for row in range(12):
            canvas.drawString(200, 700 - row * 14, f"{100 + row * 7} euro")

    words = read(drawn(draw)).text.split()
    assert all(str(1 + row) in words for row in range(12))


def test_a_hyphen_of_a_compound_stays() -> None:
    def draw(canvas: Any) -> None:
        for row, line in enumerate(["In the plan-", "year you get long-", "term care and rehabili-", "tation."]):
            canvas.drawString(72, 700 - 14 * row, line)

    assert read(drawn(draw)).text.strip("\f") == "In the plan-year you get long-term care and rehabilitation."


def test_a_footnote_mark_is_separated_from_the_number_before_it() -> None:
    def draw(canvas: Any) -> None:
        text = canvas.beginText(72, 700)
        text.textOut("The deductible is $500")
        text.setFont("Helvetica", 6)
        text.setRise(4)
        text.textOut("12")
        text.setRise(0)
        text.setFont("Helvetica", 11)
        text.textOut(" a year, and 10")
        text.setFont("Helvetica", 6)
        text.setRise(4)
        text.textOut("6")
        canvas.drawText(text)

    assert read(drawn(draw)).text.strip("\f") == "The deductible is $500^12 a year, and 10^6"
