"""Measures every combination of settings: how documents are cut into chunks, and how they are searched."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self, TypeAlias

import numpy as np

from ragcore.embedding.cache import CachedEmbedder
from ragcore.errors import InvalidInput
from ragcore.explore.evaluation import Evaluation, Judged, judged
from ragcore.explore.fetching import check_known, embedded, in_turn
from ragcore.explore.intervals import of_mean
from ragcore.explore.labels import Labelled
from ragcore.explore.results import Result, axes, caution
from ragcore.ingest.ingestor import Ingestor
from ragcore.lifecycle.part import Parts
from ragcore.loadtest.estimates import percentile
from ragcore.loadtest.figures import Chart, Line
from ragcore.protocols import Embedder, Searcher, Store
from ragcore.retrieval.options import SearchOptions
from ragcore.retrieval.retriever import Retriever
from ragcore.store.memory import MemoryStore
from ragcore.types import Document

__all__ = ["Grid", "Rerank", "Setting", "grid"]

Rerank: TypeAlias = Callable[[Searcher], Searcher]

MOST_SETTINGS = 500
MOST_LISTED = 12
# Size of the cache for vectors of chunks and questions. All settings share it.
CACHE_BYTES = 512 * 1024 * 1024
NO_AXES = ("store", "embedder", "concurrency", "degrade")
RERANK = "rerank"


@dataclass(frozen=True, slots=True)
class Setting:
    """One combination of settings, and its quality.

    Attributes:
        options: (name, value) of each axis.
        evaluation: the measures of each question.
        seconds: the time of each search, without the embedding of the question.
        tokens: the mean number of tokens of the passages that a question finds, which the model would have to read.
        chunks: the number of chunks in the store.
    """

    options: tuple[tuple[str, Any], ...]
    evaluation: Evaluation
    seconds: tuple[float, ...]
    tokens: float
    chunks: int

    @property
    def name(self) -> str:
        """The options in one line."""
        return ", ".join(f"{name} {value}" for name, value in self.options)


@dataclass(frozen=True, slots=True)
class Grid(Result):
    """Every combination of settings, measured over the same questions.

    Attributes:
        settings: the combinations, in the order of the axes.
        baseline: place of the combination with which the others are compared.
    """

    settings: tuple[Setting, ...]
    baseline: int = 0

    @property
    def best(self) -> Setting:
        """The setting with the highest nDCG; of equal settings, the one with the fewest tokens. `notes` lists the settings that are not clearly worse."""
        return self.settings[self._best()]

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for each setting.

        "difference" is its nDCG minus that of the baseline, with the 95 % interval "low" to "high" over pairs of the same question; None for the baseline
        itself. "search_ms" is the median time of a search. "recommended" is True for the best setting.
        """
        rows, best = [], self._best()
        for place, setting in enumerate(self.settings):
            found = setting.evaluation
            difference, low, high = (None,) * 3 if place == self.baseline else self._difference(place, self.baseline)
            rows.append(
                {
                    "setting": place + 1,
                    **dict(setting.options),
                    "ndcg": found.mean("ndcg"),
                    "recall": found.mean("recall"),
                    "mrr": found.mean("mrr"),
                    "nothing_found": found.mean("nothing_found"),
                    "tokens": setting.tokens,
                    "search_ms": 1000 * percentile(setting.seconds, 0.5),
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "recommended": place == best,
                }
            )
        return rows

    @property
    def notes(self) -> tuple[str, ...]:
        """Whether the best setting is clearly better, and how to read many intervals."""
        best, count = self._best(), len(self.settings)
        found = self.settings[best].evaluation
        nothing = found.mean("nothing_found")
        first = (
            f"The best is setting {best + 1} ({self.settings[best].name}): nDCG@{found.k} {found.mean('ndcg'):.3f}, recall {found.mean('recall'):.3f}, "
            f"nothing found for {100 * nothing:.0f} % of the questions."
        )
        notes = [first]
        equal = [place + 1 for place in range(count) if place != best and self._difference(best, place)[1] <= 0]
        if equal:
            notes.append(
                f"With {len(found.questions):,} questions, {len(equal)} of the {count - 1} others are not clearly worse: {_listed(equal)}. "
                "Of these, choose the one with the fewest tokens or the shortest time."
            )
        elif count > 1:
            notes.append("It is better than each of the others, by the 95 % interval of the difference.")
        if count > 2:
            notes.append(
                "Each interval holds for its own row in 95 % of cases. The best of many settings looks a little better than it is: confirm it with "
                "questions that were not part of this grid."
            )
        return tuple(notes)

    def plot(self) -> Any:
        """Plot nDCG with its interval for each setting. Returns matplotlib axes. Extra `notebook`."""
        plot = axes()
        means, ends = self._means()
        # Label the settings only with the options that vary, because whole names leave no room for the plot.
        columns = zip(*(setting.options for setting in self.settings), strict=True)
        vary = [place for place, column in enumerate(columns) if len({repr(value) for _, value in column}) > 1]
        names = [
            f"{number}: " + ", ".join(str(setting.options[place][1]) for place in vary)
            for number, setting in enumerate(self.settings, start=1)
        ]
        errors = np.abs(np.array(ends).T - means)
        plot.errorbar(means[::-1], names[::-1], xerr=errors[:, ::-1], fmt="o", color="black", capsize=3)
        plot.axvline(means[self._best()], linestyle="--", linewidth=0.8, color="0.5")
        plot.set_xlabel(f"nDCG@{self.best.evaluation.k} with 95 % interval")
        plot.figure.set_size_inches(7.0, 1.2 + 0.28 * len(names))
        return plot

    def _charts(self) -> list[Chart]:
        means, ends = self._means()
        depth = self.best.evaluation.k
        line = Line("nDCG", range(len(means)), means, ends)
        ticks = [str(place + 1) for place in range(len(means))]
        return [Chart("Quality of each setting, with 95 % intervals", "setting", f"nDCG@{depth}", [line], ticks=ticks)]

    def _shown(self) -> list[dict[str, Any]]:
        return self.to_dicts()

    def _means(self) -> tuple[list[float], list[tuple[float, float]]]:
        found = [setting.evaluation for setting in self.settings]
        return [one.mean("ndcg") for one in found], [one.interval("ndcg") for one in found]

    def _best(self) -> int:
        return max(
            range(len(self.settings)),
            key=lambda place: (round(self.settings[place].evaluation.mean("ndcg"), 9), -self.settings[place].tokens),
        )

    def _difference(self, place: int, other: int) -> tuple[float, float, float]:
        """Return the mean difference of nDCG, and its interval."""
        pairs = zip(self.settings[place].evaluation.questions, self.settings[other].evaluation.questions, strict=True)
        changes = [one.ndcg - two.ndcg for one, two in pairs]
        return (float(np.mean(changes)), *of_mean(changes, least=-1.0, most=1.0))

    def __repr__(self) -> str:
        count = len(self.best.evaluation.questions)
        return (
            f"Grid({len(self.settings)} settings, {count:,} questions, best: {self.best.name}, "
            f"nDCG@{self.best.evaluation.k} {self.best.evaluation.mean('ndcg'):.3f}{caution(count)})"
        )

    def _state(self) -> dict[str, Any]:
        return {
            "baseline": self.baseline,
            "settings": [{**asdict(setting), "evaluation": setting.evaluation._state()} for setting in self.settings],
        }

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Self:
        settings = tuple(
            Setting(
                options=tuple((name, value) for name, value in one["options"]),
                evaluation=Evaluation._restored(one["evaluation"]),
                seconds=tuple(one["seconds"]),
                tokens=one["tokens"],
                chunks=one["chunks"],
            )
            for one in state["settings"]
        )
        return cls(settings, state["baseline"])


