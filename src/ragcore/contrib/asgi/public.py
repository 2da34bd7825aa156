"""Removes the values that a tenant may not see: addresses, settings, counts of other tenants."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

from ragcore.errors import (
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    EmbeddingError,
    GenerationError,
    InvalidInput,
    LimitExceeded,
    NotOpen,
    Overloaded,
    RagcoreError,
    RerankingError,
    StoreError,
)
from ragcore.types import Answer, CallInfo, Degradation, EmptyReason, Health, SimilarityReport
from ragcore.value import Value

__all__ = ["FULL", "INTERNAL", "has_internal_details", "public", "public_message"]

FULL = "too many questions at once; try again in a moment"
INTERNAL = "internal error; see the service's log"
NO_DOCUMENTS = "you have no documents yet"
NO_SEARCH = "semantic search is temporarily unavailable"
NO_RERANKING = "the results could not be sorted by relevance; they have the order of the search"
NO_REWRITING = "the model that rewrites questions is temporarily unavailable"
NO_ANSWER = "the model that writes answers is temporarily unavailable"


def public(value: Value, /) -> dict[str, Any]:
    """Return an answer, a retrieval, a report or an event as JSON-ready values that its tenant may see.

    `to_dict()` is only for operators. The reason for an empty result contains the number of chunks of all tenants, and the reason for a degraded answer
    contains the message of an error, with addresses. This function replaces both with general messages.

    Examples:
        ```python
        return JSONResponse(asgi.public(await me.ask(message)))
        ```
    """
    shown: dict[str, Any] = _cleared(value).to_dict()
    return shown


def has_internal_details(error: RagcoreError) -> bool:
    """Return whether the error's message may contain internal details. Such messages are logged for operators, and not shown to tenants."""
    return not isinstance(error, InvalidInput | Overloaded | CircuitOpen | DeadlineExceeded)


def public_message(error: RagcoreError) -> str:
    """Return a message for a tenant, without internal details."""
    if isinstance(error, InvalidInput) and error.stage not in ("search", "write"):
        return str(error)
    again = "later" if error.retry_after is None else f"in {math.ceil(error.retry_after)} s"
    match error:
        case StoreError():
            return f"the documents are temporarily unavailable; try again {again}"
        case EmbeddingError():
            return f"{NO_SEARCH}; try again {again}"
        case RerankingError():
            return f"the results can't be sorted by relevance at the moment; try again {again}"
        case GenerationError():
            return f"{NO_ANSWER}; try again {again}"
        case InvalidInput():
            return "the question or the document contains data that the database rejects"
        case DeadlineExceeded():
            return f"there was no answer within {error.budget:g} s; try again {again}"
        case LimitExceeded():
            return str(error)
        case Overloaded():
            return FULL if error.retry_after is None else f"too many questions at once; try again {again}"
        case CircuitOpen():
            return f"a part of the service is temporarily unavailable; try again {again}"
        case NotOpen():
            return f"the service is starting or closing; try again {again}"
        case ConfigurationError():
            return "the service is misconfigured; see its log"
    return INTERNAL


def _cleared(value: Any) -> Any:
    match value:
        case EmptyReason(code="no_chunks"):
            return replace(value, store_chunks=None, message=NO_DOCUMENTS)
        case Degradation(stage=stage):
            return replace(
                value,
                error="",
                reason={"generate": NO_ANSWER, "rerank": NO_RERANKING, "rewrite": NO_REWRITING}.get(stage, NO_SEARCH),
            )
        case SimilarityReport(chunks=0):
            return replace(value, retrieval=_cleared(value.retrieval), verdict=NO_DOCUMENTS)
        case Health():
            return replace(value, details={})
        case CallInfo():
            return replace(value, waiting_on=None)
        case Answer(request_ids=ids) if ids:
            return _cleared(replace(value, request_ids=()))
        case Exception():  # of a result of `ask_many`
            return RagcoreError(public_message(value) if isinstance(value, RagcoreError) else INTERNAL)
        case tuple():
            return tuple(map(_cleared, value))
        case Value():
            parts = {field.name: getattr(value, field.name) for field in fields(value)}  # type: ignore[arg-type]
            return replace(value, **{name: _cleared(part) for name, part in parts.items()})  # type: ignore[type-var]
    return value
