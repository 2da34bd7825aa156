"""Compares which text to embed for a chunk: its text alone, with the title, or with title and headings. Measures nDCG@10 on squad and three made sets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import anyio
import numpy as np
from tests.support.plans import Asked, handbook, notices, plans
from tests.support.squad import SQUAD, read_documents, read_lines

from ragcore import Document, Ingestor, LocalEmbedder, MemoryStore
from ragcore.loadtest.figures import Figures, say
from ragcore.protocols import Query
from ragcore.store.embed_text import EMBED_TEXTS
from ragcore.types import EmbedText

TENANT = "all"
DEPTH = 10
AT_ONCE = 128


def run(*, quick: bool) -> Figures:
    """Measure all of squad with every fifth question, and the generated sets. With --quick: a quarter of squad's passages."""
    return anyio.run(_run, quick)


async def _run(quick: bool) -> Figures:
    figures = Figures()
    sets = {"squad": _squad(quick), "plans": plans(), "handbook": handbook(), "notices": notices()}
    totals = dict.fromkeys(EMBED_TEXTS, 0.0)
    async with LocalEmbedder() as embedder:
        for name, (documents, asked) in sets.items():
            for embed_text in EMBED_TEXTS:
                say(f"{name}: {len(documents):,} documents, {len(asked):,} questions, {embed_text} …")
                found = await _ndcg(embedder, documents, asked, embed_text)
                figures.values[f"{name}.{embed_text}"] = found
                totals[embed_text] += found / len(sets)
    for embed_text, mean in totals.items():
        figures.values[f"mean.{embed_text}"] = mean
    return figures


def _squad(quick: bool) -> tuple[list[Document], list[Asked]]:
    documents = read_documents(500 if quick else None)
    texts = {document.id: document.text for document in documents}
    labels = dict(line.split("\t")[:2] for line in (SQUAD / "qrels.tsv").read_text().splitlines())
    rows = [row for row in read_lines("queries.jsonl.gz") if labels[row["id"]] in texts][::5]
    return documents, [Asked(row["text"], labels[row["id"]], "") for row in rows]


async def _ndcg(
    embedder: LocalEmbedder, documents: Sequence[Document], asked: Sequence[Asked], embed_text: EmbedText
) -> float:
    gains = []
    async with MemoryStore() as store:
        await Ingestor(embedder=embedder, store=store, embed_text=embed_text).add(documents, tenant=TENANT)
        for start in range(0, len(asked), AT_ONCE):
            some = asked[start : start + AT_ONCE]
            vectors = np.asarray(await embedder.embed([one.question for one in some], kind="query"))
            for one, vector in zip(some, vectors, strict=True):
                query = Query(question=one.question, tenant=TENANT, mode="vector", top_k=DEPTH, vector=vector)
                passages = await store.search(query)
                ranks = [
                    rank
                    for rank, passage in enumerate(passages)
                    if passage.document_id == one.document and one.contains in passage.text
                ]
                gains.append(1 / math.log2(ranks[0] + 2) if ranks else 0.0)
    return float(np.mean(gains))
