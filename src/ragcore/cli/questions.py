"""`ragcore ask`, `search` and `similarity`: questions over a tenant's documents."""

from __future__ import annotations

import sys
from typing import Annotated, Any, cast

import typer

from ragcore.cli.arguments import Json, Question, SearchMode, Tenant, Threshold, Timeout, TopK
from ragcore.cli.rendering import show_answer, show_retrieval
from ragcore.cli.session import DONE, PARTLY, Options, open_client, print_json, results, run_async
from ragcore.client.rag import RAG
from ragcore.types import Answer, Delta, Done, Mode

__all__ = ["ask", "search", "similarity"]


def ask(
    context: typer.Context,
    question: Question,
    tenant: Tenant,
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
    """Answer a question from a tenant's documents, with citations."""
    options: Options = context.obj
    arguments: dict[str, Any] = {
        "tenant": tenant,
        "timeout": timeout,
        "top_k": top_k,
        "score_threshold": score_threshold,
        "mode": cast("Mode | None", mode),
    }

    async def body() -> int:
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
