"""Fetches the data of a sweep once: the nearest chunks of each question, with scores and tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import numpy as np
from numpy.typing import NDArray

from ragcore.compat.ability import offers
from ragcore.compat.extras import require
from ragcore.errors import InvalidInput, StoreError, Unsupported
from ragcore.explore.labels import Labelled
from ragcore.protocols import Embedder, Query, Store
from ragcore.retrieval.retriever import Retriever
from ragcore.text.redacting import Redacting
from ragcore.text.redaction import redacted

__all__ = ["Fetched", "check_known", "check_scores", "embedded", "fetch", "in_turn"]

T = TypeVar("T")
U = TypeVar("U")

AT_ONCE = 8
EMBED_AT_ONCE = 256
NAMED = 5


@dataclass(frozen=True, slots=True)
class Fetched:
    """The nearest chunks of one question, best first.

    Attributes:
        scores: cosine similarities, shape (n,).
        right: whether the chunk's document is relevant, shape (n,).
        first: whether the chunk is the nearest one of its document, shape (n,).
        tokens: number of tokens of each chunk, counted by the embedder, shape (n,).
        relevant: number of relevant documents.
    """

    label: Labelled
    scores: NDArray[np.float32]
    right: NDArray[np.bool_]
    first: NDArray[np.bool_]
    tokens: NDArray[np.int64]
    relevant: int


async def fetch(retriever: Retriever, labels: Sequence[Labelled], *, progress: bool) -> list[Fetched]:
    """Fetch the best `retriever.top_k` chunks of each question, without a threshold.

    Raises:
        Unsupported: the store has no scores, or there is no embedder.
        StoreError: a score is not a number.
    """
    store, embedder = check_scores(retriever)
    vectors = await embedded(retriever, [label.question for label in labels], progress=progress)

    async def one(number: int) -> Fetched:
        label = labels[number]
        query = Query(
            question=label.question,
            tenant=label.tenant,
            mode="vector",
            top_k=retriever.top_k,
            vector=vectors[number],
            rerank=False,
        )
        passages = await store.search(query)
        scores = np.array([passage.score for passage in passages], dtype=np.float32)
        if not np.isfinite(scores).all():
            raise StoreError(
                f"the store returned a score that is not a number for {label.question[:80]!r}", stage="search"
            )
        grades = label.grades()
        documents = [passage.document_id for passage in passages]
        return Fetched(
            label=label,
            scores=scores,
            right=np.array([document in grades for document in documents], dtype=np.bool_),
            first=np.array([documents.index(one) == place for place, one in enumerate(documents)], dtype=np.bool_),
            tokens=np.array([embedder.count_tokens(passage.text) for passage in passages], dtype=np.int64),
            relevant=len(grades),
        )

    return await in_turn(range(len(labels)), one, what="searching", progress=progress)


def check_scores(retriever: Retriever) -> tuple[Store, Embedder]:
    """Return store and embedder of a retriever.

    Raises:
        Unsupported: the store has no scores, or there is no embedder.
    """
    if not offers(retriever.store, Store) or retriever.embedder is None:
        raise Unsupported("a sweep needs an embedder and a store with scores")
    return retriever.store, retriever.embedder


async def check_known(retriever: Retriever, labels: Iterable[Labelled]) -> tuple[str, ...]:
    """Return the labelled documents that are not in the store.

    Raises:
        InvalidInput: a tenant has no chunks, or none of its labelled documents is stored, which suggests wrong ids or a wrong tenant.
    """
    store = retriever.store
    if not offers(store, Store):
        return ()
    named: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        named[label.tenant] |= label.grades().keys()
    unknown: list[str] = []
    for tenant, documents in named.items():
        known = (await store.hashes(sorted(documents), tenant=tenant)).keys()
        missing = sorted(documents - known)
        if missing and not known:
            if not (await store.count(tenant=tenant)).chunks:
                raise InvalidInput(f"the tenant {tenant!r} has no chunks: add its documents first")
            raise InvalidInput(
                f"none of the {len(missing):,} documents in the labels of tenant {tenant!r} is in the store: "
                f"{', '.join(missing[:NAMED])}{', …' if len(missing) > NAMED else ''}; check the document ids and the tenant"
            )
        unknown += missing
    return tuple(unknown)


async def in_turn(
    items: Sequence[T], work: Callable[[T], Awaitable[U]], *, what: str, progress: bool, at_once: int = AT_ONCE
) -> list[U]:
    """Process items concurrently, at most `at_once`. Returns the results in the order of the items. The first error stops the work and is raised unchanged."""
    results: dict[int, U] = {}
    numbers = iter(range(len(items)))
    failed: list[Exception] = []
    with _bar(len(items), what, progress) as bar:

        async def worker(scope: anyio.CancelScope) -> None:
            for number in numbers:
                try:
                    results[number] = await work(items[number])
                except Exception as error:  # raised again after the task group, which would wrap it in a group
                    failed.append(error)
                    scope.cancel()
                    return
                bar.update()

        async with anyio.create_task_group() as group:
            for _ in range(min(at_once, len(items))):
                group.start_soon(worker, group.cancel_scope)
    if failed:
        raise failed[0]
    return [results[number] for number in range(len(items))]


async def embedded(retriever: Retriever, questions: Sequence[str], *, progress: bool) -> list[NDArray[np.float32]]:
    """Embed questions in batches, redacted as the retriever redacts them. The retriever must have an embedder."""
    embedder, redact = retriever.embedder, retriever.redact
    assert embedder is not None
    texts = await Redacting().run(redact, lambda: [redacted(redact, question) for question in questions])
    starts = range(0, len(texts), EMBED_AT_ONCE)

    async def one(start: int) -> NDArray[np.float32]:
        made = await embedder.embed(texts[start : start + EMBED_AT_ONCE], kind="query")
        return np.asarray(made, dtype=np.float32)

    parts = await in_turn(starts, one, what="embedding", progress=progress, at_once=2)
    return [vector for part in parts for vector in part]


class _NoBar:
    def update(self) -> None:
        """Do nothing."""


def _bar(total: int, what: str, progress: bool) -> AbstractContextManager[Any]:
    if not progress:
        return nullcontext(_NoBar())
    bar: AbstractContextManager[Any] = require("tqdm.auto", extra="notebook", purpose="progress").tqdm(
        total=total, desc=what, mininterval=0.2
    )
    return bar
