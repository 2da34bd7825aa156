"""`ragcore doctor --production`: what must be so before tenants' data is served."""

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
from ragcore.types.secret import Secret, without_credentials

__all__ = ["review"]

SECONDS = 5.0
LEAST_TOKEN = 20
# Tokens and passwords that stand in documentation.
DEFAULTS = frozenset(
    "a-long-random-token another token secret password changeme admin test demo none ragcore postgres example".split()
)
OPENAI = "https://api.openai.com/v1"


async def review(
    config: Config, found: Inspection | None, *, tokens: Path | None, audit: Path | None
) -> AsyncIterator[Check]:
    """Look at what a service in production needs. Each line that is no "ok" is an error, and says what to do.

    Args:
        found: the database; None: it can't be reached.
        tokens, audit: the files that `ragcore serve` gets.
    """
    yield _role(config, found)
    yield _connection(found)
    yield _limits(config)
    yield await anyio.to_thread.run_sync(_tokens, tokens)
    yield _audit(audit)
    async for check in _keys(config):
        yield check


def _role(config: Config, found: Inspection | None) -> Check:
    name = "production: role"
    if config.allow_unsafe_role:
        return Check(
            name,
            "error",
            "RAGCORE_ALLOW_UNSAFE_ROLE is set: unset it, so that a role that row-level security doesn't bind is refused",
        )
    if found is None:
        return Check(name, "error", "not known: the database can't be reached")
    if found.unsafe:
        return Check(name, "error", "; ".join(found.unsafe))
    return Check(name, "ok", f"row-level security binds {found.role}")


def _connection(found: Inspection | None) -> Check:
    name = "production: connection"
    if found is None:
        return Check(name, "error", "not known: the database can't be reached")
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
            f"none for each tenant in {', '.join(missing)}: set them, as one tenant could take all that there is",
        )
    whose = (
        "of all processes together"
        if settings.share_limits
        else "of each process: RAGCORE_SHARE_LIMITS=true joins several"
    )
    return Check("production: limits", "ok", f"each tenant has limits, {whose}")


def _tokens(path: Path | None) -> Check:
    name = "production: tokens"
    if path is None:
        return Check(name, "warning", "not looked at: pass --tokens FILE, if `ragcore serve` gets one")
    try:
        mode = path.stat().st_mode
        rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        plain = [token for token in rows if not token.startswith("sha256:")]
    except (OSError, ValueError, AttributeError) as error:
        return Check(name, "error", f"{path} can't be read ({type(error).__name__})")
    if any(token.lower() in DEFAULTS for token in plain):
        return Check(
            name,
            "error",
            f"{path} has a token that stands in documentation: make others, for instance with `openssl rand -hex 32`",
        )
    if any(len(token) < LEAST_TOKEN for token in plain):
        return Check(
            name,
            "error",
            f"{path} has a token of fewer than {LEAST_TOKEN} characters: make others, for instance with `openssl rand -hex 32`",
        )
    if plain and mode & 0o004:
        return Check(
            name, "error", f"{path} may be read by everybody on this machine: chmod 600 it, or put hashes into it"
        )
    return Check(name, "ok", f"{len(rows)} in {path}, {len(rows) - len(plain)} of them as hashes")


def _audit(path: Path | None) -> Check:
    name = "production: audit"
    if path is None:
        return Check(
            name,
            "error",
            "nobody records who looks at whose data: pass --audit FILE to `ragcore serve` (and here), or use ragcore.audit.AuditLog",
        )
    if not path.parent.is_dir():
        return Check(name, "error", f"there is no folder {path.parent} for {path.name}")
    where = "on the standard output" if str(path) == "-" else f"in {path}"
    return Check(name, "ok", f"looks at tenants' data are recorded {where}")


async def _keys(config: Config) -> AsyncIterator[Check]:
    """Ask each model server for its list of models, which costs nothing."""
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
        return Check(name, "error", f"there is no key for {shown}")
    if key.reveal().strip().lower() in DEFAULTS - {"none"}:
        return Check(name, "error", f"the key for {shown} stands in documentation")
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
        return Check(name, "error", f"{shown} can't be asked for its models ({type(error).__name__})")
    if status in (401, 403):
        return Check(name, "error", f"{shown} refuses the key (status {status})")
    if status >= 400:
        return Check(
            name,
            "warning",
            f"{shown} has no list of models (status {status}), so whether it takes the key is not known",
        )
    known = (
        ""
        if limits
        else "; it does not say the key's limits, so ask its provider and set RAGCORE_TOKENS_PER_MINUTE below them"
    )
    return Check(name, "ok" if limits else "warning", f"{shown} takes the key, for {', '.join(models)}{known}")
