"""Reads Markdown, with its front matter as title and metadata.

Source: the front matter of Jekyll and Hugo: YAML between "---", TOML between "+++", at the start of the file.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any

from ragcore.compat.distribution import install_command
from ragcore.ingest.blocks import first_heading
from ragcore.ingest.parsed import Parsed
from ragcore.ingest.readers.encoding import decode
from ragcore.ingest.readers.plain import guessed

__all__ = ["read_markdown", "split_front_matter"]

YAML = re.compile(r"\A\s*---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
TOML = re.compile(r"\A\s*\+\+\+[ \t]*\n(.*?)^\+\+\+[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
# A block with more characters is text, not front matter.
MOST_FRONT_MATTER = 64 * 1024


def read_markdown(data: bytes) -> Parsed:
    """Read Markdown; the title comes from the front matter or the first heading."""
    text, encoding = decode(data)
    text, matter, warnings = split_front_matter(text)
    given = matter.pop("title", None)
    title = str(given) if isinstance(given, str | int | float) else ""
    if not title.strip():
        title = first_heading(text)
    return Parsed(text, title=title.strip(), metadata=matter, warnings=(*guessed(encoding), *warnings))


def split_front_matter(text: str) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Return the text without its front matter, the front matter, and warnings. Invalid front matter stays in the text."""
    head = text[:MOST_FRONT_MATTER]
    found = YAML.match(head)
    try:
        if found:
            read = _yaml(found[1])
        else:
            found = TOML.match(head)
            read = tomllib.loads(found[1]) if found else None
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        line = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        return text, {}, (f"its front matter was kept as text: {line}",)
    if not found or not isinstance(read, Mapping):
        return text, {}, ()
    return text[found.end() :], {str(key): _plain(value) for key, value in read.items()}, ()


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise ValueError(f"reading YAML needs PyYAML: {install_command('chunking')}") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _plain(value: Any) -> Any:
    """Return the value as JSON-ready data."""
    match value:
        case datetime() | date() | time():
            return value.isoformat()
        case Mapping():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple() | set():
            return [_plain(inner) for inner in value]
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return str(value)
    return value
