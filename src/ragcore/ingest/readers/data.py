"""JSON and XML as text: the path of a value, then the value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from xml.parsers import expat

from ragcore.errors import InvalidInput
from ragcore.ingest.parsed import Parsed
from ragcore.ingest.readers.encoding import clean, decode
from ragcore.ingest.readers.plain import guessed

__all__ = ["read_json", "read_xml"]

MOST_DEPTH = 200
# Elements of HTML in the text of another format.
MARKUP = re.compile(
    r"</?(?:p|br|div|a|b|i|em|strong|ul|ol|li|h[1-6]|span|img|table|tr|td|th|blockquote|hr|pre|code|figure)\b[^<>]{0,2000}>",
    re.IGNORECASE,
)


def read_json(data: bytes) -> Parsed:
    """Read JSON as lines of "path: value"."""
    text, encoding = decode(data)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"it is not JSON: {error}") from None
    except RecursionError:
        raise InvalidInput("it is nested too deeply") from None
    title = value.get("title") if isinstance(value, dict) else None
    lines = "\n".join(_lines(value))
    return Parsed(lines, title=title if isinstance(title, str) else "", warnings=guessed(encoding))


def _lines(value: Any) -> Iterator[str]:
    """Walk without recursion, in order."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, dict):
            stack += [(f"{path}.{key}" if path else str(key), inner) for key, inner in reversed(item.items())]
        elif isinstance(item, list):
            stack += [(path, inner) for inner in reversed(item)]
        elif item is not None and str(item).strip():
            yield f"{path}: {item}" if path else str(item)


def read_xml(data: bytes) -> Parsed:
    """Read the text of an XML file, an element a line. Entities of the file's own are refused: they can grow without bound.

    Source: Python documentation, "XML vulnerabilities" (billion laughs, external entities).
    """
    lines: list[str] = []
    pieces: list[str] = []
    depth = 0

    def end_line() -> None:
        text = " ".join("".join(pieces).split())
        if MARKUP.search(text):  # a page within a feed
            text = " ".join(MARKUP.sub(" ", text).split())
        if text:
            lines.append(text)
        pieces.clear()

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MOST_DEPTH:
            raise InvalidInput(f"its elements are nested more than {MOST_DEPTH} deep")
        end_line()

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        end_line()

    def entity(*_: object) -> None:
        raise InvalidInput("it declares entities, which are not read")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = pieces.append
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise InvalidInput(f"it is not XML: {error}") from None
    end_line()
    return Parsed(clean("\n".join(lines)))
