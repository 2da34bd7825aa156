"""Makes text from the lines of a PDF's pages: finds headings and table rows, joins hyphenated words, and drops lines that repeat on most pages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from ragcore.ingest.readers.pdf.page import LINE_HYPHEN, Line

__all__ = ["align_columns", "body_size", "drop_line_numbers", "drop_repeated", "text_of"]

# The letters of a heading are at least this many times as high as most letters of the document.
HEADING_RATIO = 1.15
# A bold heading may be smaller. But bold text of the body's size is only emphasis, such as an amount of money.
BOLD_HEADING_RATIO = 1.04
MOST_HEADING_CHARACTERS = 160
MOST_HEADING_LINES = 3
# Text on at least this share of the pages, at their top or bottom, is a header or a footer.
REPEATED = 0.6
LEAST_PAGES_TO_REPEAT = 4
EDGE_LINES = 2
EDGE = 0.08
MOST_EDGE_CHARACTERS = 160
# At least this many consecutive numbers, one below the other, are line numbers.
LEAST_LINE_NUMBERS = 8
LEAST_PROSE = 25
# A repeated line is a header or a footer only if its numbers are equal, or increase with the page, on at least this share of its pages.
MOSTLY_SO = 0.8
LEAST_ROWS = 2
# Words that follow a hyphen in many compounds: "down-payment", "long-term", "out-of-date".
COMPOUND_ENDS = frozenset(
    """
    year years day days month months week hour time times term care rate rates based free related level type wide long high low out in up off on of to the
    network pocket payer party side line end date risk plan income cost costs only specific known paid payment pay insured benefit
    """.split()
)
HYPHENS = "-\u00ad\u2010\x02"


def drop_repeated(pages: list[list[Line]]) -> None:
    """Remove headers and footers: first and last lines that are equal on most pages, except for the page number."""
    if len(pages) < LEAST_PAGES_TO_REPEAT:
        return
    # The numbers of each line by page. The key is the line's text without its numbers.
    found: dict[str, dict[int, tuple[int, ...]]] = {}
    for number, page in enumerate(pages):
        for line in _edges(page):
            found.setdefault(_without_numbers(line.text), {})[number] = _numbers(line.text)
    repeated = {
        text for text, where in found.items() if len(where) >= REPEATED * len(pages) and _only_page_numbers(where)
    }
    for page in pages:
        at_edge = {id(line) for line in _edges(page)}
        kept = [line for line in page if not (id(line) in at_edge and _without_numbers(line.text) in repeated)]
        if kept:  # if the page consists only of these lines, it keeps them
            page[:] = kept


def _only_page_numbers(where: Mapping[int, tuple[int, ...]]) -> bool:
    """Return whether each number in a line is the same on most pages, or increases with the page. Other numbers, such as prices, are content."""
    for position in range(max(map(len, where.values()))):
        values = {page: numbers[position] for page, numbers in where.items() if position < len(numbers)}
        steps = Counter(value - page for page, value in values.items())
        same = Counter(values.values())
        if max(steps.most_common(1)[0][1], same.most_common(1)[0][1]) < MOSTLY_SO * len(values):
            return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d{1,12}", text))


def align_columns(page: Sequence[Line]) -> None:
    """Add empty cells to the lines of a table, so that each cell is in its column."""
    number = 0
    while number < len(page):
        rows = [page[number]]
        while number + len(rows) < len(page) and _is_next_row(rows[-1], page[number + len(rows)]):
            rows.append(page[number + len(rows)])
        if len(rows) >= LEAST_ROWS and any(len(row.cells) > 1 for row in rows):
            _align(rows)
        number += len(rows)


def _is_next_row(above: Line, below: Line) -> bool:
    near = 0 < above.top - below.top < 3.5 * max(above.size, below.size)
    return near and len(above.cells) > 1 and len(below.cells) > 1


def _align(rows: Sequence[Line]) -> None:
    widest = max(rows, key=lambda row: len(row.cells))
    columns = list(widest.spans)
    if len(columns) < 3:
        return
    # The columns are those of the row with the most cells.
    placed: list[list[int]] = []
    for row in rows:
        places = [_column(span, columns) for span in row.spans]
        if len(set(places)) < len(places) or places != sorted(places):
            return  # these lines are no table, or a row has different columns
        placed.append(places)
    for row, places in zip(rows, placed, strict=True):
        if len(row.cells) == len(columns):
            continue
        cells, spans = [""] * len(columns), list(columns)
        for place, cell, span in zip(places, row.cells, row.spans, strict=True):
            cells[place], spans[place] = cell, span
        row.cells, row.spans = cells, spans


def _column(span: tuple[float, float], columns: Sequence[tuple[float, float]]) -> int:
    """Return the column whose left edge, right edge or middle is nearest to that of the cell."""
    left, right = span

    def distance(column: tuple[float, float]) -> float:
        return min(abs(left - column[0]), abs(right - column[1]), abs((left + right) - (column[0] + column[1])) / 2)

    return min(range(len(columns)), key=lambda number: distance(columns[number]))


def drop_line_numbers(page: list[Line]) -> None:
    """Remove the line numbers of manuscripts and legal papers: they count from 1, and each is to the left of a line of prose."""
    run: list[Line] = []
    runs: list[list[Line]] = []
    for line in page:
        text = line.text
        if not (text.isdecimal() and len(text) <= 4):
            continue
        if not (run and int(text) == int(run[-1].text) + 1 and line.top < run[-1].top):
            run = []
            runs.append(run)
        run.append(line)
    numbers: set[int] = set()
    for run in runs:
        if len(run) < LEAST_LINE_NUMBERS or int(run[0].text) != 1:
            continue
        beside = [line for line in page if len(line.text) >= LEAST_PROSE and line.left > run[0].right]
        prose = sum(any(_at_same_height(number, line) for line in beside) for number in run)
        # These are line numbers if most stand beside prose, or if the page has little else: a page of a manuscript may be empty except for them.
        if 2 * prose > len(run) or len(page) - len(run) < LEAST_LINE_NUMBERS:
            numbers |= {id(line) for line in run}
    page[:] = [line for line in page if id(line) not in numbers]


def _at_same_height(one: Line, other: Line) -> bool:
    return abs((one.top + one.bottom) - (other.top + other.bottom)) < max(one.size, other.size)


def _edges(page: Sequence[Line]) -> list[Line]:
    ordered = sorted(page, key=lambda line: -line.top)
    return [
        line
        for line in (*ordered[:EDGE_LINES], *ordered[-EDGE_LINES:])
        if len(line.text) <= MOST_EDGE_CHARACTERS and not EDGE < line.top / max(1.0, line.height) < 1 - EDGE
    ]


def _without_numbers(text: str) -> str:
    return re.sub(r"\b(?:\d+|[ivxlc]+)\b", "#", " ".join(text.lower().split()))


def body_size(pages: Sequence[Sequence[Line]]) -> float:
    """Return the height that most letters of the document have."""
    letters: Counter[float] = Counter()
    for page in pages:
        for line in page:
            letters[round(line.size * 2) / 2] += len(line.text)
    return letters.most_common(1)[0][0] if letters else 0.0


def text_of(page: Sequence[Line], body: float, words: Counter[str], outline: frozenset[str]) -> str:
    """Return a page's text: headings with Markdown's mark, table rows with bars between cells, hyphenated words joined."""
    out: list[str] = []
    previous: Line | None = None
    number = prose = 0
    while number < len(page):
        line = page[number]
        heading = _heading(page[number:], body, outline) if number >= prose else ()
        if len(heading) > MOST_HEADING_LINES:  # it is a paragraph in large letters
            prose = number + len(heading)
        elif heading:
            title = " ".join(one.text for one in heading)
            out.append(f"\n## {title}\n")
            number += len(heading)
            previous = heading[-1]
            continue
        text = " | ".join(line.cells) if len(line.cells) > 1 else line.text
        if out and previous is not None and len(line.cells) == 1 and _joins(out[-1], text, words):
            out[-1] = out[-1].rstrip(HYPHENS) + text
        elif out and out[-1].endswith(chr(LINE_HYPHEN)):
            out[-1] += text
        else:
            if previous is not None and previous.top - line.top > 2.2 * max(line.size, previous.size) and out:
                out.append("")
            out.append(text)
        previous = line
        number += 1
    return "\n".join(out).replace(chr(LINE_HYPHEN), "-")


def _heading(lines: Sequence[Line], body: float, outline: frozenset[str]) -> Sequence[Line]:
    """Return the leading lines that look like one heading; () if the first line does not."""
    first = lines[0]
    if not _is_heading(first, body, outline):
        return ()
    count = 1
    while (
        count < len(lines)
        and abs(lines[count].size - first.size) < 0.05 * first.size
        and 0 < lines[count - 1].top - lines[count].top < 2 * first.size
        and _is_heading(lines[count], body, outline)
    ):
        count += 1
    return lines[:count]


def _is_heading(line: Line, body: float, outline: frozenset[str]) -> bool:
    text = line.text
    if (
        not body
        or len(text) > MOST_HEADING_CHARACTERS
        or len(line.cells) > 1
        or not any(char.isalpha() for char in text)
    ):
        return False
    if " ".join(text.lower().split()) in outline and line.size >= body:
        return True
    return line.size > (BOLD_HEADING_RATIO if line.bold else HEADING_RATIO) * body


def _joins(above: str, below: str, words: Counter[str]) -> bool:
    """Return whether a line ends with the first half of a hyphenated word.

    It does if the whole word occurs elsewhere in the document, or if the halves don't look like a compound such as "long-term".
    """
    if above[-1:] not in HYPHENS or len(above) < 2 or not below[:1].islower():
        return False
    first, second = re.search(r"(\w+)\W$", above), re.match(r"\w+", below)
    if first is None or second is None:
        return False
    whole = (first[1] + second[0]).lower()
    if above[-1] == "\u00ad":
        return True
    hyphenated = f"{first[1]}-{second[0]}".lower()
    if words[whole] or words[hyphenated]:
        return words[whole] >= words[hyphenated]
    if second[0].lower() in COMPOUND_ENDS or words[second[0].lower()] > 1:
        return False
    return words[first[1].lower()] <= 1 and len(first[1]) > 1
