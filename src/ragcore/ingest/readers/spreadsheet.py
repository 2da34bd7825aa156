"""Reads spreadsheets (.xlsx) as tables, each under its sheet's name, with numbers as a reader sees them.

kreuzberg returns the stored numbers: 0.1 for 10 %, 45292 for a date. So this module reads the parts itself, with the standard library.

Source: ECMA-376, part 1, 18.3 (cells), 18.8.30 (number formats) and 18.17.4 (dates).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

from ragcore.errors import InvalidInput
from ragcore.ingest.parsed import Parsed
from ragcore.ingest.readers.encoding import clean
from ragcore.ingest.readers.office import check_encrypted, check_zip
from ragcore.ingest.readers.table import as_table

__all__ = ["read_xlsx"]

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
STRICT = "{http://purl.oclc.org/ooxml/spreadsheetml/main}"
RELATION = re.compile(r"\{[^}]*\}id$")
MOST_CELLS = 2_000_000
# This limit is for sparse sheets, which may have a few cells far away from all others.
MOST_COLUMNS = 1_000
MOST_MERGED = 10_000
# The built-in formats. Source: ECMA-376, 18.8.30.
FORMATS = {
    9: "0%", 10: "0.00%", 14: "yyyy-mm-dd", 15: "d-mmm-yy", 16: "d-mmm", 17: "mmm-yy", 18: "h:mm", 19: "h:mm:ss", 20: "h:mm", 21: "h:mm:ss",
    22: "yyyy-mm-dd h:mm",
    3: "#,##0", 4: "#,##0.00", 2: "0.00", 1: "0", 37: "#,##0", 38: "#,##0", 39: "#,##0.00", 40: "#,##0.00", 45: "mm:ss", 46: "[h]:mm:ss", 47: "mm:ss",
    **dict.fromkeys((5, 6), "$#,##0"), **dict.fromkeys((7, 8), "$#,##0.00"), 44: "$#,##0.00", 42: "$#,##0", 41: "#,##0", 43: "#,##0.00",
}  # fmt: skip
QUOTED = re.compile(r'"([^"]*)"|\\(.)')
CURRENCY = re.compile(r"\[\$([^\]-]*)(?:-[^\]]*)?\]")
ELAPSED = re.compile(r"\[(h+|m+|s+)\]", re.IGNORECASE)
BRACKETS = re.compile(r"\[[^\]]*\]")
DATE = re.compile(r"[dyhs]|m", re.IGNORECASE)
# In a format, "_x" leaves as much room as the character x needs, and "*x" fills the cell with x.
SPACED = re.compile(r"[_*].")


def read_xlsx(data: bytes) -> Parsed:
    """Read a spreadsheet with percentages, currencies, dates and times as they are shown.

    Merged cells are repeated; hidden rows and sheets are left out.
    """
    check_encrypted(data)
    check_zip(data)
    with zipfile.ZipFile(BytesIO(data)) as archive:
        book = _Book(archive)
        parts = []
        without_value = 0
        for name, path in book.sheets:
            rows, without = book.rows(path)
            without_value += without
            table = as_table(rows)
            if table:
                parts.append(f"## {name}\n\n{table}")
    warnings = (
        [f"{without_value} formulas have no value: open the file in a spreadsheet program and save it"]
        if without_value
        else []
    )
    if book.hidden:
        warnings.append(f"hidden sheets were left out: {', '.join(book.hidden)[:300]}")
    metadata: dict[str, Any] = {"sheet_names": [name for name, _ in book.sheets]}
    return Parsed(clean("\n".join(parts)), title=book.title, metadata=metadata, warnings=tuple(warnings))


class _Book:
    """The parts that all sheets share."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._names = {name.lower().lstrip("/"): name for name in archive.namelist()}
        self._cells = 0
        main = self._main()
        book = self._read(main)
        folder = main.rpartition("/")[0]
        targets = self._targets(folder, main.rpartition("/")[2])
        properties = _first(book, "workbookPr")
        # Files from some programs on the Macintosh count days from 1904.
        since_1904 = properties is not None and properties.get("date1904") in ("1", "true")
        self._epoch = datetime(1904, 1, 1) if since_1904 else datetime(1899, 12, 30)  # noqa: DTZ001  # dates in a spreadsheet have no time zone
        self.sheets: list[tuple[str, str]] = []
        self.hidden: list[str] = []
        for sheet in _all(book, "sheet"):
            relation = next((value for key, value in sheet.attrib.items() if RELATION.search(key)), "")
            name = " ".join((sheet.get("name") or "").split())
            if sheet.get("state") in ("hidden", "veryHidden"):
                self.hidden.append(name)
            elif relation in targets:
                self.sheets.append((name, targets[relation]))
        self._strings = [_text(one) for one in _all(self._read(f"{folder}/sharedStrings.xml", missing=True), "si")]
        self._formats = list(self._styles(f"{folder}/styles.xml"))
        core = self._read("docProps/core.xml", missing=True)
        self.title = " ".join(next((one.text or "" for one in core if one.tag.endswith("}title")), "").split())[:300]

    def rows(self, path: str) -> tuple[list[list[str]], int]:
        """Return the rows of a sheet, and the number of formulas without a value."""
        sheet = self._read(path)
        grid: dict[int, dict[int, str]] = {}
        without = 0
        for number, row in enumerate(_all(sheet, "row"), start=1):
            at = int(row.get("r") or number)
            if row.get("hidden") in ("1", "true"):
                continue
            for position, cell in enumerate(one for one in row if one.tag.endswith("}c")):
                column = _column(cell.get("r") or "", position)
                text = self._value(cell)
                if not text and _first(cell, "f") is not None:
                    without += 1
                if text and column < MOST_COLUMNS:
                    grid.setdefault(at, {})[column] = text
                    self._cells += 1
            if self._cells > MOST_CELLS:
                raise InvalidInput(f"it has more than {MOST_CELLS:,} cells: split it")
        for merged in list(_all(sheet, "mergeCell"))[:MOST_MERGED]:
            _spread(grid, merged.get("ref") or "")
        if not grid:
            return [], without
        first = min(min(row) for row in grid.values())
        return [
            [row.get(column, "") for column in range(first, max(row) + 1)] for _, row in sorted(grid.items()) if row
        ], without

    def _value(self, cell: Element) -> str:
        kind, value = cell.get("t") or "n", _first(cell, "v")
        raw = "" if value is None else value.text or ""
        if kind == "inlineStr":
            inline = _first(cell, "is")
            return "" if inline is None else _text(inline)
        if kind == "s":
            return self._strings[int(raw)] if raw.isdigit() and int(raw) < len(self._strings) else ""
        if kind == "b":
            return {"1": "TRUE", "0": "FALSE"}.get(raw, raw)
        if kind in ("str", "e", "d") or not raw:
            return raw
        style = cell.get("s") or "0"
        code = self._formats[int(style)] if style.isdigit() and int(style) < len(self._formats) else ""
        return _shown(raw, code, self._epoch)

    def _styles(self, path: str) -> Iterator[str]:
        styles = self._read(path, missing=True)
        own = {one.get("numFmtId") or "": one.get("formatCode") or "" for one in _all(styles, "numFmt")}
        cells = _first(styles, "cellXfs")
        for one in () if cells is None else cells:
            number = one.get("numFmtId") or "0"
            yield own.get(number) or (FORMATS.get(int(number), "") if number.isdigit() else "")

    def _main(self) -> str:
        for relation in self._read("_rels/.rels", missing=True):
            if (relation.get("Type") or "").endswith("/officeDocument"):
                return (relation.get("Target") or "").lstrip("/")
        return "xl/workbook.xml"

    def _targets(self, folder: str, name: str) -> dict[str, str]:
        found = {}
        for relation in self._read(f"{folder}/_rels/{name}.rels", missing=True):
            target = relation.get("Target") or ""
            found[relation.get("Id") or ""] = target.lstrip("/") if target.startswith("/") else f"{folder}/{target}"
        return found

    def _read(self, path: str, *, missing: bool = False) -> Element:
        name = self._names.get(path.lower().lstrip("/"))
        if name is None:
            if missing:
                return Element("none")
            raise InvalidInput(f"it is broken ({path} is missing)")
        data = self._archive.read(name)
        if b"<!ENTITY" in data[:65_536]:
            raise InvalidInput("it declares XML entities, which are not supported")
        return ET.fromstring(data)  # noqa: S314  # entities are refused above, and expat limits them


