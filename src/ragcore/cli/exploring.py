"""`ragcore thresholds` and `ragcore evaluate`: measure retrieval with labelled questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from ragcore import explore
from ragcore.cli.arguments import Json, Tenant, TopK
from ragcore.cli.rendering import rows_table
from ragcore.cli.session import DONE, Options, messages, open_client, print_json, results, run_async
from ragcore.errors import InvalidInput

__all__ = ["evaluate", "thresholds"]

Labels = Annotated[
    Path,
    typer.Argument(help="Questions with their relevant documents: .jsonl, .csv, or TREC qrels.", show_default=False),
]
QuestionTexts = Annotated[
    Path | None, typer.Option("--questions", help="The texts of the questions for TREC qrels: .jsonl with id and text.")
]
Page = Annotated[Path | None, typer.Option("--html", help="Write an HTML page with plots to this file.")]
# How many thresholds are shown below and above the recommended one.
SHOWN_AROUND = 5


def thresholds(
    context: typer.Context,
    labels: Labels,
    tenant: Tenant,
    questions: QuestionTexts = None,
    aim: Annotated[str, typer.Option(help="Recommend the threshold that is best for f1, recall or found.")] = "f1",
    top_k: TopK = None,
    html: Page = None,
    as_json: Json = False,
) -> None:
    """Recommend a score threshold. Compares thresholds over labelled questions."""
    options: Options = context.obj

    async def body() -> int:
        labelled = explore.load(labels, tenant=tenant, questions=questions)
        async with open_client(options, top_k=top_k) as rag:
            found = await explore.thresholds(rag.retriever, labelled, aim=cast("explore.Aim", aim))
        _write_page(found, html)
        rows = found.to_dicts()
        if as_json:
            print_json(
                {
                    "summary": repr(found),
                    "recommended": next(row for row in rows if row["recommended"]),
                    "recommended_relative": next(row for row in found.relative_to_dicts() if row["recommended"]),
                    "interval": found.interval,
                    "ties": found.ties,
                    "aims": found.aims_to_dicts(),
                    "tags": found.tags_to_dicts(),
                    "notes": found.notes,
                    "rows": rows,
                }
            )
            return DONE
        results.print(repr(found), markup=False)
        best = next(place for place, row in enumerate(rows) if row["recommended"])
        results.print(rows_table(rows[max(0, best - SHOWN_AROUND) : best + SHOWN_AROUND + 1]))
        for note in found.notes:
            results.print(note, markup=False)
        # Without the number of passages, the table fits a terminal of 80 columns.
        aims = [{name: value for name, value in row.items() if name != "passages"} for row in found.aims_to_dicts()]
        results.print(rows_table(aims))
        if found.tags:
            results.print(rows_table(found.tags_to_dicts()))
        return DONE

    run_async(options, body)


def evaluate(
    context: typer.Context,
    labels: Labels,
    tenant: Tenant,
    questions: QuestionTexts = None,
    k: Annotated[int, typer.Option("-k", help="Measure the first K documents that each question finds.", min=1)] = 10,
    html: Page = None,
    as_json: Json = False,
) -> None:
    """Measure retrieval with labelled questions. Shows recall, precision, MRR and nDCG at k, and how often nothing is found."""
    options: Options = context.obj

    async def body() -> int:
        labelled = explore.load(labels, tenant=tenant, questions=questions)
        async with open_client(options) as rag:
            found = await explore.evaluate(rag.retriever, labelled, k=k)
        _write_page(found, html)
        if as_json:
            print_json({"summary": repr(found), "measures": found.measures_to_dicts(), "rows": found.to_dicts()})
            return DONE
        results.print(repr(found), markup=False)
        for row in found.measures_to_dicts():
            results.print(f"{row['measure']}: {row['mean']:.3f} (95 % {row['low']:.3f} to {row['high']:.3f})")
        return DONE

    run_async(options, body)


def _write_page(result: explore.Sweep | explore.Evaluation, html: Path | None) -> None:
    if html is None:
        return
    try:
        html.write_text(result.to_html(), encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot write {html}: {error}") from None
    messages.print(f"written: {html}", markup=False)