async def grid(
    documents: Iterable[Document] | Mapping[str, Iterable[Document]],
    labelled: Iterable[Labelled],
    *,
    embedder: Embedder,
    k: int = 10,
    rerank: Mapping[str, Rerank | None] | None = None,
    store: Callable[[], Store] = MemoryStore,
    progress: bool = False,
    **axes: Sequence[Any],
) -> Grid:
    """Measure every combination of the axes, with the same questions. The first combination is the baseline.

    Each axis is a keyword with its values. For each combination of options of `Ingestor`, such as chunk_tokens, overlap_tokens and embed_text, the documents
    are put into a new store. For each combination of options of `Retriever` or of its `retrieve`, such as mode, top_k, score_threshold and
    relative_threshold, the questions are only searched again. Vectors of equal texts are computed once.

    Quality is measured on the passages that the search returns, so `top_k` can be an axis, too. nDCG is always that of the first `k` documents.

    Args:
        documents: the documents of the one tenant of the labels, or a mapping from tenants to documents.
        labelled: questions with their relevant documents. Others are left out.
        embedder: the embedder of documents and questions.
        k: number of documents to judge.
        rerank: another axis: a mapping from names to functions that wrap the store in another searcher, or to None for the store itself.
        store: called for an empty store for each combination of options of `Ingestor`. Default: `MemoryStore`, whose search times are not those of a database.
        progress: show progress bars. Extra `notebook`.
        axes: the axes.

    Raises:
        InvalidInput: an axis is unknown or empty, there are more than 500 combinations, no label has a relevant document, or the documents of a label
            are not among the documents.
        EmbeddingError, StoreError: a dependency failed.

    Examples:
        ```python
        found = await explore.grid(
            documents, labels, embedder=embedder, chunk_tokens=(100, 200, 400), mode=("vector", "hybrid"), top_k=(5, 10)
        )
        print(found.best.name)
        ```
    """
    labels = [label for label in labelled if label.grades()]
    if not labels:
        raise InvalidInput("no labelled question with a relevant document: pass at least one")
    if k < 1:
        raise InvalidInput(f"k is {k}: it must be at least 1")
    corpus = _by_tenant(documents, labels)
    cutting, searching = _axes({**axes, **({} if rerank is None else {RERANK: tuple(rerank)})})
    found: list[Setting] = []
    cached = CachedEmbedder(embedder, max_bytes=CACHE_BYTES, ttl=1e9, shared=True, kinds=("document", "query"))
    async with cached:
        for cut in _combined(cutting):
            parts, made = Parts(), store()
            try:
                await parts.start(made)
                ingestor = Ingestor(embedder=cached, store=made, **cut)
                for tenant, some in corpus.items():
                    report = await ingestor.add(some, tenant=tenant)
                    if report.failed:
                        first = report.failed[0]
                        raise InvalidInput(f"{len(report.failed)} documents can't be added: {first.id}: {first.reason}")
                chunks = sum([(await made.count(tenant=tenant)).chunks for tenant in corpus])
                one = partial(
                    _measured,
                    store=made,
                    embedder=cached,
                    labels=labels,
                    cut=cut,
                    rerank=rerank or {},
                    k=k,
                    chunks=chunks,
                )
                what = ", ".join(f"{name} {value}" for name, value in cut.items()) or "settings"
                found += await in_turn(_combined(searching), one, what=what, progress=progress, at_once=1)
            finally:
                await parts.aclose()
    return Grid(tuple(found))