def _all(element: Element, name: str) -> Iterator[Element]:
    yield from element.iter(MAIN + name)
    yield from element.iter(STRICT + name)


def _first(element: Element, name: str) -> Element | None:
    return next(_all(element, name), None)


def _text(element: Element) -> str:
    """Return the text of a string, without the phonetic readings of Japanese texts."""
    pieces: list[str] = []
    for one in element:
        if one.tag.endswith("}t"):
            pieces.append(one.text or "")
        elif one.tag.endswith("}r"):
            pieces += [inner.text or "" for inner in one if inner.tag.endswith("}t")]
    return re.sub(r"_x([0-9A-F]{4})_", lambda found: chr(int(found[1], 16)), "".join(pieces))


def _column(reference: str, default: int) -> int:
    letters = re.match(r"[A-Za-z]{1,3}", reference)
    if letters is None:
        return default
    number = 0
    for letter in letters[0].upper():
        number = number * 26 + ord(letter) - 64
    return number - 1


def _spread(grid: dict[int, dict[int, str]], reference: str) -> None:
    """Repeat the text of a merged cell in each place that it covers within the table, so that each row is complete."""
    found = re.fullmatch(r"([A-Z]{1,3})(\d{1,7}):([A-Z]{1,3})(\d{1,7})", reference)
    if found is None:
        return
    left, right, top, bottom = _column(found[1], 0), _column(found[3], 0), int(found[2]), int(found[4])
    text = grid.get(top, {}).get(left, "")
    if not text or right - left > MOST_COLUMNS or (left == right == 0 and bottom - top > MOST_MERGED):
        return
    for row in range(top, min(bottom, top + MOST_MERGED) + 1):
        if row in grid:
            for column in range(left, right + 1):
                grid[row].setdefault(column, text)


