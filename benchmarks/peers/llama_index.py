"""LlamaIndex. It uses PGVectorStore with its own table, and OpenAILike for the embedding and the model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.llms import ChatMessage
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from llama_index.vector_stores.postgres import PGVectorStore

from benchmarks.peers.peer import SYSTEM, TOP_K, Job, Row, prompt


class LlamaIndex:
    """A retriever over an index, and a model."""

    def __init__(self, job: Job) -> None:
        dsn = job.database
        self._store = PGVectorStore.from_params(
            connection_string=dsn.replace("postgresql://", "postgresql+psycopg2://"),
            async_connection_string=dsn.replace("postgresql://", "postgresql+asyncpg://"),
            table_name="llama_index",
            embed_dim=job.dimension,
            use_jsonb=True,
            create_engine_kwargs={"pool_size": 10, "max_overflow": 0},
        )
        self._model = OpenAILike(model="fake", api_base=job.model, api_key="none", is_chat_model=True)
        embedding = OpenAILikeEmbedding(model_name="fake", api_base=job.embedding, api_key="none")
        index = VectorStoreIndex.from_vector_store(self._store, embed_model=embedding)
        filters = MetadataFilters(filters=[MetadataFilter(key="tenant", value=job.tenant)])
        self._retriever: Any = index.as_retriever(similarity_top_k=TOP_K, filters=filters)

    async def start(self, rows: Sequence[Row]) -> None:
        """Store the same rows in LlamaIndex's own table."""
        await self._store.aclear()
        nodes: list[Any] = [
            TextNode(
                id_=f"{row.tenant}:{row.id}", text=row.text, metadata={"tenant": row.tenant}, embedding=list(row.vector)
            )
            for row in rows
        ]
        await self._store.async_add(nodes)

    async def ask(self, question: str, deadline: float) -> str:
        """Run the retriever, then the model with streaming."""
        async with asyncio.timeout(deadline):
            found = await self._retriever.aretrieve(question)
            message = prompt(question, [one.node.get_content() for one in found])
            stream = await self._model.astream_chat(
                [ChatMessage(role="system", content=SYSTEM), ChatMessage(role="user", content=message)]
            )
            return "".join([piece.delta or "" async for piece in stream])

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()


peer = LlamaIndex
