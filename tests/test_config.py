"""Settings and environment variables."""

from __future__ import annotations

import pytest

from ragcore import Config, ConfigurationError, Secret, Settings
from ragcore.client.rag import RAG
from ragcore.testing import FakeEmbedder, FakeGenerator, FakeStore

FULL = {"DATABASE_URL": "postgresql://app:canary-password@db/x", "OPENAI_API_KEY": "canary-key"}


def test_every_variable_of_the_environment_is_read() -> None:
    config = Config.from_env(
        {
            **FULL,
            "OPENAI_BASE_URL": "http://localhost:1/v1",
            "RAGCORE_EMBEDDING_MODEL": "e",
            "RAGCORE_EMBEDDING_DIMENSION": "7",
            "RAGCORE_MODELS": "a, b",
            "RAGCORE_TOP_K": "8",
            "RAGCORE_SCORE_THRESHOLD": "0.4",
            "RAGCORE_MODE": "text",
            "RAGCORE_FUSION": "rank",
            "RAGCORE_SHARED": "plans-2026, terms",
            "RAGCORE_DIVERSITY": "0.3",
            "RAGCORE_NEIGHBOURS": "2",
            "RAGCORE_RERANKER": "cohere",
            "RAGCORE_RERANK_MODEL": "rerank-v3.5",
            "RAGCORE_RERANK_BASE_URL": "http://localhost:2/v2",
            "RAGCORE_RERANK_API_KEY": "canary-of-the-reranker",
            "RAGCORE_RERANK_CANDIDATES": "30",
            "RAGCORE_CHUNK_TOKENS": "120",
            "RAGCORE_OVERLAP_TOKENS": "10",
            "RAGCORE_EMBED_TEXT": "title+text",
            "RAGCORE_READ_TIMEOUT": "7.5",
            "RAGCORE_TIMEOUT": "12.5",
            "RAGCORE_DEGRADE": "no",
            "RAGCORE_NOT_FOUND": "no idea",
        }
    )
    assert (config.models, config.top_k, config.score_threshold, config.mode) == (("a", "b"), 8, 0.4, "text")
    assert (config.fusion, config.shared, config.diversity, config.neighbours) == (
        "rank",
        ("plans-2026", "terms"),
        0.3,
        2,
    )
    assert (config.reranker, config.rerank_model, config.rerank_candidates) == ("cohere", "rerank-v3.5", 30)
    assert (config.rerank_base_url, config.rerank_api_key) == (
        "http://localhost:2/v2",
        Secret("canary-of-the-reranker"),
    )
    assert "canary" not in repr(config)
    assert (config.chunk_tokens, config.overlap_tokens) == (120, 10)
    assert (config.embed_text, config.read_timeout) == ("title+text", 7.5)
    assert config.settings == Settings(timeout=12.5, degrade=False, not_found="no idea")
    assert (config.embedding_model, config.embedding_dimension, config.base_url) == ("e", 7, "http://localhost:1/v1")


def test_libpq_variables_make_a_dsn() -> None:
    env = {
        "PGHOST": "db",
        "PGPORT": "5433",
        "PGUSER": "app",
        "PGPASSWORD": "p@ss/word",
        "PGDATABASE": "x",
        "PGSSLMODE": "require",
        "OPENAI_API_KEY": "k",
    }
    dsn = Config.from_env(env).dsn
    assert dsn is not None
    assert dsn.reveal() == "postgresql://app:p%40ss%2Fword@db:5433/x?sslmode=require"
    socket = Config.from_env({"PGHOST": "/var/run", "PGUSER": "app", "OPENAI_API_KEY": "k"}).dsn
    assert socket is not None
    assert socket.reveal() == "postgresql://app@/app?host=%2Fvar%2Frun"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set"),
        ({"OPENAI_API_KEY": ""}, "OPENAI_API_KEY is not set"),
        ({"RAGCORE_TOPK": "5"}, "did you mean RAGCORE_TOP_K"),
        ({"RAGCORE_TOP_K": "many"}, "RAGCORE_TOP_K is 'many'"),
        ({"RAGCORE_TOP_K": "0"}, "top_k is 0"),
        ({"RAGCORE_FUSION": "sum"}, "fusion is 'sum'"),
        ({"RAGCORE_DIVERSITY": "2"}, "diversity is 2"),
        ({"RAGCORE_NEIGHBOURS": "11"}, "neighbours is 11"),
        ({"RAGCORE_SHARED": ",".join(f"t{n}" for n in range(17))}, "shared has 17 tenants"),
        ({"RAGCORE_CHUNK_TOKENS": "7"}, "chunk_tokens is 7: it must be a whole number, at least 8"),
        ({"RAGCORE_OVERLAP_TOKENS": "200"}, "less than chunk_tokens (200)"),
        ({"RAGCORE_EMBED_TEXT": "titles"}, "embed_text is 'titles': it must be one of text, title+text, headings+text"),
        ({"RAGCORE_READ_TIMEOUT": "0"}, "read_timeout is 0.0"),
        ({"RAGCORE_READ_TIMEOUT": "nan"}, "read_timeout is nan"),
        ({"RAGCORE_SCORE_THRESHOLD": "7"}, "score_threshold is 7"),
        ({"RAGCORE_MODE": "fuzzy"}, "mode is 'fuzzy'"),
        ({"RAGCORE_RERANKER": "http"}, "reranker is 'http': it must be one of cohere, jina, voyage, vllm, tei, local"),
        ({"RAGCORE_RERANKER": "cohere"}, "rerank_model is not set: set it to the model's name"),
        ({"RAGCORE_RERANKER": "local"}, "rerank_model is not set: set it to the folder"),
        ({"RAGCORE_RERANK_MODEL": "m"}, "reranker is not set"),
        ({"RAGCORE_RERANKER": "tei", "RAGCORE_RERANK_CANDIDATES": "1"}, "rerank_candidates is 1"),
        ({"RAGCORE_TIMEOUT": "-1"}, "timeout is -1"),
        ({"RAGCORE_DEGRADE": "maybe"}, "true or false"),
    ],
)
def test_an_error_names_the_variable_and_shows_no_secret(change: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Config.from_env({**FULL, **change})
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)


