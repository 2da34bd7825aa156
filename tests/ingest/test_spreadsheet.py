"""Spreadsheets are read as people see them: files from two programs and files written by hand."""

from __future__ import annotations

import datetime as dt
import io
from typing import Any

import pytest

from ragcore import InvalidInput
from ragcore.ingest.readers.spreadsheet import read_xlsx

SHOWN: list[tuple[Any, str, str]] = [
    (0.1, "0%", "10%"),
    (0.125, "0.0%", "12.5%"),
    (1234.5, "#,##0.00 [$€-407]", "1,234.50 €"),
    (1234.5, '"$"#,##0.00', "$1,234.50"),
    (-1234.5, '"$"#,##0.00', "-$1,234.50"),
    (-5, "0;(0)", "(5)"),
    (1234, "00000", "01234"),
    (3, '0 "months"', "3 months"),
    (1.5, "[h]:mm", "36:00"),
    (0.3541667, "hh:mm", "08:30"),
    (45292, "yyyy-mm-dd", "2024-01-01"),
    (45292.5, "dd.mm.yyyy hh:mm", "2024-01-01 12:00"),
    (1500, "General", "1500"),
    (0.1, "General", "0.1"),
    (-24, "General", "-24"),
    (35, "0.00", "35.00"),
    (1_234_567, "#,##0", "1,234,567"),
    ("*x* [a](b) <65 & more", "@", "*x* [a](b) <65 & more"),
    (True, "General", "TRUE"),
]


def table(data: bytes) -> list[list[str]]:
    lines = [line for line in read_xlsx(data).text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("writer", ["xlsxwriter", "openpyxl"])
def test_numbers_are_as_they_are_shown(writer: str) -> None:
    out = io.BytesIO()
    if writer == "xlsxwriter":
        import xlsxwriter

        book = xlsxwriter.Workbook(out)
        sheet = book.add_worksheet("A & B")
        sheet.write_row(0, 0, ["number", "shown"])
        for row, (value, code, _) in enumerate(SHOWN, start=1):
            sheet.write(row, 0, row)
            sheet.write(row, 1, value, book.add_format({"num_format": code}))
        book.close()
    else:
        import openpyxl

        made = openpyxl.Workbook()
        made.active.title = "A & B"
        made.active.append(["number", "shown"])
        for row, (value, code, _) in enumerate(SHOWN, start=2):
            made.active.cell(row, 1, row - 1)
            made.active.cell(row, 2, value).number_format = code
        made.save(out)
    data = out.getvalue()
    assert read_xlsx(data).text.startswith("## A & B\n")
    assert [row[1] for row in table(data)[1:]] == [shown for _, _, shown in SHOWN]


def test_times_dates_and_durations_are_as_they_are_shown() -> None:
    import openpyxl

    made = openpyxl.Workbook()
    made.active.append(
        [
            dt.time(8, 30),
            dt.date(2026, 5, 3),
            dt.datetime(2026, 5, 3, 17, 45),  # noqa: DTZ001
            dt.timedelta(hours=36),
        ]
    )
    out = io.BytesIO()
    made.save(out)
    assert table(out.getvalue()) == [["08:30", "2026-05-03", "2026-05-03 17:45", "36:00"]]


def test_merged_cells_are_repeated_in_each_row_and_hidden_parts_are_left_out() -> None:
    import openpyxl

    made = openpyxl.Workbook()
    sheet = made.active
    sheet.title = "Plans"
    for row in (["Plan", "Service", "Pay"], ["Gold", "Visit", 5], [None, "Lab", 6], ["secret", "x", 7]):
        sheet.append(row)
    sheet.merge_cells("A2:A3")
    sheet.row_dimensions[4].hidden = True
    made.create_sheet("Internal").append(["margin", 0.3])
    made["Internal"].sheet_state = "hidden"
    out = io.BytesIO()
    made.save(out)
    found = read_xlsx(out.getvalue())
    assert table(out.getvalue()) == [["Plan", "Service", "Pay"], ["Gold", "Visit", "5"], ["Gold", "Lab", "6"]]
    assert found.warnings == ("hidden sheets were left out: Internal",)
    assert found.metadata == {"sheet_names": ["Plans"]}


def test_formulas_have_their_last_value_or_are_counted() -> None:
    import openpyxl
    import xlsxwriter

    out = io.BytesIO()
    book = xlsxwriter.Workbook(out)
    sheet = book.add_worksheet()
    sheet.write_row(0, 0, ["sum", "text"])
    sheet.write_formula(1, 0, "=1+2", None, 3)
    sheet.write_formula(1, 1, '="a"&"b"', None, "ab")
    book.close()
    assert table(out.getvalue())[1] == ["3", "ab"]

    made = openpyxl.Workbook()
    made.active.append(["sum", "=1+2"])
    out = io.BytesIO()
    made.save(out)
    assert read_xlsx(out.getvalue()).warnings == (
        "1 formulas have no value: open the file in a spreadsheet program and save it",
    )


def test_rich_text_is_read_and_cells_far_away_are_left_out() -> None:
    import xlsxwriter

    out = io.BytesIO()
    book = xlsxwriter.Workbook(out)
    sheet = book.add_worksheet()
    sheet.write_rich_string(0, 0, "Copay ", book.add_format({"bold": True}), "$35", " a visit")
    sheet.write(5, 3, "far")
    sheet.write(1_048_575, 16_383, "too far")
    book.close()
    assert (
        table(out.getvalue()) == [["Copay $35 a visit"], ["", "", "", "far"]]
        or "Copay $35 a visit" in read_xlsx(out.getvalue()).text
    )


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\xd0\xcf\x11\xe0" + b"\0" * 600, b"no zip"])
def test_invalid_spreadsheets_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_xlsx(data)
