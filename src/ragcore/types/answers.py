"""Answers, and all that leads to one: the question's passages, the prompt, what a generator made of it, the events of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, TypeAlias

from ragcore.types.shown import as_html, as_text
from ragcore.value import Timings, Value, mapping

__all__ = [
    "Answer",
    "Citation",
    "Degradation",
    "Delta",
    "Done",
    "EmptyReason",
    "Generation",
    "Mode",
    "Passage",
    "Prompt",
    "Retrieval",
    "Retrieved",
    "SimilarityReport",
    "StreamEvent",
    "Turn",
    "Usage",
]

Mode: TypeAlias = Literal["vector", "text", "hybrid"]


@dataclass(frozen=True, slots=True)
class Turn(Value):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


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
    metadata: Mapping[str, Any] = mapping()
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
        reasoning: what the model thought before it answered, where it shows that; not for tenants.
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
