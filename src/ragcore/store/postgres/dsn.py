"""A DSN, taken apart: what may be shown of it, and what is ours rather than PostgreSQL's."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from ragcore.errors import ConfigurationError
from ragcore.secret import Secret

__all__ = ["Address", "parse"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a database is, without its password.

    Attributes:
        dsn: for asyncpg.
        host, port, database, user: to show; "" where the DSN leaves them to PostgreSQL's own defaults.
        pgbouncer: whether a pooler in transaction mode stands in front (`?pgbouncer=true`): no prepared statements then.
    """

    dsn: Secret
    host: str
    port: int | None
    database: str
    user: str
    pgbouncer: bool

    def __str__(self) -> str:
        where = self.host or "localhost"
        return f"{where}{f':{self.port}' if self.port else ''}/{self.database}"


def parse(dsn: str | Secret, /) -> Address:
    """Take a DSN apart.

    Raises:
        ConfigurationError: not of the form postgresql://user:password@host:port/database?…; the DSN itself is never shown.
    """
    text = dsn.reveal() if isinstance(dsn, Secret) else dsn
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("postgresql", "postgres"):
        raise ConfigurationError(
            "the DSN is not of the form postgresql://user:password@host:port/database (it is not shown, since it may hold a password); "
            "special characters in a password must be percent-encoded"
        )
    if parts.fragment or "@" in parts.path or (parts.path.count("/") > 1 and parts.hostname):
        raise ConfigurationError(
            "the DSN can't be told apart (it is not shown): special characters in a user or password must be percent-encoded, / as %2F, # as %23"
        )
    options = parse_qsl(parts.query, keep_blank_values=True)
    own = {key: value for key, value in options if key == "pgbouncer"}
    rest = [(key, value) for key, value in options if key != "pgbouncer"]
    hosts = [value for key, value in rest if key == "host"]
    return Address(
        dsn=Secret(urlunsplit(parts._replace(query=urlencode(rest)))),
        host=unquote(parts.hostname or (hosts[0] if hosts else "")),
        port=port,
        database=unquote(parts.path.lstrip("/")),
        user=unquote(parts.username or ""),
        pgbouncer=own.get("pgbouncer", "").lower() in ("true", "1", "yes", "on"),
    )
