"""Answers the questions of a CSV file, a few at a time, and writes a row for each answer to another CSV file.

If a question fails, its row has the error, and the other questions continue. Each row is written as soon as it is known, so it survives Ctrl-C.

Needs the extras embedded and local.
Run it in this folder with a file that has a column "question", and a name for the file of answers:

    python questions_from_csv.py questions.csv answers.csv

Set DATABASE_URL and OPENAI_API_KEY for your own database and a model.
"""

import csv
import os
import sys
import time
from collections.abc import Iterator
from typing import TextIO

import anyio
import ragcore
from ragcore.ingest import read

TENANT = "shop"
AT_ONCE = 4
COLUMNS = ("question", "answer", "found", "citations", "degraded", "seconds", "error")


async def row_for(rag: ragcore.RAG, question: str) -> dict[str, object]:
    """Return the row for a question: the answer, or the error."""
    began = time.perf_counter()
    row: dict[str, object] = {"question": question}
    try:
        answer = await rag.ask(question, tenant=TENANT, timeout=60)
    except ragcore.RagcoreError as error:
        row["error"] = f"{type(error).__name__}: {error}"
    else:
        row["answer"], row["found"] = answer.text, answer.found
        row["citations"] = " ".join(sorted({citation.passage.document_id for citation in answer.citations}))
        row["degraded"] = " ".join(degradation.stage for degradation in answer.degraded)
    row["seconds"] = f"{time.perf_counter() - began:.3f}"
    return row


async def answer_all(questions: Iterator[str], results: TextIO) -> None:
    """Answer all questions. The workers share the iterator, so each question is answered once."""
    writer = csv.DictWriter(results, COLUMNS)
    writer.writeheader()

    async def work() -> None:
        for question in questions:
            writer.writerow(await row_for(rag, question))
            results.flush()

    config = ragcore.Config.from_env() if "DATABASE_URL" in os.environ else ragcore.Config.local("data")
    async with ragcore.RAG.from_config(config) as rag:
        await rag.add(read("documents"), tenant=TENANT)
        async with anyio.create_task_group() as group:
            for _ in range(AT_ONCE):
                group.start_soon(work)


def main(source: str, target: str) -> None:
    """Read the questions from `source` and write the answers to `target`."""
    with (
        open(source, newline="", encoding="utf-8-sig") as given,
        open(target, "w", newline="", encoding="utf-8") as results,
    ):
        anyio.run(answer_all, (row["question"] for row in csv.DictReader(given)), results)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(f"stopped; the answers so far are in {sys.argv[2]}")
