"""LangChain. PGVectorStore reads ragcore's table; OpenAIEmbeddings and ChatOpenAI are joined with it as LangChain's documentation shows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_postgres import PGEngine, PGVectorStore

from benchmarks.peers.peer import SYSTEM, TOP_K, Job, Row, prompt


class LangChain:
    """A chain of retriever, prompt, model and parser."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._chain: Any = None
        self._engine: Any = None

    async def start(self, rows: Sequence[Row]) -> None:
        """Tell the store the columns of the existing table."""
        job = self._job
        self._engine = PGEngine.from_connection_string(
            job.database.replace("postgresql://", "postgresql+asyncpg://"), pool_size=10, max_overflow=0
        )
        embeddings = OpenAIEmbeddings(
            model="fake", base_url=job.embedding, api_key="none", check_embedding_ctx_length=False
        )
        store = await PGVectorStore.create(
            engine=self._engine,
            embedding_service=embeddings,
            table_name="chunk",
            schema_name="ragcore",
            id_column="id",
            content_column="text",
            embedding_column="embedding",
            metadata_columns=["tenant"],
            metadata_json_column="metadata",
            k=TOP_K,
        )
        retriever = store.as_retriever(search_kwargs={"k": TOP_K, "filter": {"tenant": job.tenant}})
        template = ChatPromptTemplate.from_messages([("system", SYSTEM), ("human", "{message}")])
        model = ChatOpenAI(model="fake", base_url=job.model, api_key="none")

        def message(found: dict[str, Any]) -> dict[str, str]:
            return {"message": prompt(found["question"], [one.page_content for one in found["context"]])}

        self._chain = (
            {"context": retriever, "question": RunnablePassthrough()}
            | message_step(message)
            | template
            | model
            | StrOutputParser()
        )

    async def ask(self, question: str, deadline: float) -> str:
        """Run the chain with streaming."""
        async with asyncio.timeout(deadline):
            return "".join([piece async for piece in self._chain.astream(question)])

    async def close(self) -> None:
        """Close the engine."""
        await self._engine.close()


def message_step(function: Any) -> Any:
    """Turn a function into a step of a chain."""
    from langchain_core.runnables import RunnableLambda

    return RunnableLambda(function)


peer = LangChain
