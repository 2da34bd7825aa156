"""What can be set, and the one place where ragcore itself reads the environment."""

from __future__ import annotations

import difflib
import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote, urlencode

from ragcore.errors import ConfigurationError, InvalidInput
from ragcore.ingest.options import CHUNK_TOKENS, OVERLAP_TOKENS, READ_SECONDS, check_chunking, check_read_timeout
from ragcore.resilience import Policy
from ragcore.text.redaction import Redact, Redaction
from ragcore.types import EmbedText, Mode, Price
from ragcore.types.secret import Secret, without_credentials
from ragcore.types.validation import check_mode, check_threshold, check_top_k

__all__ = ["Config", "Policies", "Settings"]

logger = logging.getLogger("ragcore.config")

LOCAL_EMBEDDING_MODELS = ("all-MiniLM-L6-v2", "local")
EXTRACTIVE = "extractive"
EMBEDDED_SCHEME = "embedded:"
DEFAULT_NOT_FOUND = "I could not find the answer in your documents."
DEFAULT_NOT_ANSWERED = (
    "No answer can be written at the moment. This is the passage of your documents that is nearest to the question:"
)
DEFAULT_NOT_SEARCHED = "Your documents could not be searched completely at the moment. Please try again later."
# Read by the command line, not by from_env.
COMMAND_LINE_VARIABLES = ("RAGCORE_DATA", "RAGCORE_TENANT", "RAGCORE_OWNER_DSN")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the client behaves.

    Attributes:
        timeout: seconds for a call that names none.
        document_timeout: seconds for each step of a document of an `add`: cutting it, embedding 256 of its chunks, writing 2,000 of them.
        drain: seconds that running calls get when the client is closed.
        degrade: whether another way is taken when a stage fails; False raises instead.
        quote_when_overloaded: whether the passages are quoted where no model has room; False raises `Overloaded`, so that the caller can come back.
        instructions: for every answer, besides the rules for citing; a call's own come in their place.
        not_found: the answer's text when the documents don't answer the question.
        not_searched: the answer's text when nothing was found because the search itself was at fault: the embedder was down, or the documents have no
            embeddings of its model.
        not_answered: stands before the nearest passage where no model could be reached and no sentence can be quoted as the answer.
        prompt_tokens: of a prompt at most.
        max_tokens: of an answer at most.
        recent: how many finished calls `RAG.recent()` remembers.
        health_timeout: seconds that `RAG.health()` may take.
        watchdog: whether a thread looks for hung calls, a blocked event loop and a full default executor, and reports them.
        memory_mb: MiB of this process that `RAG.health()` judges its memory by; None: the cgroup's limit.
        requests_per_minute, tokens_per_minute, calls_at_once: of each tenant, at most; a call beyond raises `LimitExceeded`. 0: no limit. None: no limit, and
            the default of `ragcore serve` there.
        share_limits: whether these limits hold for all processes that use the database together, which count there; False: each process counts for itself.
        spending_per_day: of each tenant and day in UTC, at most, in the currency of the prices; None: no limit.
        prices: what a million tokens cost, by model.
        redact: what is taken out of texts before they go to a model or an embedder: a `Redaction`, or a function from text to text, which
            runs on threads, at most 8 at once. None: nothing.
            RAGCORE_REDACT holds the kinds of a `Redaction` with commas between, or "all", and "reversible".
    """

    timeout: float = 30.0
    document_timeout: float = 120.0
    drain: float = 10.0
    degrade: bool = True
    quote_when_overloaded: bool = False
    instructions: str = ""
    not_found: str = DEFAULT_NOT_FOUND
    not_searched: str = DEFAULT_NOT_SEARCHED
    not_answered: str = DEFAULT_NOT_ANSWERED
    prompt_tokens: int = 6_000
    max_tokens: int = 800
    recent: int = 100
    health_timeout: float = 2.0
    watchdog: bool = True
    memory_mb: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    calls_at_once: int | None = None
    share_limits: bool = False
    spending_per_day: float | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    redact: Redact | None = None

    def __post_init__(self) -> None:
        for name in ("timeout", "document_timeout", "health_timeout"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ConfigurationError(f"{name} is {value!r}: it must be a positive, finite number of seconds")
        if not (isinstance(self.drain, int | float) and 0 <= self.drain < math.inf):
            raise ConfigurationError(f"drain is {self.drain!r}: it must be a finite number of seconds, at least 0")
        for name in ("requests_per_minute", "tokens_per_minute", "calls_at_once"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 0):
                raise ConfigurationError(f"{name} is {value!r}: it must be a whole number, 0 for no limit, or None")
        spending = self.spending_per_day
        if spending is not None and not (isinstance(spending, int | float) and 0 < spending < math.inf):
            raise ConfigurationError(f"spending_per_day is {spending!r}: it must be a positive number, or None")
        if spending is not None and not self.prices:
            raise ConfigurationError("spending_per_day needs prices: what a million tokens cost, by model")
        if self.memory_mb is not None and not (
            isinstance(self.memory_mb, int | float) and 0 < self.memory_mb < math.inf
        ):
            raise ConfigurationError(f"memory_mb is {self.memory_mb!r}: it must be a positive number of MiB, or None")
        for name in ("prompt_tokens", "max_tokens"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}: it must be a whole number, at least 1")
        if self.redact is not None and not callable(self.redact):
            raise ConfigurationError(
                f"redact is a {type(self.redact).__name__}: it must be a Redaction, a function from text to text, or None"
            )
        if not (isinstance(self.recent, int) and 0 <= self.recent <= 100_000):
            raise ConfigurationError(f"recent is {self.recent!r}: it must be a whole number from 0 to 100,000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """A policy for each dependency; None: its own default. `store` is of searches, `store_writes` of what changes the store."""

    embedding: Policy | None = None
    store: Policy | None = None
    store_writes: Policy | None = None
    generation: Policy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a client is made of. `dataclasses.replace` changes it.

    Attributes:
        dsn: of PostgreSQL, of a role that owns nothing.
        api_key, base_url: of the OpenAI-compatible server; None: as its SDK finds them.
        embedding_api_key, embedding_base_url, generation_api_key, generation_base_url: where embedding or generation has a server of its own; None: as
            `api_key` and `base_url`.
        embedding_model: "all-MiniLM-L6-v2" runs on this machine, any other name on the server.
        embedding_dimension: of a model that isn't OpenAI's own; None: known.
        embedding_cache_mb, embedding_cache_ttl: MiB for the vectors of questions that were asked before, and seconds that each is good for; 0 MiB: none.
        models: to generate with, in the order to ask them; "extractive" quotes, without a model, and is always there as the last resort.
        top_k, score_threshold, mode: of retrieval.
        chunk_tokens, overlap_tokens, embed_text: of the chunks that documents are cut into, as in `Ingestor`. A change concerns documents when they are added
            again; all of them are then made anew.
        read_timeout: seconds for reading each file, as in `ingest.read`.
        schema: the collection in PostgreSQL, which `store.migrate` or `ragcore migrate` made.
        language: of text search, for a collection that the embedded database makes: a configuration of PostgreSQL's, such as "german", or "simple".
            None: english for a new one, else as it is.
        pool_size, ef_search, exact_rows, allow_unsafe_role: as in `PgVectorStore`.
        settings: how the client behaves.
    """

    dsn: Secret | None = None
    api_key: Secret | None = None
    base_url: str | None = None
    embedding_api_key: Secret | None = None
    embedding_base_url: str | None = None
    generation_api_key: Secret | None = None
    generation_base_url: str | None = None
    embedding_model: str = "text-embedding-3-small"
    embedding_dimension: int | None = None
    embedding_cache_mb: int = 32
    embedding_cache_ttl: float = 3600.0
    models: tuple[str, ...] = ("gpt-4o-mini",)
    top_k: int = 5
    score_threshold: float | Literal[False] | None = None
    mode: Mode = "vector"
    chunk_tokens: int = CHUNK_TOKENS
    overlap_tokens: int = OVERLAP_TOKENS
    embed_text: EmbedText | None = None
    read_timeout: float = READ_SECONDS
    schema: str = "ragcore"
    language: str | None = None
    pool_size: int = 10
    ef_search: int = 100
    exact_rows: int | None = None
    allow_unsafe_role: bool = False
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        check_chunking(self.chunk_tokens, self.overlap_tokens, self.embed_text)
        check_read_timeout(self.read_timeout)
        try:
            check_top_k(self.top_k)
            check_mode(self.mode)
            if self.score_threshold is not None:
                check_threshold(self.score_threshold)
        except InvalidInput as error:
            raise ConfigurationError(str(error)) from None
        if not (isinstance(self.embedding_cache_mb, int) and self.embedding_cache_mb >= 0):
            raise ConfigurationError(
                f"embedding_cache_mb is {self.embedding_cache_mb!r}: it must be a whole number of MiB, or 0 for no cache"
            )
        if not (isinstance(self.embedding_cache_ttl, int | float) and 0 < self.embedding_cache_ttl < math.inf):
            raise ConfigurationError(
                f"embedding_cache_ttl is {self.embedding_cache_ttl!r}: it must be a positive, finite number of seconds"
            )
        if not self.models:
            raise ConfigurationError("models is empty: name a model, or 'extractive' for quotations without one")

    def __repr__(self) -> str:
        """Without the credentials that an address may hold."""
        shown = []
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name.endswith("base_url") and value is not None:
                value = without_credentials(str(value))
            shown.append(f"{one.name}={value!r}")
        return f"Config({', '.join(shown)})"

    @property
    def embeds_locally(self) -> bool:
        """Whether the embedding model runs on this machine."""
        return self.embedding_model in LOCAL_EMBEDDING_MODELS

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, /) -> Self:
        """Read DATABASE_URL or libpq's PG*, OPENAI_API_KEY, OPENAI_BASE_URL and RAGCORE_*.

        RAGCORE_EMBEDDING_API_KEY, RAGCORE_EMBEDDING_BASE_URL, RAGCORE_GENERATION_API_KEY and RAGCORE_GENERATION_BASE_URL stand in place of OPENAI_API_KEY
        and OPENAI_BASE_URL for one of the two. The others are RAGCORE_EMBEDDING_MODEL, RAGCORE_EMBEDDING_DIMENSION, RAGCORE_EMBEDDING_CACHE_MB,
        RAGCORE_EMBEDDING_CACHE_TTL, RAGCORE_MODELS (commas between),
        RAGCORE_TOP_K, RAGCORE_SCORE_THRESHOLD, RAGCORE_MODE, RAGCORE_CHUNK_TOKENS, RAGCORE_OVERLAP_TOKENS, RAGCORE_EMBED_TEXT, RAGCORE_READ_TIMEOUT,
        RAGCORE_SCHEMA, RAGCORE_LANGUAGE, RAGCORE_POOL_SIZE, RAGCORE_EF_SEARCH,
        RAGCORE_EXACT_ROWS, RAGCORE_ALLOW_UNSAFE_ROLE, and RAGCORE_ with the name
        of each field of `Settings`.

        Args:
            environ: None: the process's own.

        Raises:
            ConfigurationError: something is missing or not of its kind, or a RAGCORE_ name is a misspelt one. It never falls back to local parts.
        """
        env = os.environ if environ is None else environ
        _check_names(env)
        config = cls(
            dsn=_dsn(env),
            api_key=_secret(env, "OPENAI_API_KEY"),
            base_url=env.get("OPENAI_BASE_URL") or None,
            embedding_api_key=_secret(env, "RAGCORE_EMBEDDING_API_KEY"),
            embedding_base_url=env.get("RAGCORE_EMBEDDING_BASE_URL") or None,
            generation_api_key=_secret(env, "RAGCORE_GENERATION_API_KEY"),
            generation_base_url=env.get("RAGCORE_GENERATION_BASE_URL") or None,
            embedding_model=env.get("RAGCORE_EMBEDDING_MODEL") or "text-embedding-3-small",
            embedding_dimension=_read(env, "RAGCORE_EMBEDDING_DIMENSION", int, None),
            embedding_cache_mb=_read(env, "RAGCORE_EMBEDDING_CACHE_MB", int, 32),
            embedding_cache_ttl=_read(env, "RAGCORE_EMBEDDING_CACHE_TTL", float, 3600.0),
            models=_models(env),
            top_k=_read(env, "RAGCORE_TOP_K", int, 5),
            score_threshold=_read(env, "RAGCORE_SCORE_THRESHOLD", float, None),
            mode=_read(env, "RAGCORE_MODE", check_mode, "vector"),
            chunk_tokens=_read(env, "RAGCORE_CHUNK_TOKENS", int, CHUNK_TOKENS),
            overlap_tokens=_read(env, "RAGCORE_OVERLAP_TOKENS", int, OVERLAP_TOKENS),
            embed_text=_read(env, "RAGCORE_EMBED_TEXT", str, None),
            read_timeout=_read(env, "RAGCORE_READ_TIMEOUT", float, READ_SECONDS),
            schema=env.get("RAGCORE_SCHEMA") or "ragcore",
            language=env.get("RAGCORE_LANGUAGE") or None,
            pool_size=_read(env, "RAGCORE_POOL_SIZE", int, 10),
            ef_search=_read(env, "RAGCORE_EF_SEARCH", int, 100),
            exact_rows=_read(env, "RAGCORE_EXACT_ROWS", int, None),
            allow_unsafe_role=_read(env, "RAGCORE_ALLOW_UNSAFE_ROLE", _boolean, False),
            settings=_settings(env),
        )
        if config.dsn is None:
            raise ConfigurationError(
                "DATABASE_URL is not set: postgresql://user:password@host:port/database, of a role that owns nothing"
            )
        remote = [] if config.generation_api_key else [model for model in config.models if model != EXTRACTIVE]
        if not config.embeds_locally and config.embedding_api_key is None:
            remote.append(config.embedding_model)
        if remote and config.api_key is None:
            raise ConfigurationError(
                f"OPENAI_API_KEY is not set, and {' and '.join(remote)} {'need' if len(remote) > 1 else 'needs'} it "
                "('none' for a server that wants no key; RAGCORE_MODELS=extractive quotes the documents without a model)"
            )
        return config

    @classmethod
    def local(cls, folder: str | PathLike[str], /) -> Self:
        """All on this machine: embedded PostgreSQL in `folder`, the local embedder, quotation without a model. Extras `embedded` and `local`."""
        return cls(
            dsn=Secret(EMBEDDED_SCHEME + str(Path(folder))),
            embedding_model=LOCAL_EMBEDDING_MODELS[0],
            models=(EXTRACTIVE,),
        )


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


