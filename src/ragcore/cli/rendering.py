"""Output of the commands: results on stdout, messages and progress on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ragcore.cli.session import messages, print_json, results
from ragcore.config import EXTRACTIVE
from ragcore.types import Answer, Degradation, IngestReport, Passage, Retrieval

if TYPE_CHECKING:  # the doctor's module imports all stores
    from ragcore.cli.doctor import Check

__all__ = [
    "ingest_progress",
    "progress_lines",
    "rows_table",
    "show_answer",
    "show_checks",
    "show_ingest",
    "show_retrieval",
]

# Documents between two lines of progress, if stderr is not a terminal.
DOCUMENTS_PER_LINE = 100
# Largest number of ids of documents that are gone, on a terminal.
MOST_GONE = 20
# A short sign: the table has little room in a terminal of 80 columns.
MARK, MARK_HEADING = "◀", ""
SIGNS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[red]✗[/]"}


def show_answer(answer: Answer, *, show_passages: bool, where: str) -> None:
    """Show an answer's warnings, then its citations or all passages. The answer's text is not shown."""
    _warn_of_degradations(answer.degraded)
    if not answer.complete:
        messages.print(
            f"the answer is incomplete: it ended with {answer.finish_reason!r}", style="yellow", markup=False
        )
    if answer.retrieval.empty is not None:
        messages.print(answer.retrieval.empty.message, style="yellow", markup=False)
        if answer.retrieval.empty.code == "no_chunks":
            messages.print(f"this is {where}", style="yellow", markup=False)
    if not answer.found and answer.retrieval.passages:
        count = len(answer.retrieval.passages)
        found = "1 passage was found, " if count == 1 else f"{count} passages were found, "
        why = (
            "but no sentence is near enough to the question to be quoted; a model could still find the answer in the passages"
            if answer.model == EXTRACTIVE
            else "but none answers the question"
        )
        messages.print(f"{found}{why}; to see them, use --show-passages", style="yellow")
    if show_passages:
        _show_passages(answer.retrieval.passages)
        return
    shown: dict[int, str] = {}
    for citation in answer.citations:
        shown.setdefault(citation.number, _where(citation.passage))
    for number, where in shown.items():
        results.print(f"[{number}] {where}", markup=False)


def show_retrieval(retrieval: Retrieval) -> None:
    """Show the passages that a question found, and warnings."""
    _warn_of_degradations(retrieval.degraded)
    if retrieval.empty is not None:
        messages.print(retrieval.empty.message, style="yellow", markup=False)
    _show_passages(retrieval.passages)


def show_ingest(report: IngestReport, *, as_json: bool, sync: bool = False, dry_run: bool = False) -> None:
    """Show how many documents were added, updated, unchanged, failed and deleted. Warnings and failures go to stderr."""
    for doubt in report.warnings:
        messages.print(f"{doubt.id}: {doubt.message}", style="yellow", markup=False)
    for failed in report.failed:
        messages.print(f"{failed.id}: {failed.reason}", style="red", markup=False)
    if as_json:
        print_json(report.to_dict())
        return
    for gone in report.gone[:MOST_GONE]:
        results.print(f"gone: {gone}", markup=False)
    if len(report.gone) > MOST_GONE:
        results.print(f"gone: {len(report.gone) - MOST_GONE:,} further documents; to list them, use --json")
    if report.kept and not dry_run:
        messages.print(report.kept, style="yellow", markup=False)
    counts = f"{report.unchanged} unchanged, {len(report.failed)} failed"
    if dry_run:
        results.print(f"{report.added} to add, {report.updated} to update, {counts}, {len(report.gone)} gone")
        results.print(report.kept or "this was a dry run, so nothing was changed", markup=False)
        return
    counts += f", {report.deleted} deleted" if sync else ""
    results.print(
        f"{report.added} added, {report.updated} updated, {counts}; {report.chunks} chunks in {report.seconds:.1f} s"
    )


def show_checks(checks: Iterable[Check]) -> None:
    """Show a line for each check of `ragcore doctor`."""
    for check in checks:
        results.print(f"{SIGNS[check.status]} {check.name + ':':<13} {escape(check.message)}")


def rows_table(rows: Sequence[Mapping[str, object]]) -> Table:
    """Return a table of rows that have the same columns; there must be at least one row. A row whose "recommended" is True is marked."""
    table = _table()
    for name in rows[0]:
        # The headings of two words may take two lines, so that the table fits a terminal of 80 columns.
        table.add_column(MARK_HEADING if _marks(rows, name) else name.replace("_", " "), justify="right")
    for row in rows:
        marked = row.get("recommended") is True
        table.add_row(*map(_cell, row.values()), style="bold" if marked else None)
    return table


def _marks(rows: Sequence[Mapping[str, object]], name: str) -> bool:
    return any(isinstance(row[name], bool) for row in rows)


def _cell(value: object) -> str:
    match value:
        case bool():
            return MARK if value else ""
        case float():
            return f"{value:.3f}"
    return escape(str(value))


@contextmanager
def ingest_progress() -> Iterator[Callable[[IngestReport], None]]:
    """Show the progress of `RAG.add` during the block, as a bar on a terminal and as lines elsewhere. Yields the function to pass as `progress`."""
    if not messages.is_terminal:
        tell = progress_lines()

        def print_line(report: IngestReport) -> None:
            tell(_done(report), f"{_done(report)} documents, {report.chunks} chunks, {len(report.failed)} failed")

        yield print_line
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=messages, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def move_bar(report: IngestReport) -> None:
            rate = report.chunks / report.seconds if report.seconds else 0.0
            bar.update(task, description=f"{_done(report)} documents, {report.chunks} chunks, {rate:.0f} chunks/s")

        yield move_bar


def progress_lines(*, every: int = DOCUMENTS_PER_LINE) -> Callable[[int, str], None]:
    """Return a function that takes a count so far, such as of documents or seconds, and a line. It prints the line when the count has grown by `every`."""
    last = 0

    def tell(count: int, line: str) -> None:
        nonlocal last
        if count - last >= every:
            last = count
            messages.print(line, markup=False)

    return tell


def _done(report: IngestReport) -> int:
    return report.added + report.updated + report.unchanged


def _warn_of_degradations(degradations: Iterable[Degradation]) -> None:
    for degradation in degradations:
        messages.print(
            f"degraded in stage {degradation.stage}: {degradation.reason}; used instead: {degradation.fallback}",
            style="yellow",
            markup=False,
        )


def _show_passages(passages: Sequence[Passage]) -> None:
    if not passages:
        return
    table = _table()
    reranked = any(passage.rerank_score is not None for passage in passages)
    for column in ("", *(("relevance",) if reranked else ()), "score", "text score", "where", "passage"):
        table.add_column(column, overflow="fold")
    for number, passage in enumerate(passages, start=1):
        score = "" if passage.score is None else f"{passage.score:.3f}"
        rank = "" if passage.text_score is None else f"{passage.text_score:.4f}"
        relevance = "" if passage.rerank_score is None else f"{passage.rerank_score:.3f}"
        table.add_row(
            f"[{number}]".replace("[", r"\["),
            *((relevance,) if reranked else ()),
            score,
            rank,
            escape(_where(passage)),
            escape(" ".join(passage.text.split())[:300]),
        )
    results.print(table)


def _table() -> Table:
    return Table(box=None, header_style="bold", pad_edge=False)


def _where(passage: Passage) -> str:
    page = f", page {passage.metadata['page']}" if "page" in passage.metadata else ""
    heading = f", {passage.metadata['heading']}" if "heading" in passage.metadata else ""
    shared = "" if passage.shared is None else f" (shared: {passage.shared})"
    # An id that another program made tells a reader nothing.
    name = (
        f"{passage.title} ({passage.document_id})"
        if passage.title and _is_uuid(passage.document_id)
        else passage.document_id
    )
    return f"{name}{page}{heading}{shared}"


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
