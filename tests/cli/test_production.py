"""`ragcore doctor --production`: the checks before a service serves tenants' data."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ragcore import Config, Settings
from ragcore.cli.doctor import Check
from ragcore.cli.production import review
from ragcore.store.postgres import Inspection
from ragcore.testing import Fail, OpenAIServer
from ragcore.types.secret import Secret

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed]
LIMITED = Settings(requests_per_minute=60, tokens_per_minute=100_000, calls_at_once=8)
CANARY = "canary-sk-1234567890abcdef"


def inspection(**changes: Any) -> Inspection:
    safe: dict[str, Any] = {
        "address": "db/x", "role": "app", "superuser": False, "bypasses_rls": False, "owns_tables": False, "forces_rls": True,
        "encrypted": True, "verified": True, "local": False, "has_schema": True,
    }  # fmt: skip
    return Inspection(**{**NEEDED, **safe, **changes})


NEEDED: dict[str, Any] = {
    "schema": "ragcore", "server_version": "18.0", "pgvector": "0.8.1", "dimension": 3, "has_index": True, "model": "m",
    "about_chunks": None,
}  # fmt: skip


async def by_name(config: Config, found: Inspection | None, **files: Path | None) -> dict[str, Check]:
    given: dict[str, Any] = {"tokens": None, "audit": None, **files}
    return {check.name.removeprefix("production: "): check async for check in review(config, found, **given)}


@pytest.fixture
async def server(anyio_backend: str) -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer() as made:
        yield made


def config(server: OpenAIServer, **changes: Any) -> Config:
    return Config(base_url=server.base_url, api_key=Secret(CANARY), settings=LIMITED, **changes)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"5f2c9b0e4d7a41c8a6e3": {"tenant": "m"}}))
    path.chmod(0o600)
    return path


async def test_a_safe_configuration_has_no_errors(server: OpenAIServer, tokens: Path, tmp_path: Path) -> None:
    found = await by_name(config(server), inspection(), tokens=tokens, audit=tmp_path / "audit.jsonl")
    assert [check.message for check in found.values() if check.status == "error"] == []
    assert found["keys"].status == "warning"  # the server does not report the key's limits
    assert CANARY not in str(found)


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({"superuser": True}, "role", "superuser"),
        ({"encrypted": False, "verified": False}, "connection", "not encrypted"),
        ({"verified": False}, "connection", "not verified"),
    ],
)
async def test_an_unsafe_database_is_an_error_with_its_reason(
    server: OpenAIServer, changes: dict[str, Any], name: str, said: str
) -> None:
    check = (await by_name(config(server), inspection(**changes)))[name]
    assert check.status == "error"
    assert said in check.message


async def test_each_unsafe_setting_is_an_error(server: OpenAIServer, tmp_path: Path) -> None:
    loose = Config(base_url=server.base_url, api_key=Secret("changeme"), allow_unsafe_role=True)
    found = await by_name(loose, inspection())
    assert {name for name, check in found.items() if check.status == "error"} == {"role", "limits", "audit", "keys"}
    assert "RAGCORE_REQUESTS_PER_MINUTE" in found["limits"].message
    missing = await by_name(config(server), None, audit=tmp_path / "nowhere" / "audit.jsonl")
    assert {name for name, check in missing.items() if check.status == "error"} == {"role", "connection", "audit"}


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ({"a-long-random-token": {"tenant": "m"}}, 0o600, "documentation"),
        ({"short": {"tenant": "m"}}, 0o600, "fewer than 20"),
        ({"5f2c9b0e4d7a41c8a6e3": {"tenant": "m"}}, 0o644, "every user"),
        ("[", 0o600, "cannot read"),
    ],
)
async def test_unsafe_or_unreadable_tokens_are_an_error_without_the_token(
    server: OpenAIServer, tokens: Path, content: Any, mode: int, said: str
) -> None:
    tokens.write_text(content if isinstance(content, str) else json.dumps(content))
    tokens.chmod(mode)
    check = (await by_name(config(server), inspection(), tokens=tokens))["tokens"]
    assert check.status == "error"
    assert said in check.message
    assert "5f2c9b0e" not in check.message


async def test_a_rejected_key_and_an_unreachable_server_are_errors(server: OpenAIServer) -> None:
    server.faults.always(Fail(401))
    check = (await by_name(config(server), inspection()))["keys"]
    assert (check.status, "rejects the key" in check.message) == ("error", True)
    nowhere = Config(base_url="http://127.0.0.1:9/v1", api_key=Secret(CANARY), settings=LIMITED)
    check = (await by_name(nowhere, inspection()))["keys"]
    assert (check.status, "the request for the models" in check.message) == ("error", True)
