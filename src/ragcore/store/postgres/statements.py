"""The SQL statements. Each is a file of `sql/`, into which the names of a collection are filled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources

from ragcore.errors import ConfigurationError

__all__ = ["MIGRATIONS", "SQL", "check_schema", "filled", "literal", "quoted", "read", "statement"]

COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
RESERVED = ("public", "information_schema")
# Names that need no quotes, and leave room for a suffix.
SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,47}")


def read(folder: str) -> dict[str, str]:
    """Return the .sql files of a folder of this package by name, without comments that take a whole line."""
    files = (resources.files("ragcore.store.postgres") / folder).iterdir()
    return {
        file.name.removesuffix(".sql"): COMMENT.sub("", file.read_text(encoding="utf-8"))
        for file in files
        if file.name.endswith(".sql")
    }


# Read at import, so that no file is read on the event loop.
SQL = read("sql")
# (number, name, text), in the order in which they run.
MIGRATIONS = sorted((int(name[:4]), name[5:], text) for name, text in read("migrations").items())


def check_schema(schema: object) -> str:
    """Return the name of a collection's schema if it is valid.

    Raises:
        ConfigurationError: the name does not consist of lower-case letters, digits and underscores, is too long, or is reserved.
    """
    if (
        not isinstance(schema, str)
        or SCHEMA_NAME.fullmatch(schema) is None
        or schema.startswith("pg_")
        or schema in RESERVED
    ):
        raise ConfigurationError(
            f"schema is {schema!r}: use up to 48 lower-case letters, digits and underscores; it must not begin with a digit or pg_, and not be public"
        )
    return schema


def quoted(identifier: str) -> str:
    """Quote an identifier for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a text for SQL, for both values of standard_conforming_strings."""
    doubled = text.replace("'", "''").replace("\\", "\\\\")
    return f" E'{doubled}'" if "\\" in text else f"'{doubled}'"


def filled(text: str, names: Mapping[str, str]) -> str:
    """Replace the names in braces by their values. Unknown names stay unchanged."""
    return re.sub(r"\{([a-z_]+)\}", lambda match: names.get(match[1], match[0]), text)


@lru_cache(maxsize=1024)
def statement(name: str, **placeholders: str | int) -> str:
    """Return a statement of `sql/` with the names in braces replaced. The values may contain names in braces themselves."""
    names = {key: str(value) for key, value in placeholders.items()}
    return filled(filled(SQL[name], names), names)
