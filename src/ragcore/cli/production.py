"""`ragcore doctor --production`: checks a service before it serves tenants' data."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio

from ragcore.cli.doctor import Check
from ragcore.config import EXTRACTIVE, Config
from ragcore.store.postgres import Inspection
from ragcore.store.postgres.table import TableInspection
from ragcore.types.secret import Secret, without_credentials

__all__ = ["review"]

SECONDS = 5.0
LEAST_TOKEN = 20
# Tokens and passwords that documentation uses as examples.
DEFAULTS = frozenset(
    "a-long-random-token another token secret password changeme admin test demo none ragcore postgres example".split()
)
OPENAI = "https://api.openai.com/v1"


async def review(
    config: Config, found: Inspection | TableInspection | None, *, tokens: Path | None, audit: Path | None
) -> AsyncIterator[Check]:
    """Check the requirements of a service in production. Each line that is not "ok" says what to do.

    Args:
        found: the database's inspection; None: the database is not reachable.
        tokens, audit: the files that are passed to `ragcore serve` as --tokens and --audit.
    """
    yield _role(config, found)
    yield _connection(found)
    yield _limits(config)
    yield await anyio.to_thread.run_sync(_tokens, tokens)
    yield _audit(audit)
    async for check in _keys(config):
        yield check


def _role(config: Config, found: Inspection | TableInspection | None) -> Check:
    name = "production: role"
    if config.allow_unsafe_role:
        return Check(
            name,
            "error",
            "RAGCORE_ALLOW_UNSAFE_ROLE is set: unset it, so that ragcore refuses a role that bypasses row-level security",
        )
    if found is None:
        return Check(name, "error", "unknown: the database is not reachable")
    if found.unsafe:
        return Check(name, "error", "; ".join(found.unsafe))
    return Check(name, "ok", f"row-level security applies to {found.role}")


def _connection(found: Inspection | TableInspection | None) -> Check:
    name = "production: connection"
    if found is None:
        return Check(name, "error", "unknown: the database is not reachable")
    if found.local or (found.encrypted and found.verified):
        return Check(name, "ok", "a socket of this machine" if found.local else "encrypted and verified")
    what = "not verified" if found.encrypted else "not encrypted"
    return Check(name, "error", f"{what}: use sslmode=verify-full with sslrootcert in the DSN")


def _limits(config: Config) -> Check:
    settings = config.settings
    missing = [
        f"RAGCORE_{name.upper()}"
        for name in ("requests_per_minute", "tokens_per_minute", "calls_at_once")
        if not getattr(settings, name)
    ]
    if missing:
        return Check(
            "production: limits",
            "error",
            f"no limit for each tenant: set {', '.join(missing)}; without them, one tenant can use the whole capacity",
        )
    whose = (
        "counted over all processes"
        if settings.share_limits
        else "counted in each process; to count over all processes, set RAGCORE_SHARE_LIMITS=true"
    )
    return Check("production: limits", "ok", f"each tenant has limits, {whose}")


def _tokens(path: Path | None) -> Check:
    name = "production: tokens"
    if path is None:
        return Check(
            name,
            "warning",
            "not checked: if `ragcore serve` uses a file of tokens, pass the same --tokens FILE to this command",
        )
    try:
        mode = path.stat().st_mode
        rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        plain = [token for token in rows if not token.startswith("sha256:")]
    except (OSError, ValueError, AttributeError) as error:
        return Check(name, "error", f"cannot read {path} ({type(error).__name__})")
    if any(token.lower() in DEFAULTS for token in plain):
        return Check(
            name,
            "error",
            f"{path} has an example token from documentation: make a new one, for instance with `openssl rand -hex 32`",
        )
    if any(len(token) < LEAST_TOKEN for token in plain):
        return Check(
            name,
            "error",
            f"{path} has a token of fewer than {LEAST_TOKEN} characters: make a longer one, for instance with `openssl rand -hex 32`",
        )
    if plain and mode & 0o004:
        return Check(
            name,
            "error",
            f"every user of this machine can read {path}: run chmod 600 on it, or store hashes of the tokens",
        )
    return Check(name, "ok", f"{len(rows)} in {path}, {len(rows) - len(plain)} of them as hashes")


def _audit(path: Path | None) -> Check:
    name = "production: audit"
    if path is None:
        return Check(
            name,
            "error",
            "access to tenants' data is not recorded: pass --audit FILE to `ragcore serve` and to this command, or use ragcore.audit.AuditLog",
        )
    if not path.parent.is_dir():
        return Check(name, "error", f"the folder {path.parent} of {path.name} does not exist: create it")
    where = "on the standard output" if str(path) == "-" else f"in {path}"
    return Check(name, "ok", f"access to tenants' data is recorded {where}")


async def _keys(config: Config) -> AsyncIterator[Check]:
    """Request the list of models from each model server. This is free."""
    servers: dict[tuple[str, Secret | None], list[str]] = {}
    remote = [model for model in config.models if model != EXTRACTIVE]
    if remote:
        servers.setdefault(
            (config.generation_base_url or config.base_url or OPENAI, config.generation_api_key or config.api_key), []
        ).extend(remote)
    if not config.embeds_locally:
        key = config.embedding_api_key or config.api_key
        servers.setdefault((config.embedding_base_url or config.base_url or OPENAI, key), []).append(
            config.embedding_model
        )
    for (url, secret), models in servers.items():
        yield await _key(url, secret, models)


async def _key(url: str, key: Secret | None, models: list[str]) -> Check:
    import httpx

    name, shown = "production: keys", without_credentials(url)
    if key is None:
        return Check(name, "error", f"no key is set for {shown}")
    if key.reveal().strip().lower() in DEFAULTS - {"none"}:
        return Check(name, "error", f"the key for {shown} is an example from documentation: set your own")
    try:
        with anyio.fail_after(SECONDS):
            async with httpx.AsyncClient(timeout=SECONDS) as client:
                headers = {"authorization": f"Bearer {key.reveal()}", "api-key": key.reveal()}
                async with client.stream("GET", f"{url.rstrip('/')}/models", headers=headers) as response:
                    status, limits = (
                        response.status_code,
                        [one for one in response.headers if re.match("x-ratelimit-limit", one)],
                    )
    except (httpx.HTTPError, TimeoutError, ValueError) as error:
        return Check(name, "error", f"the request for the models of {shown} failed ({type(error).__name__})")
    if status in (401, 403):
        return Check(name, "error", f"{shown} rejects the key (status {status})")
    if status >= 400:
        return Check(
            name,
            "warning",
            f"the key is not tested: {shown} has no list of models (status {status})",
        )
    known = (
        ""
        if limits
        else "; it does not report the key's limits: ask the provider for them, and set RAGCORE_TOKENS_PER_MINUTE below them"
    )
    return Check(name, "ok" if limits else "warning", f"{shown} accepts the key, for {', '.join(models)}{known}")
