"""A store of your own: `SQLiteSearcher` searches a SQLite file by text. Its method `search` is all that a `Retriever` needs.

Tenants: the statement names the tenant. Deadlines: the statement runs on a thread, so it does not block the event loop. If the call is cancelled, for
example at its deadline, `search` returns at once and SQLite stops the statement. A mode or a filter that the store does not support is an error.

Needs no extra. Run it in this folder:

    python own_store.py "How much is the deposit?"

To add and delete documents through the client, implement the protocol `Store`.
"""

import re
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import anyio
import ragcore

COLUMNS = "body, chunk unindexed, document unindexed, tenant unindexed, tokenize = 'porter'"
# bm25 computes the weight of a word from all rows, including those of other tenants. If this is a problem for you, use one file for each tenant.
SEARCH = (
    "select chunk, document, body, bm25(chunks) from chunks where chunks match ? and tenant = ? order by 4, 1 limit ?"
)


class SQLiteSearcher:
    """Searches the table `chunks` of a SQLite file."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def search(self, query: ragcore.Query, /) -> list[ragcore.Passage]:
        """Return the tenant's passages that share a word with the question, best first."""
        if query.mode != "text" or query.filter is not None:
            raise ragcore.Unsupported("SQLiteSearcher supports only mode 'text', without a filter")
        words = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", query.question))
        left = threading.Event()

        def select() -> list[ragcore.Passage]:
            with closing(sqlite3.connect(self._path)) as db:
                db.set_progress_handler(left.is_set, 1_000)  # SQLite stops the statement if this function returns True
                found = db.execute(SEARCH, (words, query.tenant, query.top_k))
                return [ragcore.Passage(*columns, text_score=-rank) for *columns, rank in found]

        try:
            return await anyio.to_thread.run_sync(select, abandon_on_cancel=True) if words else []
        finally:
            left.set()


def fill(path: str, tenant: str) -> None:
    """Write the sample documents into the file, a row for each paragraph."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("drop table if exists chunks")
        db.execute(f"create virtual table chunks using fts5({COLUMNS})")
        for file in sorted(Path("documents").glob("*.md")):
            for number, paragraph in enumerate(file.read_text(encoding="utf-8").split("\n\n")):
                row = (paragraph, f"{file.name}#{number}", file.name, tenant)
                db.execute("insert into chunks values (?, ?, ?, ?)", row)


async def main(question: str) -> None:
    """Answer a question for the tenant that has the documents, and for another tenant."""
    retriever = ragcore.Retriever(store=SQLiteSearcher("chunks.db"), mode="text", top_k=3)
    async with ragcore.RAG(retriever=retriever, generator=ragcore.ExtractiveGenerator()) as rag:
        for tenant in ("shop", "another"):
            answer = await rag.ask(question, tenant=tenant, timeout=10)
            print(f"{tenant}: {answer.text}")


if __name__ == "__main__":
    fill("chunks.db", "shop")
    anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "How much is the deposit?")
