"""Answers and the values from which they are made: retrieved passages, the prompt, the generated text, the events of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias

from ragcore.types.shown import as_html, as_text
from ragcore.value import Timings, Value, mapping

__all__ = [
    "Answer",
    "AskProgress",
    "Asked",
    "Citation",
    "Degradation",
    "Delta",
    "Done",
    "EmptyReason",
    "Fusion",
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

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    D_co = TypeVar("D_co", covariant=True, default=object)
else:  # defaults of type variables are part of Python from 3.13 on
    from typing import TypeVar

    D_co = TypeVar("D_co", covariant=True)

Mode: TypeAlias = Literal["vector", "text", "hybrid"]
Fusion: TypeAlias = Literal["score", "rank"]


@dataclass(frozen=True, slots=True)
class Turn(Value):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Passage(Value):
    """A chunk as a search returns it.

    Attributes:
        chunk_id, document_id: the ids of the chunk and of its document.
        text: the chunk's text.
        title, source: the title and the source of the document.
        start, end: the chunk's position in the document's text, in characters; None if the store doesn't know it.
        metadata: the metadata of the document and of the chunk, such as a PDF's "page". If both have a key, the chunk's value counts.
        score: cosine similarity to the question, in [-1, 1]; higher is better. None in mode "text", and for a chunk without a vector.
        text_score: full-text rank; higher is better. Compare it only with other passages of the same result. None if only vector search found the chunk.
        shared: the shared tenant that owns the document; None if the caller's tenant owns it.
        rerank_score: relevance that a reranker computed; higher is better. Its range depends on the reranker. None if the passage was not reranked.
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
    shared: str | None = None
    rerank_score: float | None = None


@dataclass(frozen=True, slots=True)
class Citation(Value):
    """A "[n]" in an answer, with the passage to which it points.

    Attributes:
        number: the position of the passage in `retrieval.passages`, counted from 1.
        passage: the passage.
        start, end: the position of the "[n]" in the answer's text, in characters.
    """

    number: int
    passage: Passage
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Degradation(Value):
    """A stage that failed, with the reason and the fallback that was used instead.

    Attributes:
        stage: "rewrite", "embed", "search", "rerank" or "generate".
        reason: why the stage failed.
        fallback: the replacement, such as "full text".
        error: the class name of the error, such as "CircuitOpen"; "" if there was no error.
    """

    stage: str
    reason: str
    fallback: str
    _: KW_ONLY
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Value):
    """Used tokens by purpose. None: the stage did not run, or the provider did not report a number."""

    embedding_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class EmptyReason(Value):
    """Why a search found nothing.

    Attributes:
        code: the reason; "unknown" if the store can't give it.
        message: the reason as a sentence, with the numbers.
        best_score: the best cosine similarity, regardless of the threshold; None if unknown.
        tenant_chunks, store_chunks: number of chunks of the tenant and of the whole store; None if unknown.
    """

    code: Literal["no_chunks", "not_embedded", "below_threshold", "filtered_out", "other_model", "unknown"]
    message: str
    _: KW_ONLY
    best_score: float | None = None
    tenant_chunks: int | None = None
    store_chunks: int | None = None


@dataclass(frozen=True, slots=True)
class Retrieval(Value):
    """The result of a search.

    Attributes:
        question: the question as it was asked.
        query: the text that was searched for: the question, or the stand-alone form of a follow-up question.
        passages: the passages, best first, at most `top_k`.
        mode, top_k, score_threshold: the values that this search used. `score_threshold` is None if there was no threshold.
        score_threshold_from: where the threshold comes from: the "call" or the "retriever"; None if there was no threshold.
        relative_threshold: the share of the best score that this search used as a threshold; None if there was none.
        empty: why there are no passages; None if there are some.
        duplicates: number of passages that were left out because a better passage has the same text.
        scan: how vectors were compared. "exact": with all of the tenant's vectors. "index": through the HNSW index. "completed": by an exact scan
            after the index returned too few. None: no vectors were compared, or the store doesn't report it.
        degraded: stages that failed and their fallbacks; () if none failed.
        timings: seconds of `rewrite`, `embed`, `search` and `rerank`.
        usage: `embedding_tokens`, and the tokens of the model that rewrote the question; None if none did.
    """

    question: str
    _: KW_ONLY
    query: str = ""
    passages: tuple[Passage, ...] = ()
    mode: Mode = "vector"
    top_k: int = 5
    score_threshold: float | None = None
    score_threshold_from: Literal["call", "retriever"] | None = None
    relative_threshold: float | None = None
    empty: EmptyReason | None = None
    duplicates: int = 0
    scan: Literal["exact", "index", "completed"] | None = None
    degraded: tuple[Degradation, ...] = ()
    timings: Timings = Timings()
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Answer(Value, Generic[D_co]):
    """An answer with its passages, citations and measurements.

    Attributes:
        text: the answer. Citations appear in it as "[n]".
        found: whether the passages answer the question. If not, `text` says so. It is also False if no model is available and no sentence can be
            quoted as the answer; then `text` is the nearest passage, with a line that says so.
        citations: each "[n]" that points to a passage, in the order of the text.
        data: the answer as a value of the call's `schema`; None without a schema, if `found` is False, or if the answer is a quotation.
        retrieval: the passages and how they were found.
        degraded: stages that failed and their fallbacks, including those of retrieval; () if none failed.
        timings, usage: seconds and tokens by stage, including retrieval.
        model: name of the model that generated the text.
        finish_reason: why the model stopped, as it reports it: "stop", "length", …
        complete: False if the text is cut off because of a limit or a filter.
        request_ids: ids that the dependencies gave to their requests.
        call_id: id of the call in `RAG.inflight()` and `RAG.recent()`.
    """

    text: str
    _: KW_ONLY
    found: bool = True
    citations: tuple[Citation, ...] = ()
    data: D_co | None = field(default=None, hash=False)
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
        """The question and the answer as two turns, to append to a history."""
        return Turn("user", self.retrieval.question), Turn("assistant", self.text)