def _check_names(env: Mapping[str, str]) -> None:
    """Misspelt names are errors. Others are somebody else's: Kubernetes gives a pod RAGCORE_PORT and RAGCORE_SERVICE_HOST if a service is called ragcore."""
    known = (*OWN, *SETTINGS, *COMMAND_LINE_VARIABLES)
    for name in env:
        if not name.startswith("RAGCORE_") or name in known or KUBERNETES.fullmatch(name):
            continue
        # Without what all begin with, which would make all of them alike.
        own = name.removeprefix("RAGCORE_")
        near = difflib.get_close_matches(own, [one.removeprefix("RAGCORE_") for one in known], n=1, cutoff=MISSPELT)
        if near:
            raise ConfigurationError(f"{name} is not a setting of ragcore; did you mean RAGCORE_{near[0]}?")
        logger.warning("%s is not a setting of ragcore, and is ignored", name)


def _read(env: Mapping[str, str], name: str, kind: Callable[[str], Any], default: Any) -> Any:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        return kind(text)
    except InvalidInput as error:
        raise ConfigurationError(f"{name}: {error}") from None
    except ValueError:
        raise ConfigurationError(f"{name} is {text!r}: it must be {_ARTICLES.get(kind, 'another value')}") from None


def _secret(env: Mapping[str, str], name: str) -> Secret | None:
    return Secret(env[name]) if env.get(name) else None


def _boolean(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(text)


_ARTICLES: dict[Any, str] = {int: "a whole number", float: "a number", _boolean: "true or false"}


def _models(env: Mapping[str, str]) -> tuple[str, ...]:
    models = tuple(name.strip() for name in env.get("RAGCORE_MODELS", "").split(",") if name.strip())
    return models or ("gpt-4o-mini",)


def _settings(env: Mapping[str, str]) -> Settings:
    kinds: dict[str, Callable[[str], Any]] = {
        "float": float,
        "int": int,
        "bool": _boolean,
        "str": str,
        "float | None": float,
        "int | None": int,
        "Mapping[str, Price]": _prices,
        "Redact | None": Redaction.parse,
    }
    given = {f.name: _read(env, name, kinds[str(f.type)], None) for name, f in SETTINGS.items()}
    return Settings(**{name: value for name, value in given.items() if value is not None})


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


def _dsn(env: Mapping[str, str]) -> Secret | None:
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
        where = ",".join(f"{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}" for host, port in pairs)
    return Secret(f"postgresql://{login}{where}/{database}{'?' + urlencode(options) if options else ''}")
