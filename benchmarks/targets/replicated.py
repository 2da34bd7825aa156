"""Serves ragcore with a primary and standbys, in a process that shares its limits and its vectors of questions with other processes."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping
from typing import Any

import anyio
from tests.support.servers import DIMENSION

from benchmarks.targets.served import serve
from ragcore import RAG, CachedEmbedder, OpenAIEmbedder, OpenAIGenerator, PgVectorStore, Settings, SharedVectors
from ragcore.contrib.asgi import Identity, app
from ragcore.demo.questions import DOCUMENTS
from ragcore.ingest import read
from ragcore.retrieval.retriever import Retriever
from ragcore.types.secret import Secret

__all__ = ["MEMBER", "POOL_SIZE", "TENANTS"]

# All tenants have the documents of one member. Questions go to them in turn, so that their rows of shared limits are used as in a real service.
MEMBER = "amara"
TENANTS = [f"{MEMBER}{number}" for number in range(20)]
POOL_SIZE = 4
UNLIMITED = 1_000_000


async def _main(options: Mapping[str, Any]) -> None:
    store = PgVectorStore(options["dsn"], read_dsn=options["read_dsn"], pool_size=POOL_SIZE)
    embedder = OpenAIEmbedder("fake", dimension=DIMENSION, base_url=options["embedding"], api_key="none")
    shared = SharedVectors(store, key=Secret("the same in all processes"))
    retriever = Retriever(store=store, embedder=CachedEmbedder(embedder, behind=shared))
    generator = OpenAIGenerator("fake", base_url=options["model"], api_key="none")
    settings = Settings(share_limits=True, requests_per_minute=UNLIMITED, calls_at_once=UNLIMITED)
    turn = itertools.cycle(TENANTS)

    async def authenticate(scope: Mapping[str, Any]) -> Identity | None:
        return Identity(next(turn), admin=True)

    async with RAG(retriever=retriever, generator=generator, settings=settings) as rag:
        if options["add"]:
            for tenant in TENANTS:
                await rag.add(read(DOCUMENTS / MEMBER), tenant=tenant)
        await serve(app(rag, authenticate=authenticate))


if __name__ == "__main__":
    anyio.run(_main, json.loads(sys.argv[1]))
