"""Careful hand-written code. It uses AsyncOpenAI and asyncpg, one client and one pool, and one timeout around each question."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import numpy as np
from openai import AsyncOpenAI, DefaultAioHttpClient
from pgvector.asyncpg import register_vector

from benchmarks.peers.peer import TOP_K, Job, Row, messages

SEARCH = "select text from ragcore.chunk where tenant = $1 order by embedding <=> $2 limit $3"
POOL = 10


def client(job: Job, base_url: str) -> AsyncOpenAI:
    """Return the SDK's client with the job's transport and default settings."""
    http = DefaultAioHttpClient() if job.transport == "aiohttp" else None
    return AsyncOpenAI(base_url=base_url, api_key="none", http_client=http)


class HandWritten:
    """The job as a careful team writes it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._embedding = client(job, job.embedding)
        self._model = client(job, job.model)
        self._pool: Any = None

    async def start(self, rows: Sequence[Row]) -> None:
        """Open the connection pool. The table already exists."""
        self._pool = await asyncpg.create_pool(self._job.database, min_size=1, max_size=POOL, init=register_vector)

    async def ask(self, question: str, deadline: float) -> str:
        """Answer a question with three awaits and one timeout around them."""
        async with asyncio.timeout(deadline):
            made = await self._embedding.embeddings.create(model="fake", input=[question])
            vector = np.array(made.data[0].embedding, dtype=np.float32)
            async with self._pool.acquire() as connection:
                found = await connection.fetch(SEARCH, self._job.tenant, vector, TOP_K)
            stream = await self._model.chat.completions.create(
                model="fake", messages=messages(question, [row["text"] for row in found]), stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    async def close(self) -> None:
        """Close clients and pool."""
        await self._embedding.close()
        await self._model.close()
        await asyncio.wait_for(self._pool.close(), 5)


peer = HandWritten
