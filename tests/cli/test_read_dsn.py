"""`--read-dsn` names read replicas, where the store has any."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragcore import RAG, ConfigurationError
from ragcore.cli.session import Options

REPLICAS = "postgresql://app:canary@db2/chat postgresql://app@db3/chat"


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "PGHOST", "RAGCORE_TABLE", "RAGCORE_TABLE_COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("RAGCORE_READ_DSN", "postgresql://app@db4/chat")


def test_the_option_replaces_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://app@db1/chat")
    options = Options(read_dsn=REPLICAS)
    assert [dsn.reveal() for dsn in options.config().read_dsn] == REPLICAS.split()
    assert "canary" not in repr(options)
    assert [dsn.reveal() for dsn in Options().config().read_dsn] == ["postgresql://app@db4/chat"]


def test_an_embedded_database_has_no_replicas(tmp_path: Path) -> None:
    assert Options(data=tmp_path).config().read_dsn == ()
    with pytest.raises(ConfigurationError, match="the embedded database has no replicas"):
        RAG.from_config(Options(data=tmp_path, read_dsn=REPLICAS).config())


def test_an_existing_table_is_read_from_one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://app@db1/chat")
    monkeypatch.setenv("RAGCORE_TABLE", "chunks")
    monkeypatch.setenv("RAGCORE_TABLE_COLUMNS", "tenant=owner")
    with pytest.raises(ConfigurationError, match="read only from the server that dsn names"):
        RAG.from_config(Options().config())
