"""ragcore with all features and all defaults."""

from __future__ import annotations

from collections.abc import Sequence

from openai import AsyncOpenAI, DefaultAioHttpClient

from benchmarks.peers.peer import TOP_K, Job, Row
from ragcore import RAG, Done, OpenAIEmbedder, OpenAIGenerator, PgVectorStore
from ragcore.retrieval.retriever import Retriever


class Ragcore:
    """The job as ragcore's manual shows it."""

    def __init__(self, job: Job) -> None:
        # ragcore uses httpx by default. To use aiohttp, pass your own client.
        self._clients = [
            AsyncOpenAI(base_url=url, api_key="none", http_client=DefaultAioHttpClient())
            for url in (job.embedding, job.model)
            if job.transport == "aiohttp"
        ]
        embedding, model = self._clients or (None, None)
        embedder = OpenAIEmbedder(
            "fake", dimension=job.dimension, base_url=job.embedding, api_key="none", client=embedding
        )
        self._rag = RAG(
            retriever=Retriever(store=PgVectorStore(job.plain_database), embedder=embedder),
            generator=OpenAIGenerator("fake", base_url=job.model, api_key="none", client=model),
        )
        self._tenant = job.tenant

    async def start(self, rows: Sequence[Row]) -> None:
        """Start the client. The table already exists."""
        await self._rag.start()

    async def ask(self, question: str, deadline: float) -> str:
        """Stream the answer, as the other adapters do."""
        async with self._rag.stream(question, tenant=self._tenant, top_k=TOP_K, timeout=deadline) as events:
            async for event in events:
                if isinstance(event, Done):
                    return event.answer.text
        raise RuntimeError("the stream ended without an answer")

    async def close(self) -> None:
        """Close the client."""
        await self._rag.aclose()
        for client in self._clients:
            await client.close()


peer = Ragcore
