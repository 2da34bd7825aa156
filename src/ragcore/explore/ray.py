"""Offline evaluation on Ray: `evaluate` and `answers` for many questions, in many processes or on many machines. Needs the extra `ray`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar

from ragcore.client.rag import RAG
from ragcore.errors import InvalidInput
from ragcore.explore.asking import answers
from ragcore.explore.evaluation import Evaluation, evaluate
from ragcore.explore.judgements import Answers
from ragcore.explore.labels import Labelled, load
from ragcore.ingest.ray.cluster import cluster
from ragcore.ingest.ray.engine import CPUS, executing, outcomes, pool, workers_of
from ragcore.ingest.ray.workers import Opened, table, values

__all__ = ["answers_dataset", "evaluate_dataset"]

T = TypeVar("T")

Client = Callable[[], AbstractAsyncContextManager[RAG]]
QUESTIONS_IN_A_BLOCK = 64


def evaluate_dataset(
    labelled: object, /, *, client: Client, k: int = 10, workers: int | None = None, address: str | None = None
) -> Evaluation:
    """Measure retrieval with labelled questions, as `explore.evaluate` does, with Ray's workers. Blocks until all questions are measured.

    Args:
        labelled: labelled questions, or anything that `explore.load` reads, such as a dataset of Ray Data or the path of a file.
        client: function that makes the client. It is called in each worker, so it reads the worker's environment.
        k: number of documents to judge for each question.
        workers: number of processes. None: the number of the cluster's CPUs.
        address: as in `ragcore.ingest.ray.ingest`.

    Returns:
        The evaluation, with the questions in the given order.

    Raises:
        InvalidInput: as in `explore.evaluate` and `explore.load`.
        ConfigurationError, DependencyError: as in `ragcore.ingest.ray.ingest`.
        RagcoreError: a search failed. No fallback is used, because its result would be judged as that of the configured search.
    """
    labels = [label for label in _labels(labelled) if label.grades()]
    if not labels:
        raise InvalidInput("no labelled question with a relevant document to evaluate: pass at least one")

    async def one(rag: RAG, part: Sequence[Labelled]) -> Evaluation:
        return await evaluate(rag.retriever, part, k=k)

    parts = _run(labels, one, client=client, workers=workers, address=address)
    return Evaluation(k, tuple(question for part in parts for question in part.questions))


def answers_dataset(
    labelled: object,
    /,
    *,
    client: Client,
    workers: int | None = None,
    address: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Answers:
    """Ask labelled questions and judge the answers by rule and by label, as `explore.answers` does, with Ray's workers. Blocks until all are judged.

    Args:
        labelled: as in `evaluate_dataset`.
        client: as in `evaluate_dataset`.
        workers: as in `evaluate_dataset`.
        address: as in `evaluate_dataset`.
        options: the arguments of `explore.answers`, such as timeout, mode, top_k and judge.

    Returns:
        The judged answers, with the questions in the given order. A call that fails is part of the result, as in `explore.answers`.

    Raises:
        InvalidInput, ConfigurationError, DependencyError: as in `explore.answers` and `ragcore.ingest.ray.ingest`.
    """
    labels = _labels(labelled)
    if not labels:
        raise InvalidInput("no labelled questions to ask: pass at least one")
    given = dict(options or {})

    async def one(rag: RAG, part: Sequence[Labelled]) -> Answers:
        return await answers(rag, part, **given)

    parts = _run(labels, one, client=client, workers=workers, address=address)
    return Answers(tuple(question for part in parts for question in part.questions))


def _labels(labelled: object) -> list[Labelled]:
    rows = getattr(labelled, "iter_rows", None)
    if rows is not None and type(labelled).__module__.startswith("ray."):
        return load(list(rows()))
    return load(labelled)


def _run(
    labels: Sequence[Labelled],
    work: Callable[[RAG, Sequence[Labelled]], Coroutine[Any, Any, T]],
    *,
    client: Client,
    workers: int | None,
    address: str | None,
) -> list[T]:
    """Return the results of all parts of the questions, in their order."""
    with cluster(address, workers=workers, purpose="evaluation on Ray") as ray, executing(ray):
        count = workers_of(ray, workers)
        size = min(QUESTIONS_IN_A_BLOCK, max(1, len(labels) // (4 * count)))
        starts = range(0, len(labels), size)
        blocks = [table((number, labels[start : start + size])) for number, start in enumerate(starts)]
        dataset = ray.data.from_arrow(blocks).map_batches(
            Evaluator,
            fn_constructor_args=(client, work),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=CPUS,
            compute=pool(ray, count),
        )
        found = dict(result for results in outcomes(dataset) for result in results)
    return [found[number] for number in range(len(blocks))]


class Evaluator(Opened[RAG]):
    """Measures the questions of a block. The outcome of a block is a list of pairs: the number of a part, and its result."""

    def __init__(self, opens: Client, work: Callable[[RAG, Sequence[Labelled]], Coroutine[Any, Any, Any]]) -> None:
        super().__init__(opens)
        self._work = work

    def __call__(self, block: Any) -> Any:
        """Measure the questions of a block."""
        return table(self.outcome(partial(self._measure, values(block))))

    async def _measure(self, parts: Sequence[tuple[int, Sequence[Labelled]]], rag: RAG) -> list[tuple[int, Any]]:
        return [(number, await self._work(rag, labels)) for number, labels in parts]