def test_it_never_falls_back_to_local_components() -> None:
    with pytest.raises(ConfigurationError):
        Config.from_env({})


def test_a_local_configuration_needs_no_key(tmp_path: object) -> None:
    config = Config.local(str(tmp_path))
    assert config.embeds_locally
    assert config.models == ("extractive",)


def test_given_components_replace_those_of_the_configuration() -> None:
    embedder, store, generator = FakeEmbedder(), FakeStore(), FakeGenerator()
    rag = RAG.from_config(Config(top_k=3), embedder=embedder, store=store, generator=generator)
    assert (rag.retriever.embedder, rag.retriever.store, rag.retriever.top_k) == (embedder, store, 3)


def test_invalid_settings_are_an_error() -> None:
    for bad in ({"timeout": 0}, {"drain": -1}, {"prompt_tokens": 0}, {"recent": -1}, {"health_timeout": float("inf")}):
        with pytest.raises(ConfigurationError):
            Settings(**bad)
    with pytest.raises(ConfigurationError):
        Config(models=())


KUBERNETES = {
    "RAGCORE_SERVICE_HOST": "10.0.0.1",
    "RAGCORE_SERVICE_PORT": "8000",
    "RAGCORE_SERVICE_PORT_HTTP": "8000",
    "RAGCORE_PORT": "tcp://10.0.0.1:8000",
    "RAGCORE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "RAGCORE_PORT_8000_TCP_PROTO": "tcp",
    "RAGCORE_PORT_8000_TCP_PORT": "8000",
    "RAGCORE_PORT_8000_TCP_ADDR": "10.0.0.1",
    "RAGCORE_API_SERVICE_HOST": "10.0.0.2",
}


def test_variables_of_kubernetes_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    assert Config.from_env({**FULL, **KUBERNETES}) == Config.from_env(FULL)
    assert not caplog.messages


@pytest.mark.parametrize("name", ["RAGCORE_IMAGE", "RAGCORE_LOG_LEVEL", "RAGCORE_VERSION", "RAGCORE_HOST"])
def test_an_unknown_name_that_resembles_no_setting_is_ignored_with_a_warning(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert Config.from_env({**FULL, name: "x"}) == Config.from_env(FULL)
    assert f"{name} is ignored: it is not a setting of ragcore" in caplog.text


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RAGCORE_TOPK", "RAGCORE_TOP_K"),
        ("RAGCORE_SCORE_TRESHOLD", "RAGCORE_SCORE_THRESHOLD"),
        ("RAGCORE_MODEL", "RAGCORE_MODELS"),
        ("RAGCORE_TIMOUT", "RAGCORE_TIMEOUT"),
        ("RAGCORE_POOLSIZE", "RAGCORE_POOL_SIZE"),
        ("RAGCORE_EMBEDING_MODEL", "RAGCORE_EMBEDDING_MODEL"),
    ],
)
def test_a_misspelt_name_is_an_error(name: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=f"did you mean {meant}"):
        Config.from_env({**FULL, name: "x"})


def test_the_mapping_of_an_existing_table_is_read_from_the_environment() -> None:
    from ragcore import Config, ConfigurationError

    base = {"DATABASE_URL": "postgresql://app@db/x", "OPENAI_API_KEY": "none"}
    columns = "id=chunk_id, tenant=parent.user_id, document=document_id, metadata=data"
    given = {"RAGCORE_TABLE": "app.chunks", "RAGCORE_TABLE_COLUMNS": columns, "RAGCORE_TABLE_PARENT": "documents"}
    table = Config.from_env({**base, **given, "RAGCORE_TABLE_CLAIM": "sub", "RAGCORE_TABLE_ROLE": "reader"}).table
    assert table is not None
    assert (table.relation, table.parent_relation, table.id, table.tenant) == (
        "app.chunks",
        "app.documents",
        "chunk_id",
        "parent.user_id",
    )
    assert (table.isolation, table.keys) == ("rls", ("document_id", "document_id"))
    assert table.settings["request.jwt.claims"]("t") == '{"sub": "t", "role": "reader"}'
    assert Config.from_env(base).table is None
    for changed, message in (
        ({"RAGCORE_TABLE": ""}, "RAGCORE_TABLE_COLUMNS is set, but RAGCORE_TABLE is not"),
        ({"RAGCORE_TABLE_COLUMNS": "id=chunk_id"}, "names no tenant"),
        ({"RAGCORE_TABLE_COLUMNS": "owner=x"}, "the names are id, text"),
        ({"RAGCORE_TABLE_ISOLATION": "none"}, "'rls' or 'where'"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            Config.from_env({**base, **given, **changed})
