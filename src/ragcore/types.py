"""The values that go in and come out: frozen, slotted, picklable, hashable (mappings left out), `to_dict()` on each.

All lengths of time are seconds. None means: not measured, did not run, or unknown; never 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from ragcore.errors import InvalidInput
from ragcore.shown import as_html, as_text
from ragcore.timings import Timings
from ragcore.value import Value

__all__ = [
    "Answer",
    "CallInfo",
    "Chunk",
    "Citation",
    "Counts",
    "Degradation",
    "Delta",
    "Document",
    "Done",
    "EmbedText",
    "EmptyReason",
    "Erased",
    "Generation",
    "Health",
    "IngestReport",
    "Kind",
    "LimitState",
    "Mode",
    "Passage",
    "Price",
    "Prompt",
    "Retrieval",
    "Retrieved",
    "Scalar",
    "SimilarityReport",
    "Stats",
    "StreamEvent",
    "Timings",
    "Turn",
    "Unreadable",
    "Usage",
    "UsedTokens",
]

Scalar: TypeAlias = str | int | float | bool
Mode: TypeAlias = Literal["vector", "text", "hybrid"]
# What is embedded for a chunk: its text alone, or its document's title over it, or the title and its headings.
EmbedText: TypeAlias = Literal["text", "title+text", "headings+text"]
Kind: TypeAlias = Literal["query", "document"]


# An id stands in an index with its tenant, whose rows PostgreSQL bounds to 2,704 bytes.
MOST_ID, MOST_TITLE, MOST_SOURCE = 1_000, 2_000, 8_000
NUL_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def _metadata() -> Any:
    return field(default_factory=dict, hash=False)


def check_text(what: str, text: object) -> str:
    """Text that PostgreSQL and every model can take, or `InvalidInput`."""
    if not isinstance(text, str):
        raise InvalidInput(f"{what} must be a str, not {type(text).__name__}")
    if "\0" in text:
        raise InvalidInput(f"{what} holds a NUL character, which PostgreSQL can't store: remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{what} holds a lone surrogate at {error.start}: it is not valid Unicode") from None
    return text


@dataclass(frozen=True, slots=True)
class Turn(Value):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Document(Value):
    """A document on its way in.

    Attributes:
        id: the tenant's own name for it; a second document with this id replaces the first.
        text: all of its text; citations point into it by offset.
        title: shown and searched with the text.
        source: where it came from, for example a path or a URL.
        metadata: JSON, for filters and for showing; string keys.
        warnings: doubts of the reader about the text; they are reported by an ingest and not stored.
        expires_at: from then on it is not found, and `ragcore expire` removes it; with a time zone. None: never.

    Raises:
        InvalidInput: a blank id, a NUL character, a lone surrogate, metadata that is not JSON, a time without its zone.
    """

    id: str
    text: str
    _: KW_ONLY
    title: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = _metadata()
    warnings: tuple[str, ...] = ()
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        if self.expires_at is not None and not _is_moment(self.expires_at):
            raise InvalidInput(
                f"document {self.id!r}: expires_at is {self.expires_at!r}: it must be a datetime with a time zone, such as "
                "datetime(2030, 1, 1, tzinfo=UTC)"
            )
        check_text("a document's id", self.id)
        if not self.id.strip():
            raise InvalidInput("a document's id is blank: give it a name that stays the same")
        for what in ("text", "title", "source"):
            check_text(f"document {self.id!r}: its {what}", getattr(self, what))
        for what, text, most in (
            ("id", self.id, MOST_ID),
            ("title", self.title, MOST_TITLE),
            ("source", self.source, MOST_SOURCE),
        ):
            if len(text.encode()) > most:
                raise InvalidInput(
                    f"document {self.id[:100]!r}: its {what} has {len(text.encode()):,} bytes, more than {most:,}"
                )
        try:
            written = json.dumps(dict(self.metadata), allow_nan=False, ensure_ascii=False, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(f"document {self.id!r}: its metadata is not JSON: {error}") from None
        if NUL_IN_JSON.search(written):
            raise InvalidInput(
                f"document {self.id!r}: its metadata holds a NUL character, which PostgreSQL can't store"
            )
        check_text(f"document {self.id!r}: its metadata", written)
        if not all(isinstance(key, str) for key in self.metadata):
            raise InvalidInput(f"document {self.id!r}: the keys of its metadata must be strings")


def _is_moment(value: object) -> bool:
    """Whether it is a time that can be said in UTC."""
    try:
        return isinstance(value, datetime) and value.utcoffset() is not None and value.astimezone(UTC) is not None
    except OverflowError:  # in the last hours of the year 9999
        return False


@dataclass(frozen=True, slots=True)
class Unreadable(Value):
    """A document that could not be read or stored, and why; it travels with the others into the report."""

    id: str
    reason: str
    _: KW_ONLY
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Value):
    """A piece of a document that is embedded and found as one.

    `text` is `document.text[start:end]`. Where that begins within a table, the table's header rows stand before it.
    """

    id: str
    text: str
    start: int
    end: int
    metadata: Mapping[str, Any] = _metadata()


@dataclass(frozen=True, slots=True)
class Passage(Value):
    """A chunk as it is handed out.

    Attributes:
        chunk_id, document_id, text, title, source: what it is and where it comes from.
        start, end: its place in the document's text, in characters; None where the store doesn't know.
        metadata: the document's, with the chunk's own (a PDF's "page") over it.
        score: cosine similarity to the question in [-1, 1], higher is better; None if it was found by its text alone.
        text_score: full-text rank, higher is better, comparable within one result only; None if found by vector alone.
    """

    chunk_id: str
    document_id: str
    text: str
    _: KW_ONLY
    title: str = ""
    source: str = ""
    start: int | None = None
    end: int | None = None
    metadata: Mapping[str, Any] = _metadata()
    score: float | None = None
    text_score: float | None = None


@dataclass(frozen=True, slots=True)
class Citation(Value):
    """A "[n]" in an answer that names one of its passages.

    Attributes:
        number: n, counted in `retrieval.passages` from 1.
        passage: that passage.
        start, end: the place of the "[n]" in the answer's text.
    """

    number: int
    passage: Passage
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Degradation(Value):
    """A stage that failed, why, and what answered in its place. Stages: "embed", "search", "generate"."""

    stage: str
    reason: str
    fallback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Value):
    """Tokens by purpose; None for what did not run or was not reported."""

    embedding_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Erased(Value):
    """What of a tenant went: documents with their chunks, vectors that were kept, and finished calls that were remembered."""

    documents: int = 0
    chunks: int = 0
    cached_vectors: int = 0
    remembered_calls: int = 0


@dataclass(frozen=True, slots=True)
class Price(Value):
    """What a million tokens cost, in any currency."""

    prompt: float = 0.0
    completion: float = 0.0
    embedding: float = 0.0


@dataclass(frozen=True, slots=True)
class UsedTokens(Value):
    """What was used of a model: requests, tokens, and what they cost by the price table."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    embedding_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class LimitState(Value):
    """What is left of a limit for each minute.

    Attributes:
        name: "requests" or "tokens".
        limit: a minute.
        remaining: at the moment.
        reset: seconds until all of it is there again.
    """

    name: str
    limit: int
    remaining: int
    reset: float


@dataclass(frozen=True, slots=True)
class EmptyReason(Value):
    """Why nothing was found.

    Attributes:
        code: which of the reasons; "unknown" where the store can't tell.
        message: the same for a person, with the numbers.
        best_score: the best cosine similarity that there was, whatever the threshold.
        tenant_chunks, store_chunks: how many chunks the tenant and the whole store have.
    """

    code: Literal["no_chunks", "not_embedded", "below_threshold", "filtered_out", "other_model", "unknown"]
    message: str
    _: KW_ONLY
    best_score: float | None = None
    tenant_chunks: int | None = None
    store_chunks: int | None = None


@dataclass(frozen=True, slots=True)
class Retrieval(Value):
    """What a question found.

    Attributes:
        question: as it was asked.
        query: what was searched for.
        passages: best first, at most `top_k`.
        mode, top_k, score_threshold: as in force; no threshold is None.
        score_threshold_from: who set the threshold; None if nobody did.
        empty: why there are no passages; None if there are some.
        scan: how vectors were compared: "exact" with all of the tenant's, through the "index", or "completed": exactly, after the index had given too
            few. None: not at all, or the store doesn't say.
        degraded: what was done in another way than asked.
        timings: `embed` and `search`.
        usage: `embedding_tokens`.
    """

    question: str
    _: KW_ONLY
    query: str = ""
    passages: tuple[Passage, ...] = ()
    mode: Mode = "vector"
    top_k: int = 5
    score_threshold: float | None = None
    score_threshold_from: Literal["call", "retriever"] | None = None
    empty: EmptyReason | None = None
    scan: Literal["exact", "index", "completed"] | None = None
    degraded: tuple[Degradation, ...] = ()
    timings: Timings = Timings()
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Answer(Value):
    """An answer, with all that led to it.

    Attributes:
        text: for the reader; citations stand in it as "[n]".
        found: False if the passages don't answer the question; `text` then says so. False also with the models down and nothing that can be quoted as the
            answer: `text` is then the nearest passage, and says that it is.
        citations: those "[n]" that name a passage, in the order of the text.
        retrieval: the passages and how they were found.
        degraded: what failed and what answered in its place, retrieval's included; () if all went well.
        timings, usage: by stage, retrieval's included.
        model: what generated the text.
        finish_reason: "stop", "length", …, as the model said it.
        complete: False if the text was cut off by a limit or a filter: it is not the whole answer.
        request_ids: the dependencies' own ids.
        call_id: as `RAG.inflight()` and `RAG.recent()` list it.
    """

    text: str
    _: KW_ONLY
    found: bool = True
    citations: tuple[Citation, ...] = ()
    retrieval: Retrieval = Retrieval("")
    degraded: tuple[Degradation, ...] = ()
    timings: Timings = Timings()
    usage: Usage = Usage()
    model: str = ""
    finish_reason: str = ""
    complete: bool = True
    request_ids: tuple[str, ...] = ()
    call_id: str = ""

    @property
    def turns(self) -> tuple[Turn, Turn]:
        """The question and the answer, to append to a history."""
        return Turn("user", self.retrieval.question), Turn("assistant", self.text)


@dataclass(frozen=True, slots=True)
class Retrieved(Value):
    """First event of a stream: the passages are there."""

    retrieval: Retrieval


@dataclass(frozen=True, slots=True)
class Delta(Value):
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Done(Value):
    """Last event of a stream: the whole answer."""

    answer: Answer


StreamEvent: TypeAlias = Retrieved | Delta | Done


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarityReport(Value):
    """How near a tenant's chunks are to a question. The threshold is judged, not applied. `str()` and a notebook show it.

    Attributes:
        retrieval: the nearest passages with their scores, whatever the threshold.
        score_threshold: the one that is judged; None if there is none.
        chunks, not_embedded: how many chunks the tenant has, and how many of them have no embedding.
        passing: how many of the scored chunks reach the threshold; all of them without one.
        exact: whether the scores come from all chunks rather than from an index.
        sampled: how many chunks were scored, if not all; else None.
        quantiles: "min", "p05", "p25", "median", "mean", "p75", "p95", "max", "deviation" of the scores.
        histogram: (from, to, how many) for each bin of the scores.
        verdict: the same in plain words.
    """

    retrieval: Retrieval
    score_threshold: float | None
    chunks: int
    not_embedded: int
    passing: int
    exact: bool
    sampled: int | None
    quantiles: Mapping[str, float] = field(hash=False)
    histogram: tuple[tuple[float, float, int], ...]
    verdict: str

    def __str__(self) -> str:
        return as_text(self.to_dict())

    def _repr_html_(self) -> str:
        return as_html(self.to_dict())


@dataclass(frozen=True, slots=True)
class Doubt(Value):
    """A warning about a document that was read: its text may not be complete.

    Attributes:
        id: the document's id.
        message: what is doubtful, and where.
    """

    id: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport(Value):
    """What an ingest did, or did so far.

    Attributes:
        added, updated, unchanged: documents that were new, replaced, and already there with the same content.
        chunks: chunks written.
        embedding_tokens: tokens embedded, counted in the embedder's own tokens; None if nothing was embedded.
        failed: documents at fault themselves, each with its reason.
        warnings: doubts of the readers about documents that went in, such as a guessed encoding; at most 10,000.
        seconds: since the start.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    chunks: int = 0
    embedding_tokens: int | None = None
    failed: tuple[Unreadable, ...] = ()
    warnings: tuple[Doubt, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts(Value):
    """How much there is."""

    documents: int
    chunks: int
    not_embedded: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Health(Value):
    """Whether the client can do its work.

    Attributes:
        status: the worst of the services'.
        ready: whether questions can be answered now, degraded or not.
        services: "database", "rag_service", "memory_usage", each healthy | degraded | unhealthy.
        details: numbers and reasons behind each; never a secret.
    """

    status: Literal["healthy", "degraded", "unhealthy"]
    timestamp: datetime
    services: Mapping[str, str] = field(hash=False)
    ready: bool
    details: Mapping[str, Any] = _metadata()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats(Value):
    """A snapshot of the machinery: policies by dependency, pools, caches, calls."""

    policies: Mapping[str, Any] = _metadata()
    pools: Mapping[str, Any] = _metadata()
    caches: Mapping[str, Any] = _metadata()
    calls: Mapping[str, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallInfo(Value):
    """One call of the client, running or finished.

    Attributes:
        id: random, the same as in the answer and the errors.
        method: "ask", "stream", "retrieve", …
        tenant: whose call it is.
        stage: where it is, or where it ended.
        elapsed: seconds so far, or altogether.
        waiting_on: the innermost function that it awaits; None if it can't be seen or the call is finished.
        outcome: "ok", "degraded", "cancelled" or the error's name; None while it runs.
    """

    id: str
    method: str
    tenant: str
    stage: str
    elapsed: float
    waiting_on: str | None = None
    outcome: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt(Value):
    """What a generator gets, as data; how it is put into messages is the generator's own affair.

    Attributes:
        question: as asked.
        passages: whole passages, best first, that fit the token budget; "[n]" counts them from 1.
        history: earlier turns, oldest first.
        instructions: what the caller wants of every answer.
        max_tokens: of the answer; None: the generator's own default.
        max_tokens_from: whose limit it is: of this call, or of the settings, where a generator's own comes first.
        temperature: of this call; None: the generator's own default.
        stop: texts that end the answer where they would come.
        left_out: how many passages did not fit the budget.
    """

    question: str
    _: KW_ONLY
    passages: tuple[Passage, ...] = ()
    history: tuple[Turn, ...] = ()
    instructions: str = ""
    max_tokens: int | None = None
    max_tokens_from: Literal["call", "settings"] = "call"
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Generation(Value):
    """What a generator made of a prompt.

    Attributes:
        text: with citations as "[n]", n counting the prompt's passages from 1; "" if the passages don't answer the question.
        finish_reason: "stop" if it ended by itself, "length" if it was cut, …
        complete: False if it was cut off or filtered.
        model: what made it.
        usage: its tokens, where reported.
        request_id: the dependency's own id, where there is one.
        reasoning: what the model thought before it answered, where it shows that; not for members.
        quotations: (start, end) of what stands word for word in the passages: a "[n]" in there is no citation. None: not known, then it is looked for.
        degraded: generators that failed before this one answered.
        spent: what those have used, by model, where they said so.
    """

    text: str
    _: KW_ONLY
    finish_reason: str = "stop"
    complete: bool = True
    model: str = ""
    usage: Usage = Usage()
    request_id: str | None = None
    reasoning: str = ""
    quotations: tuple[tuple[int, int], ...] | None = None
    degraded: tuple[Degradation, ...] = ()
    spent: tuple[tuple[str, Usage], ...] = ()
