"""Tables of LangChain and LlamaIndex, made by these libraries themselves. Runs in their environments: `python foreign_tables.py NAME DSN DIMENSION`."""

from __future__ import annotations

import sys
from collections.abc import Callable


def langchain(dsn: str, dimension: int) -> None:
    """Create the table with one text, as its vector store does."""
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_postgres import PGVector

    store = PGVector(
        embeddings=DeterministicFakeEmbedding(size=dimension),
        collection_name="made",
        connection=dsn.replace("postgresql://", "postgresql+psycopg://"),
        use_jsonb=True,
    )
    store.add_texts(["a text"], metadatas=[{"user": "made"}], ids=["made"])


def llama_index(dsn: str, dimension: int) -> None:
    """Create the table with one node, as its vector store does."""
    from llama_index.core.schema import TextNode
    from llama_index.vector_stores.postgres import PGVectorStore

    store = PGVectorStore.from_params(
        connection_string=dsn.replace("postgresql://", "postgresql+psycopg2://"),
        async_connection_string=dsn.replace("postgresql://", "postgresql+asyncpg://"),
        table_name="documents",
        schema_name="public",
        embed_dim=dimension,
        hybrid_search=True,
        text_search_config="english",
        hnsw_kwargs={
            "hnsw_m": 16,
            "hnsw_ef_construction": 64,
            "hnsw_ef_search": 40,
            "hnsw_dist_method": "vector_cosine_ops",
        },
    )
    store.add([TextNode(text="a text", id_="made", embedding=[1.0] * dimension, metadata={"user": "made"})])


MAKERS: dict[str, Callable[[str, int], None]] = {"langchain": langchain, "llama-index": llama_index}

if __name__ == "__main__":
    name, dsn, dimension = sys.argv[1:]
    MAKERS[name](dsn, int(dimension))
