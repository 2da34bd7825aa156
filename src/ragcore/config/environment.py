"""Environment variables: their names, and the parsers of their values."""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode

from ragcore.config.settings import Rewrite, Settings, check_rewrite
from ragcore.errors import ConfigurationError, InvalidInput
from ragcore.store.table import COLUMNS, Isolation, Table, claim
from ragcore.text.redaction import Redaction
from ragcore.types import Price
from ragcore.types.secret import Secret

__all__ = ["COMMAND_LINE_VARIABLES", "OWN", "SETTINGS", "Environment", "boolean"]

logger: logging.Logger = logging.getLogger("ragcore.config")

T = TypeVar("T")
D = TypeVar("D")

# Only the command line reads these variables; `Config.from_env` ignores them.
COMMAND_LINE_VARIABLES = ("RAGCORE_DATA", "RAGCORE_TENANT", "RAGCORE_OWNER_DSN", "RAGCORE_SOURCE_DSN")
SETTINGS = {f"RAGCORE_{f.name.upper()}": f for f in fields(Settings)}
OWN = (
    "RAGCORE_EMBEDDING_API_KEY",
    "RAGCORE_EMBEDDING_BASE_URL",
    "RAGCORE_EMBEDDING_CACHE_MB",
    "RAGCORE_EMBEDDING_CACHE_TTL",
    "RAGCORE_EMBEDDING_CACHE_KEY",
    "RAGCORE_GENERATION_API_KEY",
    "RAGCORE_GENERATION_BASE_URL",
    "RAGCORE_EMBEDDING_MODEL",
    "RAGCORE_EMBEDDING_DIMENSION",
    "RAGCORE_MODELS",
    "RAGCORE_TOP_K",
    "RAGCORE_SCORE_THRESHOLD",
    "RAGCORE_RELATIVE_THRESHOLD",
    "RAGCORE_MODE",
    "RAGCORE_FUSION",
    "RAGCORE_SHARED",
    "RAGCORE_DIVERSITY",
    "RAGCORE_NEIGHBOURS",
    "RAGCORE_RERANKER",
    "RAGCORE_RERANK_MODEL",
    "RAGCORE_RERANK_BASE_URL",
    "RAGCORE_RERANK_API_KEY",
    "RAGCORE_RERANK_CANDIDATES",
    "RAGCORE_CHUNK_TOKENS",
    "RAGCORE_OVERLAP_TOKENS",
    "RAGCORE_EMBED_TEXT",
    "RAGCORE_READ_TIMEOUT",
    "RAGCORE_SCHEMA",
    "RAGCORE_LANGUAGE",
    "RAGCORE_POOL_SIZE",
    "RAGCORE_READ_DSN",
    "RAGCORE_READ_YOUR_WRITES",
    "RAGCORE_EF_SEARCH",
    "RAGCORE_EXACT_ROWS",
    "RAGCORE_ALLOW_UNSAFE_ROLE",
    "RAGCORE_TABLE",
    "RAGCORE_TABLE_COLUMNS",
    "RAGCORE_TABLE_PARENT",
    "RAGCORE_TABLE_JOIN",
    "RAGCORE_TABLE_PREDICATE",
    "RAGCORE_TABLE_ISOLATION",
    "RAGCORE_TABLE_EXACT",
    "RAGCORE_TABLE_ROLE",
    "RAGCORE_TABLE_CLAIM",
    "RAGCORE_TABLE_WRITABLE",
    "RAGCORE_TABLE_CONSTANTS",
)

# Variables that Kubernetes sets in each pod for a service whose name is or begins with ragcore.
KUBERNETES = re.compile(
    r"RAGCORE_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:ADDR|PORT|PROTO))?)?)"
)
# An unknown name counts as misspelt if it is at least this similar to a known name (0 to 1, as `difflib` measures it).
MISSPELT = 0.75

# libpq's variables, except those for login, host and database, and their names in a DSN.
LIBPQ = {
    "PGSSLMODE": "sslmode",
    "PGSSLROOTCERT": "sslrootcert",
    "PGSSLCERT": "sslcert",
    "PGSSLKEY": "sslkey",
    "PGSSLCRL": "sslcrl",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
    "PGCONNECT_TIMEOUT": "connect_timeout",
    "PGAPPNAME": "application_name",
    "PGOPTIONS": "options",
    "PGPASSFILE": "passfile",
    "PGCHANNELBINDING": "channel_binding",
    "PGGSSENCMODE": "gssencmode",
}


