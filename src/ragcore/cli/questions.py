"""`ragcore ask`, `search` and `similarity`: questions over a tenant's documents."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ragcore.cli.arguments import Json, OptionalQuestion, Question, SearchMode, Tenant, Threshold, Timeout, TopK
from ragcore.cli.rendering import show_answer, show_retrieval
from ragcore.cli.session import DONE, PARTLY, Options, open_client, print_json, results, run_async
from ragcore.client.rag import RAG
from ragcore.errors import InvalidInput
from ragcore.types import Answer, Delta, Done, Mode

__all__ = ["ask", "search", "similarity"]


def ask(
    context: typer.Context,
    tenant: Tenant,
    question: OptionalQuestion = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Answer each line of this file, instead of one question. - is stdin.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", help="Largest number of questions of --file at once.")
    ] = 4,
    timeout: Timeout = None,
    top_k: TopK = None,
    score_threshold: Threshold = None,
    mode: SearchMode = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show the answer while it is written.")] = False,
    show_passages: Annotated[
        bool, typer.Option("--show-passages", help="Show all passages that the search found, not only the citations.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Answer a question from a tenant's documents, with citations. With --file, answer many questions."""
    if (question is None) == (file is None):
        raise typer.BadParameter("pass a question, or --file with a question in each line")
    if file is not None and stream:
        raise typer.BadParameter("--stream shows one answer: leave it out, or pass one question")
    options: Options = context.obj
    arguments: dict[str, Any] = {
        "tenant": tenant,
        "timeout": timeout,
        "top_k": top_k,
        "score_threshold": score_threshold,
        "mode": cast("Mode | None", mode),
    }

    async def body() -> int:
        if question is None:
            async with open_client(options) as rag:
                return await _ask_many(rag, cast("Path", file), concurrency, arguments, as_json=as_json)
        async with open_client(options) as rag:
            if stream and not as_json:
                answer = await _ask_streaming(rag, question, arguments)
            else:
                answer = await rag.ask(question, **arguments)
                if not as_json:
                    results.print(answer.text, markup=False)
        if as_json:
            print_json(answer.to_dict())
        else:
            show_answer(answer, show_passages=show_passages, where=options.where())
        return DONE if answer.found else PARTLY

    run_async(options, body)


def search(
    context: typer.Context,
    question: Question,
    tenant: Tenant,
    timeout: Timeout = None,
    top_k: TopK = None,
    score_threshold: Threshold = None,
    mode: SearchMode = None,
    as_json: Json = False,
) -> None:
    """Show the passages that a question finds."""
    options: Options = context.obj

    async def body() -> int:
        async with open_client(options) as rag:
            retrieval = await rag.retrieve(
                question,
                tenant=tenant,
                timeout=timeout,
                top_k=top_k,
                score_threshold=score_threshold,
                mode=cast("Mode | None", mode),
            )
        if as_json:
            print_json(retrieval.to_dict())
        else:
            show_retrieval(retrieval)
        return DONE if retrieval.passages else PARTLY

    run_async(options, body)


def similarity(
    context: typer.Context,
    question: Question,
    tenant: Tenant,
    timeout: Timeout = None,
    score_threshold: Threshold = None,
    as_json: Json = False,
) -> None:
    """Show how near a tenant's chunks are to a question. Also shows the effect of a threshold."""
    options: Options = context.obj

    async def body() -> int:
        async with open_client(options) as rag:
            report = await rag.similarity(question, tenant=tenant, timeout=timeout, score_threshold=score_threshold)
        if as_json:
            print_json(report.to_dict())
            return DONE
        results.print(str(report), markup=False)
        return DONE if report.histogram else PARTLY

    run_async(options, body)


async def _ask_many(rag: RAG, file: Path, concurrency: int, arguments: dict[str, Any], *, as_json: bool) -> int:
    """Answer each question of a file, and show each answer when it arrives, as one line of JSON or as text."""
    complete = True
    async with rag.ask_many(_questions(file), concurrency=concurrency, **arguments) as answers:
        async for asked in answers:
            complete &= asked.answer is not None and asked.answer.found
            if as_json:
                sys.stdout.write(json.dumps(asked.to_dict(), ensure_ascii=False, default=str) + "\n")
                sys.stdout.flush()
            else:
                shown = f"no answer: {asked.error}" if asked.answer is None else asked.answer.text
                results.print(f"{asked.index + 1}. {asked.question}\n{shown}\n", markup=False)
    return DONE if complete else PARTLY


def _questions(file: Path) -> Iterator[str]:
    """Yield the lines of a file that are not blank.

    Raises:
        InvalidInput: the file can't be read.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the questions in {file} can't be read: {error}") from None
    yield from (line.strip() for line in text.splitlines() if line.strip())


async def _ask_streaming(rag: RAG, question: str, arguments: dict[str, Any]) -> Answer:
    answer: Answer | None = None
    async with rag.stream(question, **arguments) as stream:
        async for event in stream:
            match event:
                case Delta(text):
                    sys.stdout.write(text)
                    sys.stdout.flush()
                case Done(answer):
                    sys.stdout.write("\n")
    assert answer is not None
    return answer