def _shown(raw: str, code: str, epoch: datetime) -> str:
    """Return a number as its format shows it; if the format is not supported, return the number as it is stored."""
    try:
        value = float(raw)
    except ValueError:
        return raw
    if value != value or abs(value) == float("inf"):
        return raw
    sections = code.split(";")
    code = sections[1] if value < 0 and len(sections) > 1 and sections[1].strip() else sections[0]
    own_sign = value < 0 and len(sections) > 1 and bool(sections[1].strip())
    words = CURRENCY.sub(lambda found: f'"{found[1]}"', SPACED.sub("", code))
    elapsed = ELAPSED.search(words)
    bare = BRACKETS.sub("", QUOTED.sub("", words))
    if (
        code
        and code.lower() != "general"
        and (elapsed or (DATE.search(bare) and not re.search(r"[0#]", bare.replace(".0", ""))))
    ):
        return _moment(value, bare, elapsed is not None, epoch)
    digits = re.search(r"[0#?][0#?,. ]*", BRACKETS.sub("", QUOTED.sub(lambda found: "\x00" * len(found[0]), words)))
    if digits is None or "E" in bare.upper() or "/" in bare:
        return _plain(raw, value)
    masked = BRACKETS.sub("", words)
    mask = QUOTED.sub(lambda found: "\x00" * len(found[0]), masked)
    spot = re.search(r"[0#?][0#?,. ]*[0#?]|[0#?]", mask)
    assert spot is not None
    pattern = spot[0]
    if "%" in bare:
        value *= 100
    decimals = len(re.sub(r"[^0#?]", "", pattern.partition(".")[2]))
    least = len(re.sub(r"[^0]", "", pattern.partition(".")[0]))
    number = f"{abs(value) if own_sign else value:{',' if ',' in pattern else ''}.{decimals}f}"
    if least > 1 and "," not in pattern:
        sign, bare_number = ("-", number[1:]) if number.startswith("-") else ("", number)
        whole, point, rest = bare_number.partition(".")
        number = sign + whole.zfill(least) + point + rest
    before, after = masked[: spot.start()], masked[spot.end() :]
    shown = _literal(before) + number + _literal(after)
    if shown.count("-") and not number.startswith("-"):
        return shown.strip()
    # Write the minus before the currency.
    return ("-" + _literal(before) + number[1:] + _literal(after)).strip() if number.startswith("-") else shown.strip()


def _plain(raw: str, value: float) -> str:
    return (
        str(int(value))
        if value.is_integer() and abs(value) < 1e15
        else f"{value:.15g}"
        if "E" in raw.upper() or len(raw) > 16
        else raw
    )


def _literal(code: str) -> str:
    """Return the literal text in a part of a format."""
    return (
        QUOTED.sub(lambda found: found[1] if found[1] is not None else found[2], code).replace("?", "").replace("@", "")
    )


def _moment(days: float, bare: str, elapsed: bool, epoch: datetime) -> str:
    seconds = round(days * 86_400)
    if elapsed:
        hours, rest = divmod(abs(seconds), 3_600)
        return f"{'-' if seconds < 0 else ''}{hours}:{rest // 60:02}" + (f":{rest % 60:02}" if rest % 60 else "")
    try:
        moment = epoch + timedelta(seconds=seconds)
    except OverflowError:
        return f"{days:g}"
    has_date, has_time = re.search(r"[dy]", bare, re.IGNORECASE), re.search(r"[hs]", bare, re.IGNORECASE)
    date = f"{moment:%Y-%m-%d}" if has_date or not has_time else ""
    clock = f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"
    return " ".join(filter(None, [date, clock if has_time else ""]))
