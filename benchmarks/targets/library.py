"""Uses the library in this process, as a client of servers with realistic latencies, or as the client that the environment configures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tests.support.elsewhere import Elsewhere, elsewhere
from tests.support.servers import DIMENSION, Addresses

from ragcore import (
    RAG,
    CircuitOpen,
    Config,
    DeadlineExceeded,
    Delta,
    Done,
    OpenAIEmbedder,
    OpenAIGenerator,
    Overloaded,
    PgVectorStore,
    RagcoreError,
)
from ragcore.demo.questions import DOCUMENTS, QUESTIONS
from ragcore.ingest import read
from ragcore.loadtest.target import Question, Reply, TargetError
from ragcore.retrieval.retriever import Retriever

__all__ = ["LATENCIES", "MEMBER", "LibraryTarget", "client", "library", "member_questions"]

MEMBER = "amara"
# Seconds for an embedding, for the first token, and for each further token.
LATENCIES = {"embedding": {"embedding_latency": 0.05}, "model": {"first_token_latency": 0.3, "token_latency": 0.02}}


def member_questions() -> list[Question]:
    """Return the demo's questions of one member."""
    return [Question(question.text, (question.facts[MEMBER],)) for question in QUESTIONS]


class LibraryTarget:
    """Asks a client with streaming, as a service would."""

    def __init__(self, rag: RAG, *, tenant: str = MEMBER) -> None:
        self._rag = rag
        self._tenant = tenant
        self.name = "ragcore, in this process"

    async def ask(self, question: str, /, *, timeout: float, token: Callable[[], None]) -> Reply:
        """Stream the answer and return it."""
        try:
            async with self._rag.stream(question, tenant=self._tenant, timeout=timeout) as events:
                async for event in events:
                    match event:
                        case Delta():
                            token()
                        case Done(answer=answer):
                            return Reply(answer.text, degraded=bool(answer.degraded))
        except (Overloaded, CircuitOpen) as error:
            raise TargetError("refused", str(error)) from error
        except DeadlineExceeded as error:
            raise TargetError("timeout", str(error)) from error
        except RagcoreError as error:
            raise TargetError("connection", f"{type(error).__name__}: {error}") from error
        raise TargetError("protocol", "the stream ended without an answer")

    async def health(self) -> Mapping[str, Any] | None:
        """Return the client's own health."""
        return (await self._rag.health()).to_dict()


def client(addresses: Addresses) -> RAG:
    """Return a client of these servers as the manual creates one, with all features and all defaults."""
    return RAG(
        retriever=Retriever(
            store=PgVectorStore(addresses.database),
            embedder=OpenAIEmbedder("fake", dimension=DIMENSION, base_url=addresses.embedding, api_key="none"),
        ),
        generator=OpenAIGenerator("fake", base_url=addresses.model, api_key="none"),
    )


@asynccontextmanager
async def library(*, tenant: str | None = None) -> AsyncIterator[tuple[LibraryTarget, Elsewhere | None]]:
    """Yield a target and the servers' process.

    Args:
        tenant: the tenant to ask, with the client that the environment configures. None: the benchmarks' own servers with the sample documents.
    """
    if tenant is not None:
        async with RAG.from_config(Config.from_env()) as rag:
            yield LibraryTarget(rag, tenant=tenant), None
        return
    async with elsewhere(**LATENCIES) as servers, client(servers.addresses) as rag:
        report = await rag.add(read(DOCUMENTS / MEMBER), tenant=MEMBER)
        assert not report.failed, report.failed
        yield LibraryTarget(rag), servers