class Environment:
    """Reads ragcore's variables. An empty variable counts as not set.

    Args:
        variables: values by names, such as `os.environ`.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def check_names(self) -> None:
        """Check that no RAGCORE_ name is misspelt. A name that resembles no known name may belong to another program; it is ignored with a warning.

        Kubernetes sets RAGCORE_PORT and RAGCORE_SERVICE_HOST in a pod if a service is called ragcore.

        Raises:
            ConfigurationError: a name resembles the name of a setting.
        """
        known = (*OWN, *SETTINGS, *COMMAND_LINE_VARIABLES)
        for name in self._variables:
            if not name.startswith("RAGCORE_") or name in known or KUBERNETES.fullmatch(name):
                continue
            # Compare the names without the prefix that all of them have, because it would make all names similar.
            own = name.removeprefix("RAGCORE_")
            near = difflib.get_close_matches(own, [one.removeprefix("RAGCORE_") for one in known], n=1, cutoff=MISSPELT)
            if near:
                raise ConfigurationError(f"{name} is not a setting of ragcore; did you mean RAGCORE_{near[0]}?")
            logger.warning("%s is ignored: it is not a setting of ragcore", name)

    def text(self, name: str) -> str | None:
        """Return a variable's text; None if it is not set."""
        return self._variables.get(name) or None

    def secret(self, name: str) -> Secret | None:
        """Return a variable that must not be shown; None if it is not set."""
        value = self.text(name)
        return None if value is None else Secret(value)

    def secrets(self, name: str) -> tuple[Secret, ...]:
        """Return the secrets in a variable, which are separated by blanks; () if it is not set."""
        return tuple(Secret(one) for one in self._variables.get(name, "").split())

    def read(self, name: str, kind: Callable[[str], T], default: D) -> T | D:
        """Return a variable's value, converted by `kind`; `default` if it is not set.

        Raises:
            ConfigurationError: `kind` rejects the value.
        """
        text = self._variables.get(name, "").strip()
        if not text:
            return default
        try:
            return kind(text)
        except InvalidInput as error:
            raise ConfigurationError(f"{name}: {error}") from None
        except ValueError:
            raise ConfigurationError(
                f"{name} is {text!r}: it must be {DESCRIPTIONS.get(kind, 'another value')}"
            ) from None

    def names(self, name: str) -> tuple[str, ...]:
        """Return the names in a variable, which are separated by commas; () if it is not set."""
        return tuple(one.strip() for one in self._variables.get(name, "").split(",") if one.strip())

    def settings(self) -> Settings:
        """Return the settings. The variable of each field is RAGCORE_ and the field's name.

        Raises:
            ConfigurationError: a value is invalid.
        """
        kinds: dict[str, Callable[[str], Any]] = {
            "float": float,
            "int": int,
            "bool": boolean,
            "str": str,
            "float | None": float,
            "int | None": int,
            "Mapping[str, Price]": _prices,
            "Redact | None": Redaction.parse,
            "Rewrite": _rewrite,
        }
        missing: Any = object()  # None is a value
        given = {f.name: self.read(name, kinds[str(f.type)], missing) for name, f in SETTINGS.items()}
        return Settings(**{name: value for name, value in given.items() if value is not missing})

    def table(self) -> Table | None:
        """Return the mapping of an existing table; None if RAGCORE_TABLE is not set.

        Raises:
            ConfigurationError: a part of the mapping is invalid, or is set without RAGCORE_TABLE.
        """
        relation = self.text("RAGCORE_TABLE")
        if relation is None:
            alone = next((name for name in OWN if name.startswith("RAGCORE_TABLE_") and self.text(name)), None)
            if alone is not None:
                raise ConfigurationError(
                    f"{alone} is set, but RAGCORE_TABLE is not: set it to the table, as schema.table"
                )
            return None
        columns: dict[str, Any] = {}
        for name, column in self._pairs("RAGCORE_TABLE_COLUMNS", "name=column"):
            if name not in COLUMNS:
                raise ConfigurationError(f"RAGCORE_TABLE_COLUMNS has {name!r}: the names are {', '.join(COLUMNS)}")
            columns[name] = column
        if "tenant" not in columns:
            raise ConfigurationError("RAGCORE_TABLE_COLUMNS names no tenant: add tenant=column or tenant=parent.column")
        schema, table = _split(relation)
        parent_schema, parent = _split(self.text("RAGCORE_TABLE_PARENT") or "")
        role, claimed = self.text("RAGCORE_TABLE_ROLE"), self.text("RAGCORE_TABLE_CLAIM")
        try:
            return Table(
                table=table,
                schema=schema or "public",
                parent=parent or None,
                parent_schema=parent_schema,
                join=self.text("RAGCORE_TABLE_JOIN"),
                predicate=self.text("RAGCORE_TABLE_PREDICATE"),
                language=self.text("RAGCORE_LANGUAGE") or "english",
                isolation=cast("Isolation", self.text("RAGCORE_TABLE_ISOLATION") or "rls"),
                exact=self.read("RAGCORE_TABLE_EXACT", boolean, False),
                role=role,
                writable=self.read("RAGCORE_TABLE_WRITABLE", boolean, False),
                constants=dict(self._pairs("RAGCORE_TABLE_CONSTANTS", "column=value")),
                settings={"request.jwt.claims": claim(claimed, role=role or "authenticated")} if claimed else {},
                **columns,
            )
        except ConfigurationError as error:
            raise ConfigurationError(f"the mapping of RAGCORE_TABLE is invalid: {error}") from None

    def _pairs(self, name: str, form: str) -> Iterator[tuple[str, str]]:
        """Yield the pairs in a variable, which are separated by commas and have the form `left=right`."""
        for pair in self.names(name):
            left, equals, right = (part.strip() for part in pair.partition("="))
            if not equals:
                raise ConfigurationError(f"{name} has {pair!r}: write {form}, separated by commas")
            yield left, right

    def dsn(self) -> Secret | None:
        """Return DATABASE_URL, or a DSN made from libpq's PG* variables; None if neither names a database.

        Raises:
            ConfigurationError: PGHOST and PGPORT name different numbers of servers.
        """
        env = self._variables
        if env.get("DATABASE_URL"):
            return Secret(env["DATABASE_URL"])
        if not any(env.get(name) for name in ("PGHOST", "PGHOSTADDR", "PGDATABASE", "PGUSER")):
            return None
        user, password = quote(env.get("PGUSER", ""), safe=""), quote(env.get("PGPASSWORD", ""), safe="")
        login = f"{user}{f':{password}' if password else ''}@" if user or password else ""
        database = quote(env.get("PGDATABASE") or env.get("PGUSER", ""), safe="")
        options = {name: env[variable] for variable, name in LIBPQ.items() if env.get(variable)}
        hosts = (env.get("PGHOSTADDR") or env.get("PGHOST") or "localhost").split(",")
        ports = env["PGPORT"].split(",") if env.get("PGPORT") else [""]
        if len(ports) not in (1, len(hosts)):
            raise ConfigurationError(
                f"PGHOST names {len(hosts)} hosts and PGPORT {len(ports)} ports: set one port, or one for each host"
            )
        where = ""
        if any(host.startswith("/") for host in hosts):  # the host is the folder of the server's socket
            options["host"] = ",".join(hosts)
            if ports != [""]:
                options["port"] = ",".join(ports)
        else:
            pairs = zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=True)
            where = ",".join(
                f"{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}" for host, port in pairs
            )
        return Secret(f"postgresql://{login}{where}/{database}{'?' + urlencode(options) if options else ''}")


def boolean(text: str) -> bool:
    """Return the truth value of a text such as "true", "off" or "1".

    Raises:
        ValueError: the text is not a truth value.
    """
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(text)


# The description of each kind of value in error messages.
DESCRIPTIONS: dict[Any, str] = {int: "a whole number", float: "a number", boolean: "true or false"}


def _split(relation: str) -> tuple[str | None, str]:
    """Return schema and name of a table that is written as `schema.table` or `table`."""
    schema, dot, name = relation.partition(".")
    return (schema, name) if dot else (None, schema)


def _rewrite(text: str) -> Rewrite:
    """Return the value of RAGCORE_REWRITE. "none" stands for None."""
    return None if text.lower() == "none" else check_rewrite(text.lower())


def _prices(path: str) -> Mapping[str, Price]:
    """Read a price table: a JSON file such as {"gpt-4o-mini": {"prompt": 0.15, "completion": 0.60}}. Prices are for a million tokens."""
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        return {
            str(model): Price(**{str(name): float(value) for name, value in row.items()}) for model, row in rows.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f'cannot read prices from {path} ({type(error).__name__}): write {{"model": {{"prompt": 0.15, "completion": 0.60, "embedding": 0.02}}}}'
        ) from None
