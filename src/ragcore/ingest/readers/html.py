"""Converts HTML to Markdown.

The parser is lexbor (through selectolax), which follows the HTML standard: it accepts missing end tags, any nesting and broken markup. Scripts, styles,
navigation, banners and hidden parts are left out; tables are kept. The tree is walked without recursion.

Source: WHATWG HTML, 13.2 (parsing), and 4.2.5.4 (character encoding declarations).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ragcore.compat.extras import require
from ragcore.errors import InvalidInput
from ragcore.ingest.parsed import Parsed
from ragcore.ingest.readers.encoding import clean, decode
from ragcore.ingest.readers.main_content import Content, content_of, is_hidden
from ragcore.ingest.readers.plain import guessed
from ragcore.ingest.readers.table import as_table

__all__ = ["html_to_markdown", "read_html"]

PURPOSE = "reading HTML"
META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_\-]{2,30})", re.IGNORECASE)
# The standard's names of encodings, with Python's names for them.
ENCODINGS = {
    **dict.fromkeys(("iso-8859-1", "latin1", "ascii", "us-ascii", "windows-1252"), "cp1252"),
    **dict.fromkeys(("shift_jis", "x-sjis"), "cp932"),
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    **dict.fromkeys(("ks_c_5601-1987", "euc-kr"), "cp949"),
}
LEFT_OUT = frozenset(
    "script style noscript template svg canvas iframe object embed audio video nav button select input textarea dialog head datalist menu del s strike".split()
)
BLOCKS = frozenset(
    "address article aside blockquote body center dd details div dl dt fieldset figcaption figure footer form header hgroup hr html main p section summary".split()  # noqa: E501
)
HEADINGS = {f"h{level}": level for level in range(1, 7)}
SPACE = re.compile(r"[ \t\n\f\r\u00a0\u200b]+")
MOST_INDENT = 8
# The user gets a warning if the content has fewer than MOST_DOUBTED characters, and also fewer than this share of the page's characters minus LEAST_MAIN.
LEAST_SHARE = 0.25
LEAST_MAIN = 1_000
MOST_DOUBTED = 5_000
# The largest number of cells of a table. A cell that spans several columns or rows counts once for each of them.
MOST_CELLS = 500_000
# Stands for <br>, which is the only line break within a block.
BREAK = "\0"


def read_html(data: bytes, *, whole: bool = False) -> Parsed:
    """Read an HTML page and its title. The page's language becomes metadata.

    Args:
        whole: whether to read the whole page, as in `html_to_markdown`.
    """
    text, encoding = _decoded(data)
    markdown, title, language = html_to_markdown(text, whole=whole)
    doubts = list(guessed(encoding))
    if (
        not whole
        and len(markdown) < MOST_DOUBTED
        and len(markdown) < LEAST_SHARE * len(html_to_markdown(text, whole=True)[0]) - LEAST_MAIN
    ):
        doubts.append(
            "most of the page was left out, because it does not look like content: pass whole_pages=True to read all of it"
        )
    return Parsed(markdown, title=title, metadata={"language": language} if language else {}, warnings=tuple(doubts))


def html_to_markdown(html: str, *, whole: bool = False) -> tuple[str, str, str]:
    """Return the page as Markdown, its title and its language.

    Args:
        whole: whether to read all visible text except elements such as `nav`, `menu` and `button`. Default False: only the main content, without
            navigation, teasers, comments and footers.
    """
    lexbor = require("selectolax.lexbor", extra="chunking", purpose=PURPOSE)
    tree = lexbor.LexborHTMLParser(html)
    title = ""
    title_node = tree.css_first("head title")
    if title_node is not None:
        title = _inline(title_node.text(deep=True)).strip()
    root = tree.css_first("html")
    language = (root.attributes.get("lang") or "").strip()[:35] if root is not None else ""
    body = tree.body
    if body is None:
        return "", title, language
    content = content_of(body, whole=whole)
    return _Writer(content).write(), title, language


def _decoded(data: bytes) -> tuple[str, str]:
    """Decode by the byte order mark, else by the declaration in the page, else as `encoding.decode` does."""
    declared = META_CHARSET.search(data[:4096])
    if declared is not None and not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        name = declared[1].decode("ascii").lower()
        name = ENCODINGS.get(name, name)
        try:
            # In a page that really is UTF-16, the search above finds no declaration. So a declaration of UTF-16 is wrong.
            if not name.startswith("utf-16"):
                return clean(data.decode(name, "replace" if name != "utf-8" else "strict")), ""
        except (LookupError, UnicodeDecodeError):
            pass
    try:
        return decode(data)
    except InvalidInput:
        raise
    except UnicodeError:
        return clean(data.decode("cp1252", "replace")), "cp1252"


class _Writer:
    """Writes Markdown while it walks the tree with its own stack."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._out: list[str] = []
        self._line: list[str] = []
        self._lists: list[list[Any]] = []
        self._prefix = ""
        self._preformatted = 0

    def write(self) -> str:
        # A function on the stack is called when its element ends.
        stack: list[Any] = [self._content.start]
        while stack:
            item = stack.pop()
            if callable(item) and not hasattr(item, "tag"):
                item()
                continue
            stack += reversed(list(self._begin(item)))
        self._end_block()
        text = "\n".join(self._out)
        text = re.sub(r"[ \t]+\n", "\n", text)
        return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n" if text.strip() else ""

    def _begin(self, node: Any) -> Iterator[Any]:
        tag = node.tag or "-none"
        if tag == "-text":
            self._add(node.text_content or "")
            return
        if tag == "button" and _is_question(node):
            tag = "span"
        if (
            tag.startswith("-")
            or tag == "!doctype"
            or tag in LEFT_OUT
            or (node is not self._content.start and self._content.is_left_out(node))
        ):
            return
        match tag:
            case "br":
                self._line.append(BREAK)
            case "img":
                self._add(node.attributes.get("alt") or "")
            case "b" | "strong" if not self._prefix.startswith("#") and (node.text(deep=True) or "").strip():
                self._line.append("**")
                yield from node.iter(include_text=True)
                yield lambda: self._line.append("**")
            case "sup" if node.text(deep=True).strip():
                self._line.append("^")  # without it, an exponent would look like a digit of the number before it
                yield from node.iter(include_text=True)
            case "table":
                self._end_block()
                self._table(node)
            case "math":
                self._add(node.text(deep=True))
            case "pre":
                self._end_block()
                self._out += ["", "```", node.text(deep=True).strip("\n"), "```", ""]
            case "hr":
                self._end_block()
            case "ul" | "ol":
                self._end_block()
                self._lists.append([tag, _number(node, "start", 1) - 1])
                yield from node.iter(include_text=True)
                yield self._end_list
            case "li" | "dd" | "dt":
                self._end_block()
                if tag == "li":
                    if self._lists:
                        self._lists[-1][1] = _number(node, "value", self._lists[-1][1] + 1) - 1
                    self._prefix = self._bullet()
                yield from node.iter(include_text=True)
                yield self._end_item
            case _ if tag in HEADINGS:
                self._end_block()
                self._out.append("")
                self._prefix = "#" * HEADINGS[tag] + " "
                yield from node.iter(include_text=True)
                yield self._end_heading
            case _ if tag in BLOCKS:
                self._end_block()
                yield from node.iter(include_text=True)
                yield self._end_paragraph
            case _:
                yield from node.iter(include_text=True)

    def _add(self, text: str) -> None:
        if text:
            self._line.append(text)

    def _end_block(self) -> None:
        lines = [_inline(line).strip() for line in "".join(self._line).split(BREAK)]
        self._line = []
        text = "\n".join(line for line in lines if line)
        if text.strip():
            self._out.append(self._prefix + text.strip())
            self._prefix = " " * len(self._prefix) if self._lists else ""
        elif self._prefix.startswith("#"):
            self._prefix = ""

    def _end_paragraph(self) -> None:
        self._end_block()
        if self._out and self._out[-1] and not self._lists:
            self._out.append("")

    def _end_heading(self) -> None:
        self._line = [" " if piece == BREAK else piece for piece in self._line]
        self._end_block()
        self._prefix = ""
        self._out.append("")

    def _end_item(self) -> None:
        self._end_block()
        self._prefix = ""

    def _end_list(self) -> None:
        self._end_block()
        if self._lists:
            self._lists.pop()
        self._prefix = ""
        if not self._lists:
            self._out.append("")

    def _bullet(self) -> str:
        indent = "  " * min(MOST_INDENT, max(0, len(self._lists) - 1))
        if self._lists and self._lists[-1][0] == "ol":
            self._lists[-1][1] += 1
            return f"{indent}{self._lists[-1][1]}. "
        return f"{indent}- "

    def _table(self, table: Any) -> None:
        """Write a table of data as a Markdown table. If a table only lays out the page, write its cells as plain text."""
        caption = table.css_first("caption")
        rows = [row for row in table.css("tr") if _nearest_table(row) == table and not is_hidden(row)]
        cells = [[_cell(cell) for cell in row.iter() if cell.tag in ("td", "th")] for row in rows]
        cells = [row for row in cells if any(cell.strip() for cell in row)]
        if caption is not None and caption.text(deep=True).strip():
            self._out += ["", _inline(caption.text(deep=True)).strip()]
        if not cells:
            return
        if max(map(len, cells)) == 1 or table.css_first("table table") is not None:
            self._out += ["", *(cell for row in cells for cell in row if cell.strip()), ""]
            return
        self._out += ["", as_table(_spanned(rows, table)).rstrip("\n") or as_table(cells).rstrip("\n"), ""]


