"""Reads JSON and XML as text. For JSON, each line has the path of a value and the value. For XML, the name of the element precedes a short text."""

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
# A text with more characters is prose. No name is written before it.
MOST_NAMED = 80
PLAIN = frozenset("p para text b i em strong span li item title h1 h2 h3 h4 section div a body".split())
# HTML elements in the text of another format.
MARKUP = re.compile(
    r"</?(?:p|br|div|a|b|i|em|strong|ul|ol|li|h[1-6]|span|img|table|tr|td|th|blockquote|hr|pre|code|figure)\b[^<>]{0,2000}>",
    re.IGNORECASE,
)


def read_json(data: bytes) -> Parsed:
    """Read JSON as lines of "path: value", with a blank line between the records of a list. Numbers keep the form that they have in the file."""
    text, encoding = decode(data)
    try:
        value = json.loads(text, parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=_Pairs)
    except ValueError as error:
        raise InvalidInput(f"it is not JSON: {error}") from None
    except RecursionError:
        raise InvalidInput("it is nested too deeply") from None
    title = next((one for name, one in value if name == "title"), None) if isinstance(value, _Pairs) else None
    lines = "\n".join(_lines(value))
    return Parsed(lines, title=title if isinstance(title, str) else "", warnings=guessed(encoding))


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all its pairs, even if two have the same name."""


def _lines(value: Any) -> Iterator[str]:
    """Yield the lines in order, without recursion."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        path, item = stack.pop()
        if item is _BREAK:
            yield ""
        elif isinstance(item, _Pairs):
            stack += [(f"{path}.{key}" if path else str(key), inner) for key, inner in reversed(item)]
        elif isinstance(item, list):
            records = any(isinstance(inner, _Pairs) for inner in item)
            for inner in reversed(item):
                stack += [("", _BREAK), (path, inner)] if records else [(path, inner)]
        elif item is not None and str(item).strip():
            yield f"{path}: {item}" if path else str(item)


# Marks the gap between two records.
_BREAK = object()


def read_xml(data: bytes) -> Parsed:
    """Read the text of an XML file, one line for each element. Write the name of the element before a short text, and each attribute as name and value.

    Files that declare entities are refused, because entities can grow without limit.

    Source: Python documentation, "XML vulnerabilities" (billion laughs, external entities).
    """
    lines: list[str] = []
    pieces: list[str] = []
    depth = 0

    names: list[str] = []

    def end_line() -> None:
        text = " ".join("".join(pieces).split())
        if MARKUP.search(text):  # HTML within a feed
            text = " ".join(MARKUP.sub(" ", text).split())
        if text:
            named = names and len(text) <= MOST_NAMED and names[-1].lower() not in PLAIN
            lines.append(f"{names[-1]}: {text}" if named else text)
        pieces.clear()

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MOST_DEPTH:
            raise InvalidInput(f"its elements are nested more than {MOST_DEPTH} levels deep")
        end_line()
        names.append(name.rpartition(":")[2])
        for key, value in attributes.items():
            if value.strip() and not key.lower().startswith("xml") and ":schemalocation" not in key.lower():
                lines.append(f"{names[-1]} {key.rpartition(':')[2]}: {' '.join(value.split())}")

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        end_line()
        names.pop()

    def entity(*_: object) -> None:
        raise InvalidInput("it declares XML entities, which are not supported")

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
