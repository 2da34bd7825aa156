"""Haystack: a pipeline of OpenAITextEmbedder, PgvectorEmbeddingRetriever, ChatPromptBuilder and OpenAIChatGenerator."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from haystack import Document, Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils import Secret
from haystack_integrations.components.retrievers.pgvector import PgvectorEmbeddingRetriever
from haystack_integrations.document_stores.pgvector import PgvectorDocumentStore

from benchmarks.peers.peer import SYSTEM, TOP_K, Job, Row

TEMPLATE = '{% for document in documents %}<passage number="{{ loop.index }}">\n{{ document.content }}\n</passage>\n\n{% endfor %}Question: {{ question }}'


class Haystack:
    """The job as a pipeline of Haystack."""

    def __init__(self, job: Job) -> None:
        key = Secret.from_token("none")
        self._store = PgvectorDocumentStore(
            connection_string=Secret.from_token(job.database), table_name="haystack", embedding_dimension=job.dimension
        )
        pipeline = Pipeline()
        pipeline.add_component("embedder", OpenAITextEmbedder(api_key=key, model="fake", api_base_url=job.embedding))
        filters = {"field": "meta.tenant", "operator": "==", "value": job.tenant}
        pipeline.add_component(
            "retriever", PgvectorEmbeddingRetriever(document_store=self._store, top_k=TOP_K, filters=filters)
        )
        template = [ChatMessage.from_system(SYSTEM), ChatMessage.from_user(TEMPLATE)]
        pipeline.add_component("builder", ChatPromptBuilder(template=template, required_variables="*"))
        pipeline.add_component(
            "model",
            OpenAIChatGenerator(api_key=key, model="fake", api_base_url=job.model, streaming_callback=_streamed),
        )
        pipeline.connect("embedder.embedding", "retriever.query_embedding")
        pipeline.connect("retriever.documents", "builder.documents")
        pipeline.connect("builder.prompt", "model.messages")
        self._pipeline: Any = pipeline

    async def start(self, rows: Sequence[Row]) -> None:
        """Store the same rows in Haystack's own table."""
        documents = [
            Document(
                id=f"{row.tenant}:{row.id}", content=row.text, meta={"tenant": row.tenant}, embedding=list(row.vector)
            )
            for row in rows
        ]
        await self._store.write_documents_async(documents, policy=DuplicatePolicy.OVERWRITE)

    async def ask(self, question: str, deadline: float) -> str:
        """Run the pipeline with streaming. The pieces are not used; only the whole answer is."""
        async with asyncio.timeout(deadline):
            made = await self._pipeline.run_async({"embedder": {"text": question}, "builder": {"question": question}})
            return str(made["model"]["replies"][0].text)

    async def close(self) -> None:
        """Do nothing: Haystack has no close."""


async def _streamed(_: Any) -> None:
    """Ignore a piece."""


peer = Haystack