def _nearest_table(node: Any) -> Any:
    parent = node.parent
    while parent is not None and parent.tag != "table":
        parent = parent.parent
    return parent


def _spanned(rows: list[Any], table: Any) -> list[list[str]]:
    """Return the cells of rows. A cell that spans several columns or rows is repeated in each of them."""
    grid: list[list[str]] = []
    down: dict[int, tuple[int, str]] = {}
    size = 0
    for row in rows:
        line: list[str] = []
        if size > MOST_CELLS:
            break
        for cell in (one for one in row.iter() if one.tag in ("td", "th")):
            while len(line) in down:
                left, text = down.pop(len(line))
                if left > 1:
                    down[len(line)] = (left - 1, text)
                line.append(text)
            text = _cell(cell)
            across, along = _span(cell, "colspan"), _span(cell, "rowspan")
            for _ in range(across):
                if along > 1:
                    down[len(line)] = (along - 1, text)
                line.append(text)
        while len(line) in down:
            left, text = down.pop(len(line))
            if left > 1:
                down[len(line)] = (left - 1, text)
            line.append(text)
        size += len(line)
        if any(part.strip() for part in line):
            grid.append(line)
    return grid


def _span(cell: Any, name: str) -> int:
    value = cell.attributes.get(name) or "1"
    return min(50, int(value)) if value.isascii() and value.isdigit() and int(value) > 0 else 1


