"""The statements, one a file of `sql/`, with the names of a collection filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources

from ragcore.errors import ConfigurationError

__all__ = ["MIGRATIONS", "SQL", "check_schema", "filled", "literal", "quoted", "read", "statement"]

# The names of a schema that need no quotes and leave room for a suffix.
COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
RESERVED = ("public", "information_schema")
SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,47}")


def read(folder: str) -> dict[str, str]:
    """The .sql files of a folder of this package, by their names, without the comments that stand on lines of their own."""
    files = (resources.files("ragcore.store.postgres") / folder).iterdir()
    return {
        file.name.removesuffix(".sql"): COMMENT.sub("", file.read_text(encoding="utf-8"))
        for file in files
        if file.name.endswith(".sql")
    }


# Read while the module is imported, never on the event loop.
SQL = read("sql")
# (number, name, text), in the order in which they run.
MIGRATIONS = sorted((int(name[:4]), name[5:], text) for name, text in read("migrations").items())


def check_schema(schema: object) -> str:
    """The name of a collection's schema.

    Raises:
        ConfigurationError: not lower-case letters, digits and underscores, up to 48 of them.
    """
    if (
        not isinstance(schema, str)
        or SCHEMA_NAME.fullmatch(schema) is None
        or schema.startswith("pg_")
        or schema in RESERVED
    ):
        raise ConfigurationError(
            f"schema is {schema!r}: it must be lower-case letters, digits and underscores, not begin with a digit or pg_, have 48 at most, and not be public"
        )
    return schema


def quoted(identifier: str) -> str:
    """An identifier, quoted for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text, quoted for SQL whatever standard_conforming_strings is."""
    doubled = text.replace("'", "''").replace("\\", "\\\\")
    return f" E'{doubled}'" if "\\" in text else f"'{doubled}'"


def filled(text: str, names: Mapping[str, str]) -> str:
    """A statement with the words in braces replaced; others stay as they are."""
    return re.sub(r"\{([a-z_]+)\}", lambda match: names.get(match[1], match[0]), text)


@lru_cache(maxsize=1024)
def statement(name: str, **words: str | int) -> str:
    """A statement of `sql/` with its words filled in; words may hold words themselves."""
    names = {word: str(value) for word, value in words.items()}
    return filled(filled(SQL[name], names), names)