@dataclass(frozen=True, slots=True)
class Asked(Value):
    """One question of `ask_many`, with its answer or its error.

    Attributes:
        index: the position of the question, counted from 0.
        question: the question.
        answer: the answer; None if the question failed.
        error: why the question failed; None if there is an answer.
    """

    index: int
    question: str
    answer: Answer | None = None
    _: KW_ONLY
    error: Exception | None = None

    def result(self) -> Answer:
        """Return the answer, or raise the error."""
        if self.answer is None:
            raise self.error or LookupError("there is neither an answer nor an error")
        return self.answer

    def to_dict(self) -> dict[str, Any]:
        """Return the value as JSON-ready data. An error has its "type" and its "message"."""
        error = None if self.error is None else {"type": type(self.error).__name__, "message": str(self.error)}
        answer = None if self.answer is None else self.answer.to_dict()
        return {"index": self.index, "question": self.question, "answer": answer, "error": error}


@dataclass(frozen=True, slots=True)
class AskProgress(Value):
    """The progress of `ask_many`.

    Attributes:
        asked: number of questions that were read so far.
        answered, failed: number of results that were returned so far, with an answer and with an error.
        seconds: the time since `ask_many` began.
    """

    asked: int
    answered: int
    failed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Retrieved(Value):
    """First event of a stream, with the passages."""

    retrieval: Retrieval


@dataclass(frozen=True, slots=True)
class Delta(Value):
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Done(Value):
    """Last event of a stream, with the whole answer."""

    answer: Answer


StreamEvent: TypeAlias = Retrieved | Delta | Done


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarityReport(Value):
    """A report about the similarity of a tenant's chunks to a question, and about the effect of a threshold.

    `str()` shows the report as text; a notebook shows it as tables.

    Attributes:
        retrieval: the nearest passages with their scores. The threshold is not applied to them.
        score_threshold: the threshold that the report checks; None if there is none.
        chunks, not_embedded: number of the tenant's chunks, and how many of them have no embedding.
        passing: number of scored chunks that reach the threshold; all of them if there is no threshold.
        exact: whether all embedded chunks were scored.
        sampled: number of scored chunks, if not all were scored; else None.
        quantiles: "min", "p05", "p25", "median", "mean", "p75", "p95", "max" and "deviation" of the scores.
        histogram: (from, to, count) for each bin of the scores.
        verdict: the result in one or two sentences.
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
    """The input of a generator, as data. Each generator decides how to turn it into messages.

    Attributes:
        question: the question as it was asked.
        query: the text that was searched for: the stand-alone form of the question. "": the question itself.
        task: "answer": answer the question from the passages. "rewrite": rewrite the question so that it can be understood without the history; then there
            are no passages, and the generation's text is the question.
        passages: whole passages that fit the token budget, best first; "[n]" counts them from 1.
        history: earlier turns, oldest first.
        instructions: instructions that the caller gives for every answer.
        max_tokens: limit of the answer's length, in tokens. None: the generator's default.
        max_tokens_from: where the limit comes from: the "call", or the "settings". A generator's own limit overrides that of the settings.
        temperature: temperature for this call. None: the generator's default.
        stop: texts at which the answer ends; they are not part of it.
        left_out: number of passages that did not fit the token budget.
        schema: the JSON schema of the answer's data; None: the answer is only a text. `render` puts it into the messages.
        rejected: the model's last reply, which did not fit the schema, and its mistakes; None: this is the first request.
    """

    question: str
    _: KW_ONLY
    query: str = ""
    task: Literal["answer", "rewrite"] = "answer"
    passages: tuple[Passage, ...] = ()
    history: tuple[Turn, ...] = ()
    instructions: str = ""
    max_tokens: int | None = None
    max_tokens_from: Literal["call", "settings"] = "call"
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    left_out: int = 0
    schema: Mapping[str, Any] | None = field(default=None, hash=False)
    rejected: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Generation(Value):
    """The output of a generator.

    Attributes:
        text: the answer, with citations as "[n]" that count the prompt's passages from 1; "" if the passages don't answer the question.
        finish_reason: "stop" if the text ended by itself, "length" if it was cut off, …
        complete: False if the text was cut off or filtered.
        model: name of the model that generated the text.
        usage: tokens, if the model reports them.
        request_id: id that the dependency gave to the request; None if it gave none.
        reasoning: the model's reasoning before the answer, if it returns any. Do not show it to tenants.
        quotations: (start, end) of each part that is copied word for word from a passage. A "[n]" in such a part is not a citation. None: unknown;
            ragcore then searches for such parts itself.
        degraded: generators that failed before this one answered.
        spent: (model, usage) of the generators that failed, if they reported it.
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