def _cell(cell: Any) -> str:
    """Return the text of a cell in one line. Inline elements get no spaces around them, so "$<b>1</b>,<b>500</b>" becomes $1,500."""
    pieces: list[str] = []
    stack = [cell]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            pieces.append(node)
            continue
        tag = node.tag or "-none"
        if tag == "-text":
            pieces.append(node.text_content or "")
        elif tag == "img":
            pieces.append(f" {node.attributes.get('alt') or ''} ")
        elif tag.startswith("-") or tag in LEFT_OUT or is_hidden(node):
            continue
        else:
            # A browser shows each of these elements on its own line, so they get spaces around them.
            apart = tag == "br" or tag in BLOCKS or tag in HEADINGS or tag in ("li", "td", "th", "tr", "table")
            mark = "^" if tag == "sup" else " " if apart else ""
            stack.append(" " if apart else "")
            stack += reversed(list(node.iter(include_text=True)))
            stack.append(mark)
    return _inline("".join(pieces)).strip()


def _number(node: Any, name: str, default: int) -> int:
    value = node.attributes.get(name) or ""
    return int(value) if value.isascii() and value.isdigit() and len(value) < 7 else default


def _is_question(button: Any) -> bool:
    """Return whether a button opens and closes the text below it. The text of such a button is kept."""
    if "aria-expanded" in button.attributes or "aria-controls" in button.attributes:
        return True
    parent = button.parent
    for _ in range(3):
        if parent is None:
            return False
        if parent.tag in HEADINGS or parent.tag in ("dt", "summary", "legend"):
            return True
        parent = parent.parent
    return False


def _inline(text: str) -> str:
    return SPACE.sub(" ", text)
