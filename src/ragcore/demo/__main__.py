"""Ingests the sample documents, asks each member's questions, checks every answer, then asks many questions at once."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from typing import Any

import anyio
import anyio.to_thread

from ragcore import RAG, Config, RagcoreError, ingest
from ragcore.compat.extras import require
from ragcore.demo.questions import DOCUMENTS, FOLLOW_UPS, MEMBERS, PARAPHRASES, QUESTIONS, UNANSWERABLE, Question
from ragcore.operating.memory import MEBI, read_memory
from ragcore.types import Answer

CONCURRENCY = (1, 2, 3, 5, 10, 50)
TIMEOUT = 30.0
# A call that has not returned this many seconds after its deadline counts as hung.
HUNG = 5.0


def main() -> None:
    """Run the demo. Exit with code 1 if any answer is wrong, late or missing."""
    console = require("rich.console", extra="cli", purpose="the demo").Console(
        width=min(120, shutil.get_terminal_size((120, 24)).columns)
    )
    sys.exit(0 if anyio.run(_demo, console) else 1)


async def _demo(console: Any) -> bool:
    with tempfile.TemporaryDirectory(prefix="ragcore-demo-") as folder:
        console.rule("[bold]ragcore demo")
        console.print(
            "Embedded PostgreSQL with pgvector, all-MiniLM-L6-v2 on this machine, answers quoted from the documents.\n"
        )
        async with RAG.from_config(Config.local(folder)) as rag:
            await _ingest(console, rag)
            right = await _ask_each(console, rag)
            right &= await _ask_follow_ups(console, rag)
            right &= await _ask_unanswerable(console, rag)
            right &= await _ladder(console, rag)
    console.print("\n[bold green]All answers are right." if right else "\n[bold red]Something is wrong: see above.")
    return right


async def _ingest(console: Any, rag: RAG) -> None:
    for member in MEMBERS:
        report = await rag.add(ingest.read(DOCUMENTS / member), tenant=member)
        names = ", ".join(await rag.documents(tenant=member))
        console.print(f"  {member}: {names}: {report.chunks} chunks in {report.seconds:.2f} s")
        for failed in report.failed:
            console.print(f"  [red]{failed.id}: {failed.reason}")
    console.print()


async def _ask_each(console: Any, rag: RAG) -> bool:
    table = _table("", "question", "member", "answer", "passage", "score")
    right = True
    for question in (*QUESTIONS, *PARAPHRASES):
        for member in MEMBERS:
            answer = await rag.ask(question.text, tenant=member, timeout=TIMEOUT)
            good = _is_right(question, member, answer)
            right &= good
            cited = answer.citations[0].passage if answer.citations else None
            page = f", page {cited.metadata['page']}" if cited and "page" in cited.metadata else ""
            source = f"{cited.document_id}{page}" if cited else "none"
            score = f"{cited.score:.2f}" if cited and cited.score is not None else ""
            table.add_row(_mark(good), question.text, member, answer.text, source, score)
    console.print(table)
    return right


async def _ask_follow_ups(console: Any, rag: RAG) -> bool:
    """Ask follow-up questions with the conversation before them, and show what was searched for."""
    table = _table("", "follow-up question", "member", "searched for", "answer")
    right = True
    for first, question in FOLLOW_UPS:
        for member in question.facts:
            before = await rag.ask(first.text, tenant=member, timeout=TIMEOUT)
            answer = await rag.ask(question.text, tenant=member, timeout=TIMEOUT, history=before.turns)
            good = _is_right(question, member, answer)
            right &= good
            table.add_row(_mark(good), question.text, member, answer.retrieval.query, answer.text)
    console.print()
    console.print(table)
    return right


async def _ask_unanswerable(console: Any, rag: RAG) -> bool:
    answer = await rag.ask(UNANSWERABLE.text, tenant=MEMBERS[0], timeout=TIMEOUT)
    console.print(f"\n{_mark(not answer.found)} {UNANSWERABLE.text} → {answer.text}\n")
    return not answer.found


async def _ladder(console: Any, rag: RAG) -> bool:
    table = _table("at once", "right", "failed", "hung", "p50 s", "p95 s", "max s", "memory MB")
    right = True
    for count in CONCURRENCY:
        outcomes, seconds = await _at_once(rag, count)
        good = outcomes.count("right") == count
        right &= good
        table.add_row(
            str(count),
            f"[{'green' if good else 'red'}]{outcomes.count('right')}/{count}",
            str(outcomes.count("failed")),
            str(outcomes.count("hung")),
            f"{statistics.median(seconds):.3f}",
            f"{_percentile(seconds, 0.95):.3f}",
            f"{max(seconds):.3f}",
            f"{(await anyio.to_thread.run_sync(read_memory)).resident / MEBI:.0f}",
        )
    console.print(table)
    return right


async def _at_once(rag: RAG, count: int) -> tuple[list[str], list[float]]:
    outcomes = ["hung"] * count
    seconds = [TIMEOUT + HUNG] * count

    async def one(number: int) -> None:
        question, member = QUESTIONS[number % len(QUESTIONS)], MEMBERS[number % len(MEMBERS)]
        began = anyio.current_time()
        try:
            answer = await rag.ask(question.text, tenant=member, timeout=TIMEOUT)
            outcomes[number] = "right" if _is_right(question, member, answer) else "failed"
        except RagcoreError:
            outcomes[number] = "failed"
        seconds[number] = anyio.current_time() - began

    with anyio.move_on_after(TIMEOUT + HUNG):
        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(one, number)
    return outcomes, seconds


def _is_right(question: Question, member: str, answer: Answer) -> bool:
    """Return whether an answer contains the member's own fact, cites a passage and was not degraded."""
    return answer.found and question.facts[member] in answer.text and bool(answer.citations) and not answer.degraded


def _percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _table(*columns: str) -> Any:
    table = require("rich.table", extra="cli", purpose="the demo").Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


def _mark(good: bool) -> str:
    return "[green]✓[/]" if good else "[red]✗[/]"


if __name__ == "__main__":
    main()