async def _measured(
    search: Mapping[str, Any],
    *,
    store: Store,
    embedder: Embedder,
    labels: Sequence[Labelled],
    cut: Mapping[str, Any],
    rerank: Mapping[str, Rerank | None],
    k: int,
    chunks: int,
) -> Setting:
    wrap = rerank.get(search.get(RERANK, ""))
    searcher: Searcher = store if wrap is None else wrap(store)
    per_call = {name: value for name, value in search.items() if name in SearchOptions.__optional_keys__}
    own = {name: value for name, value in search.items() if name not in per_call and name != RERANK}
    async with Retriever(store=searcher, embedder=embedder, **own) as retriever:
        await check_known(retriever, labels)
        # Embed the questions before the measurement, so that the seconds of a search do not contain it.
        await embedded(retriever, [label.question for label in labels], progress=False)
        rows: list[Judged] = []
        seconds: list[float] = []
        tokens = 0
        # Search one question after the other, because searches at the same time would slow each other down.
        for label in labels:
            result = await retriever.retrieve(label.question, tenant=label.tenant, degrade=False, **per_call)
            rows.append(judged(label, [passage.document_id for passage in result.passages], k))
            seconds.append(result.timings.search or 0.0)
            tokens += sum(embedder.count_tokens(passage.text) for passage in result.passages)
    options = tuple((name, _plain(value)) for name, value in {**cut, **search}.items())
    return Setting(options, Evaluation(k, tuple(rows)), tuple(seconds), tokens / len(labels), chunks)


def _by_tenant(
    documents: Iterable[Document] | Mapping[str, Iterable[Document]], labels: Sequence[Labelled]
) -> dict[str, list[Document]]:
    if isinstance(documents, Mapping):
        return {tenant: list(some) for tenant, some in documents.items()}
    tenants = {label.tenant for label in labels}
    if len(tenants) > 1:
        raise InvalidInput(
            f"the labels have {len(tenants)} tenants: pass the documents as a mapping from tenants to documents"
        )
    return {tenants.pop(): list(documents)}


def _axes(given: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Sequence[Any]], dict[str, Sequence[Any]]]:
    """Return the axes of cutting and those of searching."""
    cutting = set(inspect.signature(Ingestor).parameters) - set(NO_AXES)
    searching = (set(inspect.signature(Retriever).parameters) | set(SearchOptions.__optional_keys__)) - set(NO_AXES)
    # An option that both classes have, such as redact, is not an axis, because it must have the same value in both.
    known = (cutting ^ searching) | {RERANK}
    count = 1
    for name, values in given.items():
        if name not in known:
            raise InvalidInput(f"there is no axis {name!r}: choose from {', '.join(sorted(known))}")
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise InvalidInput(f"the axis {name} must be a sequence of values, such as a tuple; it is {values!r}")
        count *= len(values)
    if count > MOST_SETTINGS:
        raise InvalidInput(
            f"the axes have {count:,} combinations, and at most {MOST_SETTINGS} are allowed: leave some out"
        )
    return (
        {name: values for name, values in given.items() if name in cutting},
        {name: values for name, values in given.items() if name not in cutting},
    )


def _combined(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _listed(numbers: Sequence[int]) -> str:
    more = len(numbers) - MOST_LISTED
    return ", ".join(map(str, numbers[:MOST_LISTED])) + (f" and {more} more" if more > 0 else "")
