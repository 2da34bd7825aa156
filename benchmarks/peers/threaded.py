"""The design of a service that hung in production, written again for this comparison.

Each embedding starts a thread with its own event loop, and the coroutine joins the thread. Each query opens a connection and closes it without a time
limit. The service has its own retries in addition to the retries of the SDK, and turns every error into an empty result.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import asyncpg
import numpy as np
from openai import AsyncOpenAI, OpenAI
from pgvector.asyncpg import register_vector

from benchmarks.peers.hand_written import SEARCH
from benchmarks.peers.peer import TOP_K, Job, Row, messages

ATTEMPTS = 3
JOIN_SECONDS = 30.0


class Threaded:
    """The job as that service did it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._model = OpenAI(base_url=job.model, api_key="none")

    async def start(self, rows: Sequence[Row]) -> None:
        """Do nothing, because the table already exists."""

    async def ask(self, question: str, deadline: float) -> str:
        """Answer a question. This blocks the event loop, so all other questions wait as well."""
        vector = self._in_a_thread(self._embed(question))
        texts = self._in_a_thread(self._search(vector)) if vector is not None else None
        if not texts:
            return "I could not find any documents."
        stream = self._model.chat.completions.create(model="fake", messages=messages(question, texts), stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    def _in_a_thread(self, work: Coroutine[Any, Any, Any]) -> Any:
        found: list[Any] = []

        def run() -> None:
            loop = asyncio.new_event_loop()
            try:
                found.append(loop.run_until_complete(work))
            except Exception:
                found.append(None)
            finally:
                loop.close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(JOIN_SECONDS)
        return found[0] if found else None

    async def _embed(self, question: str) -> Any:
        for attempt in range(ATTEMPTS):
            try:
                client = AsyncOpenAI(base_url=self._job.embedding, api_key="none")
                made = await client.embeddings.create(model="fake", input=[question])
                await client.close()
                return np.array(made.data[0].embedding, dtype=np.float32)
            except Exception:
                time.sleep(2**attempt / 10)  # noqa: ASYNC251  # the original blocked, too
        return None

    async def _search(self, vector: Any) -> list[str]:
        connection = await asyncpg.connect(self._job.database)
        try:
            await register_vector(connection)
            return [row["text"] for row in await connection.fetch(SEARCH, self._job.tenant, vector, TOP_K)]
        finally:
            await connection.close()

    async def close(self) -> None:
        """Close the model's client, the only resource that is kept open."""
        self._model.close()


peer = Threaded
