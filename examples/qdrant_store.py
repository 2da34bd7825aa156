"""A searcher for another engine: `QdrantSearcher` searches a collection of Qdrant by vectors. Use it for collections that PostgreSQL can't hold.

Tenants: each search filters by the tenant in the payload. On a server, give this field an index with `is_tenant=True`, and the collection `m=0, payload_m=16`:
then each tenant has a graph of its own. Failures: a `Policy` limits the searches at once, repeats those that failed, and fails fast while Qdrant is down.

Needs the extra `local` and qdrant-client, which runs Qdrant within this process. Run it in this folder:

    python qdrant_store.py "How much is the deposit?"
"""

import sys
import uuid
from pathlib import Path

import anyio
import numpy as np
import ragcore
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

COLLECTION = "chunks"
TEXTS = {file.name: file.read_text(encoding="utf-8") for file in sorted(Path("documents").glob("*.md"))}


class QdrantSearcher:
    """Searches a collection whose points have the payload tenant, model, chunk, document and text."""

    def __init__(self, client: AsyncQdrantClient) -> None:
        self._client = client
        self.policy = ragcore.resilience.Policy("qdrant", on=ragcore.StoreError, attempt_timeout=5)

    async def search(self, query: ragcore.Query, /) -> list[ragcore.Passage]:
        """Return the tenant's nearest passages, best first."""
        if query.mode != "vector" or query.vector is None or query.filter is not None or query.shared:
            raise ragcore.Unsupported("QdrantSearcher supports only mode 'vector', without a filter or shared tenants")
        vector, limit, threshold = query.vector.tolist(), query.top_k, query.score_threshold
        wanted = {"tenant": query.tenant} | ({"model": query.model} if query.model else {})
        only = models.Filter(
            must=[models.FieldCondition(key=key, match=models.MatchValue(value=value)) for key, value in wanted.items()]
        )

        async def attempt() -> models.QueryResponse:
            try:
                return await self._client.query_points(
                    COLLECTION, query=vector, query_filter=only, limit=limit, score_threshold=threshold
                )
            except (ResponseHandlingException, UnexpectedResponse) as error:
                raise ragcore.StoreError(f"Qdrant failed: {type(error).__name__}", dependency="qdrant") from error

        found = await self.policy.call(attempt)
        payloads = [(point.payload or {}, point.score) for point in found.points]
        return [ragcore.Passage(of["chunk"], of["document"], of["text"], score=score) for of, score in payloads]


async def fill(client: AsyncQdrantClient, embedder: ragcore.Embedder, tenant: str) -> None:
    """Make the collection and add the sample documents, a point for each paragraph."""
    size = models.VectorParams(size=embedder.dimension, distance=models.Distance.COSINE)
    await client.create_collection(COLLECTION, vectors_config=size)
    for document, text in TEXTS.items():
        for number, part in enumerate(text.split("\n\n")):
            chunk, vector = f"{document}#{number}", np.asarray(await embedder.embed([part], kind="document"))[0]
            payload = {"tenant": tenant, "model": embedder.model, "chunk": chunk, "document": document, "text": part}
            name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{tenant}/{chunk}"))  # the same chunk replaces its own point
            await client.upsert(COLLECTION, [models.PointStruct(id=name, vector=vector.tolist(), payload=payload)])


async def main(question: str) -> None:
    """Answer a question for the tenant that has the documents, and for another tenant."""
    client, embedder = AsyncQdrantClient(location=":memory:"), ragcore.LocalEmbedder()
    retriever = ragcore.Retriever(store=QdrantSearcher(client), embedder=embedder, mode="vector", score_threshold=0.3)
    async with ragcore.RAG(retriever=retriever, generator=ragcore.ExtractiveGenerator()) as rag:
        await fill(client, embedder, "shop")
        for tenant in ("shop", "another"):
            print(f"{tenant}: {(await rag.ask(question, tenant=tenant, timeout=10)).text}")
    await client.close()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "How much is the deposit?")
