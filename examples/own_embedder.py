"""An embedder of your own: a blocking function becomes an `Embedder`, which a `Retriever` and a client use.

The function here counts the trigrams of a text, so that the example needs no model. Replace it with a model of your own, for example
`SentenceTransformer(…).encode`. The function runs on its own thread, so it never blocks the event loop.

Needs no extra. Run it in this folder:

    python own_embedder.py "What does an inspection cost?"

The documents are kept in memory here. For PostgreSQL, create a collection for the model first, with
`await ragcore.store.migrate(owner_dsn, model="trigrams", dimension=512, role="app")`, and pass `store=ragcore.PgVectorStore(dsn)` to the retriever.
"""

import sys
import zlib

import anyio
import numpy as np
import ragcore
from ragcore.embedding import from_sync
from ragcore.ingest import read

DIMENSION = 512


def encode(texts: list[str]) -> ragcore.Vectors:
    """Return a unit vector for each text: its trigrams, counted in `DIMENSION` buckets."""
    vectors = np.zeros((len(texts), DIMENSION), np.float32)
    for vector, text in zip(vectors, texts, strict=True):
        padded = f"  {' '.join(text.lower().split())}  "
        for start in range(len(padded) - 2):
            # crc32 gives the same value in each process; Python's hash() does not.
            vector[zlib.crc32(padded[start : start + 3].encode()) % DIMENSION] += 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


async def main(question: str) -> None:
    """Add the sample documents, search them, and answer a question."""
    embedder = from_sync(encode, model="trigrams", dimension=DIMENSION, max_tokens=2_000)
    retriever = ragcore.Retriever(store=ragcore.MemoryStore(), embedder=embedder, top_k=3)
    # The client starts and closes the retriever, the embedder and the store.
    async with ragcore.RAG(retriever=retriever, generator=ragcore.ExtractiveGenerator()) as rag:
        await rag.add(read("documents"), tenant="shop")
        retrieval = await retriever.retrieve(question, tenant="shop")
        for passage in retrieval.passages:
            print(f"{passage.score:.2f}  {passage.document_id}  {passage.text.splitlines()[0]}")
        answer = await rag.ask(question, tenant="shop", timeout=10)
        print(answer.text)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "What does an inspection cost?")
