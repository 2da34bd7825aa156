"""Asks labelled questions and judges the answers: by rule, by labels, and optionally by a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Unpack

import anyio

from ragcore.client.options import AskOptions
from ragcore.client.rag import RAG
from ragcore.errors import ConfigurationError, InvalidInput, NotOpen, RagcoreError, WrongEventLoop
from ragcore.explore.fetching import in_turn
from ragcore.explore.grounding import contains, ground, token_f1
from ragcore.explore.judgements import Answers, JudgedAnswer
from ragcore.explore.judging import verdict
from ragcore.explore.labels import Labelled
from ragcore.protocols import Generator
from ragcore.types import Answer, Price

__all__ = ["answers"]

AT_ONCE = 4
MILLION = 1_000_000


async def answers(
    rag: RAG,
    labelled: Iterable[Labelled],
    *,
    judge: Generator | None = None,
    at_once: int = AT_ONCE,
    progress: bool = False,
    **options: Unpack[AskOptions],
) -> Answers:
    """Ask each labelled question, and judge the answer.

    Without a judge, only the answers cost something: figures, names, gold answers and citations are compared by rule. A call that fails is counted, and the
    run continues.

    Args:
        rag: the client.
        labelled: questions. If a label has `relevant`, the citations are judged; if it has `answer`, the text is judged; if it is `unanswerable`, "not found"
            is the right answer. `relevant` may also contain ids of chunks.
        judge: a generator whose model judges each answer. First compare its verdicts with labels: see `Answers.agreement`. Use another model than the one
            that answers.
        at_once: the largest number of calls at the same time.
        progress: show a progress bar. Extra `notebook`.
        options: the options of each call, such as timeout, mode and top_k.

    Raises:
        InvalidInput: there are no labelled questions, or at_once is below 1.
        NotOpen, WrongEventLoop, ConfigurationError: as in `RAG.ask`.
        TypeError: there is no such option.
    """
    labels = list(labelled)
    if not labels:
        raise InvalidInput("no labelled questions to ask: pass at least one")
    if at_once < 1:
        raise InvalidInput(f"at_once is {at_once}: it must be at least 1")

    async def one(label: Labelled) -> JudgedAnswer:
        began = anyio.current_time()
        try:
            answer = await rag.ask(label.question, tenant=label.tenant, **options)
        except (NotOpen, WrongEventLoop, ConfigurationError):
            raise  # each other question would raise the same error
        except RagcoreError as error:
            return _judged(label, Answer(""), anyio.current_time() - began, error=f"{type(error).__name__}: {error}")
        seconds = anyio.current_time() - began
        right, judge_error = await _verdict(judge, answer)
        return _judged(label, answer, seconds, right=right, judge_error=judge_error, prices=rag.settings.prices)

    return Answers(tuple(await in_turn(labels, one, what="asking", progress=progress, at_once=at_once)))


async def _verdict(judge: Generator | None, answer: Answer) -> tuple[bool | None, str]:
    """Return the verdict of the judge, or None and the reason why there is none."""
    if judge is None or not answer.found:
        return None, ""
    try:
        right = await verdict(judge, answer)
    except Exception as error:  # a user's own generator may raise anything; the answer is still judged by rule
        return None, f"{type(error).__name__}: {error}"
    return right, "the reply contains neither RIGHT nor WRONG" if right is None else ""


def _judged(
    label: Labelled,
    answer: Answer,
    seconds: float,
    *,
    error: str = "",
    right: bool | None = None,
    judge_error: str = "",
    prices: Mapping[str, Price] | None = None,
) -> JudgedAnswer:
    found = answer.found and not error
    cited = {citation.passage.chunk_id: citation.passage for citation in answer.citations}
    texts = [f"{passage.title}\n{passage.text}" for passage in cited.values()]
    grounding = ground(answer.text if found else "", texts, question=label.question)
    missing = grounding.missing_figures + grounding.missing_names
    grades = label.grades()
    hits = [
        passage.chunk_id if passage.chunk_id in grades else passage.document_id
        for passage in cited.values()
        if passage.chunk_id in grades or passage.document_id in grades
    ]
    return JudgedAnswer(
        question=label.question,
        tenant=label.tenant,
        tags=label.tags,
        unanswerable=label.unanswerable,
        text=answer.text,
        found=found,
        model=answer.model,
        error=error,
        degraded=tuple(f"{one.stage}: {one.fallback}" for one in answer.degraded),
        figures=len(grounding.figures),
        names=len(grounding.names),
        ungrounded=missing,
        grounded=_share(len(missing), len(grounding.figures) + len(grounding.names)),
        figures_grounded=_share(len(grounding.missing_figures), len(grounding.figures)),
        names_grounded=_share(len(grounding.missing_names), len(grounding.names)),
        contains_gold=None if label.answer is None else float(found and contains(answer.text, label.answer)),
        token_f1=None if label.answer is None else token_f1(answer.text, label.answer) if found else 0.0,
        citations=len(cited),
        citation_precision=len(hits) / len(cited) if found and cited and grades else None,
        citation_recall=(len(set(hits)) / len(grades) if found else 0.0) if grades else None,
        judged_right=right,
        judge_error=judge_error,
        seconds=seconds,
        prompt_tokens=answer.usage.prompt_tokens,
        completion_tokens=answer.usage.completion_tokens,
        cost=_cost(answer, (prices or {}).get(answer.model)),
    )


def _share(missing: int, count: int) -> float | None:
    return 1 - missing / count if count else None


def _cost(answer: Answer, price: Price | None) -> float | None:
    if price is None:
        return None
    usage = answer.usage
    return ((usage.prompt_tokens or 0) * price.prompt + (usage.completion_tokens or 0) * price.completion) / MILLION
