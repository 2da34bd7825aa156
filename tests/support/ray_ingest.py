"""Ingestion on Ray with made documents: two nodes on this machine, of which a worker and then a whole node are killed.

`python -m tests.support.ray_ingest kill COUNT` prints a JSON object with the report, and what was killed. DATABASE_URL names the database.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import psutil

from ragcore import RAG, Embedder, ExtractiveGenerator, IngestReport, PgVectorStore, Retriever, Vector
from ragcore.embedding import from_sync
from tests.support.made import sentences

__all__ = ["DIMENSION", "Killer", "client", "counted", "made_files", "nodes"]

DIMENSION = 64
LINES_IN_A_FILE = 50
OBJECT_STORE = 100_000_000
# A request takes as long as one to a provider nearby.
SECONDS = 0.05


def made_files(folder: Path, count: int) -> None:
    """Write `count` documents of one chunk each, as lines of files."""
    texts = sentences(0, count, words=60)
    for start in range(0, count, LINES_IN_A_FILE):
        lines = [
            json.dumps({"id": str(number), "text": next(texts)})
            for number in range(start, min(count, start + LINES_IN_A_FILE))
        ]
        (folder / f"{start:07}.jsonl").write_text("\n".join(lines) + "\n")


def encode(texts: list[str]) -> Vector:
    """Return vectors that depend on the texts alone. Takes as long as a request."""
    time.sleep(SECONDS)
    seeds = (int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") for text in texts)
    return np.stack([np.random.default_rng(seed).normal(size=DIMENSION) for seed in seeds]).astype(np.float32)


def embedder() -> Embedder:
    """Make an embedder that takes 50 ms for a request, four at once."""
    return from_sync(encode, model="made", dimension=DIMENSION, max_tokens=500, threads=4)


def client() -> RAG:
    """Make the client of a worker. Its database is the one of the worker's environment."""
    store = PgVectorStore(os.environ["DATABASE_URL"])
    return RAG(retriever=Retriever(store=store, embedder=embedder()), generator=ExtractiveGenerator())


@contextmanager
def nodes() -> Iterator[Any]:
    """Run two nodes of one CPU each on this machine. Yields the cluster, with its `address`; everything listens on 127.0.0.1."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
    # The paths of Ray's sockets must be short.
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        given = os.environ.setdefault("RAY_TMPDIR", folder)
        import ray
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 1, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
        cluster: Any = Cluster(initialize_head=True, head_node_args=options)
        try:
            cluster.second = cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
            if given == folder:
                del os.environ["RAY_TMPDIR"]


class Killer:
    """Kills a worker when a third of the documents are added, and then the second node. Use it as `progress`.

    Args:
        second: the node to kill.
        count: number of all documents.
    """

    def __init__(self, second: Any, count: int) -> None:
        self._second = second
        self._count = count
        self.killed: list[str] = []

    def __call__(self, report: IngestReport) -> None:
        done = report.added + report.unchanged
        if not self.killed and done >= self._count / 3:
            adders = [
                one for one in psutil.process_iter(["cmdline"]) if "(Adder)" in " ".join(one.info["cmdline"] or ())
            ]
            ours = [one for one in adders if one.environ().get("RAY_TMPDIR") == os.environ["RAY_TMPDIR"]]
            ours[0].send_signal(signal.SIGKILL)
            self.killed.append("worker")
        elif len(self.killed) == 1 and done >= self._count / 2:
            for raylet in self._second.all_processes["raylet"]:
                raylet.process.send_signal(signal.SIGKILL)
            self.killed.append("node")


async def counted(dsn: str, tenant: str) -> tuple[int, int]:
    """Return how many documents a tenant has, and how many chunks more than documents. Each document has one chunk, so the second number must be 0."""
    connection = await asyncpg.connect(dsn)
    try:
        documents = await connection.fetchval("select count(*) from ragcore.document where tenant = $1", tenant)
        chunks = await connection.fetchval("select count(*) from ragcore.chunk where tenant = $1", tenant)
        return documents, chunks - documents
    finally:
        await connection.close()


def _kill(count: int, tenant: str, progress: Callable[[IngestReport], None] | None = None) -> dict[str, Any]:
    from ragcore.ingest.ray import ingest

    with tempfile.TemporaryDirectory() as folder, nodes() as cluster:
        made_files(Path(folder), count)
        killer = Killer(cluster.second, count)
        report = ingest(folder, tenant=tenant, client=client, workers=2, address=cluster.address, progress=killer)
    return {"killed": killer.killed, **report.to_dict()}


if __name__ == "__main__":
    print(json.dumps(_kill(int(sys.argv[2]), "killed")))
