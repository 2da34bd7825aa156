"""The variables of the environment: their names, and what their texts mean."""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from ragcore.config.settings import Settings
from ragcore.errors import ConfigurationError, InvalidInput
from ragcore.text.redaction import Redaction
from ragcore.types import Price
from ragcore.types.secret import Secret

__all__ = ["COMMAND_LINE_VARIABLES", "OWN", "SETTINGS", "Environment", "boolean"]

logger: logging.Logger = logging.getLogger("ragcore.config")

T = TypeVar("T")
D = TypeVar("D")

# Read by the command line, not by from_env.
COMMAND_LINE_VARIABLES = ("RAGCORE_DATA", "RAGCORE_TENANT", "RAGCORE_OWNER_DSN")
SETTINGS = {f"RAGCORE_{f.name.upper()}": f for f in fields(Settings)}
OWN = (
    "RAGCORE_EMBEDDING_API_KEY",
    "RAGCORE_EMBEDDING_BASE_URL",
    "RAGCORE_EMBEDDING_CACHE_MB",
    "RAGCORE_EMBEDDING_CACHE_TTL",
    "RAGCORE_GENERATION_API_KEY",
    "RAGCORE_GENERATION_BASE_URL",
    "RAGCORE_EMBEDDING_MODEL",
    "RAGCORE_EMBEDDING_DIMENSION",
    "RAGCORE_MODELS",
    "RAGCORE_TOP_K",
    "RAGCORE_SCORE_THRESHOLD",
    "RAGCORE_MODE",
    "RAGCORE_CHUNK_TOKENS",
    "RAGCORE_OVERLAP_TOKENS",
    "RAGCORE_EMBED_TEXT",
    "RAGCORE_READ_TIMEOUT",
    "RAGCORE_SCHEMA",
    "RAGCORE_LANGUAGE",
    "RAGCORE_POOL_SIZE",
    "RAGCORE_EF_SEARCH",
    "RAGCORE_EXACT_ROWS",
    "RAGCORE_ALLOW_UNSAFE_ROLE",
)

# What Kubernetes puts into the environment of each pod for a service that is called ragcore, or begins so.
KUBERNETES = re.compile(
    r"RAGCORE_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:ADDR|PORT|PROTO))?)?)"
)
# A name as near as this to a known one is that one, misspelt.
MISSPELT = 0.75

# What libpq reads of the environment besides login, host and database, with the names that a DSN has for it.
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
    """Reads ragcore's variables. An empty variable is one that is not set.

    Args:
        variables: by their names, such as `os.environ`.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def check_names(self) -> None:
        """Check that no RAGCORE_ name is misspelt. Names that resemble none of ours are ignored, with a warning: they are somebody else's.

        Kubernetes gives a pod RAGCORE_PORT and RAGCORE_SERVICE_HOST if a service is called ragcore.

        Raises:
            ConfigurationError: a name is nearly that of a setting.
        """
        known = (*OWN, *SETTINGS, *COMMAND_LINE_VARIABLES)
        for name in self._variables:
            if not name.startswith("RAGCORE_") or name in known or KUBERNETES.fullmatch(name):
                continue
            # Without what all begin with, which would make all of them alike.
            own = name.removeprefix("RAGCORE_")
            near = difflib.get_close_matches(own, [one.removeprefix("RAGCORE_") for one in known], n=1, cutoff=MISSPELT)
            if near:
                raise ConfigurationError(f"{name} is not a setting of ragcore; did you mean RAGCORE_{near[0]}?")
            logger.warning("%s is not a setting of ragcore, and is ignored", name)

    def text(self, name: str) -> str | None:
        """Return a variable as it is; None: not set."""
        return self._variables.get(name) or None

    def secret(self, name: str) -> Secret | None:
        """Return a variable that must not be shown; None: not set."""
        value = self.text(name)
        return None if value is None else Secret(value)

    def read(self, name: str, kind: Callable[[str], T], default: D) -> T | D:
        """Return a variable as what `kind` makes of it; `default`: not set.

        Raises:
            ConfigurationError: it is not of that kind.
        """
        text = self._variables.get(name, "").strip()
        if not text:
            return default
        try:
            return kind(text)
        except InvalidInput as error:
            raise ConfigurationError(f"{name}: {error}") from None
        except ValueError:
            raise ConfigurationError(f"{name} is {text!r}: it must be {ARTICLES.get(kind, 'another value')}") from None

    def names(self, name: str) -> tuple[str, ...]:
        """Return the names in a variable, which have commas between them; (): not set."""
        return tuple(one.strip() for one in self._variables.get(name, "").split(",") if one.strip())

    def settings(self) -> Settings:
        """Return the fields of `Settings`, each from RAGCORE_ and its name.

        Raises:
            ConfigurationError: one of them is not of its kind.
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
        }
        given = {f.name: self.read(name, kinds[str(f.type)], None) for name, f in SETTINGS.items()}
        return Settings(**{name: value for name, value in given.items() if value is not None})

    def dsn(self) -> Secret | None:
        """Return DATABASE_URL, or a DSN of what libpq's PG* name; None: no database is named.

        Raises:
            ConfigurationError: PGHOST and PGPORT don't fit together.
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
                f"PGHOST names {len(hosts)} hosts and PGPORT {len(ports)} ports: give one, or one for each host"
            )
        where = ""
        if any(host.startswith("/") for host in hosts):  # a folder with the server's socket
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
    """Return what a text such as "true", "off" or "1" means.

    Raises:
        ValueError: it is none of them.
    """
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(text)


# How a message says what a kind must be.
ARTICLES: dict[Any, str] = {int: "a whole number", float: "a number", boolean: "true or false"}


def _prices(path: str) -> Mapping[str, Price]:
    """A price table: a JSON file like {"gpt-4o-mini": {"prompt": 0.15, "completion": 0.60}}, a million tokens each."""
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        return {
            str(model): Price(**{str(name): float(value) for name, value in row.items()}) for model, row in rows.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f'prices can\'t be read from {path} ({type(error).__name__}): write {{"model": {{"prompt": 0.15, "completion": 0.60, "embedding": 0.02}}}}'
        ) from None
