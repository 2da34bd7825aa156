"""The name, the kind and the attributes of the span for each kind of operation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from opentelemetry.trace import SpanKind

from ragcore.contrib.otel import conventions as names
from ragcore.generation.prompt import render
from ragcore.lifecycle.operations import Operation
from ragcore.types import Generation, Passage, Prompt

__all__ = ["Attributes", "Beginning", "Labels", "beginning_of", "ending_of"]

Attributes: TypeAlias = dict[str, str | bool | int | float | Sequence[str]]
Labels: TypeAlias = Mapping[str, str | int]

# The methods that answer a question: a workflow in the words of the conventions.
ANSWERS = ("ask", "stream")


class Beginning(NamedTuple):
    """What a span is made of. Samplers see all of it.

    Attributes:
        labels: the attributes that the metrics of a model have as well: operation, provider, model and server. None: the operation is not measured. All
            operations on one model share the object.
    """

    name: str
    kind: SpanKind
    attributes: Attributes
    labels: Labels | None = None


def beginning_of(operation: Operation, *, content: bool) -> Beginning:
    """Return what a span is made of.

    Args:
        content: whether texts and the tenant are shown.
    """
    return _BEGINNINGS[operation.kind](operation.about, content)


def ending_of(operation: Operation, *, content: bool) -> Attributes:
    """Return the attributes that are known at the end."""
    attributes: Attributes = {}
    if operation.error is not None:
        attributes[names.ERROR_TYPE] = operation.error
    if operation.status is not None:
        attributes[names.STATUS_CODE] = operation.status
    _ENDINGS[operation.kind](operation.found, attributes, content)
    return attributes


def _call(about: Mapping[str, Any], content: bool) -> Beginning:
    method = about["method"]
    attributes: Attributes = {names.METHOD: method, names.CALL_ID: about["id"]}
    if content:
        attributes[names.TENANT] = about["tenant"]
    if method not in ANSWERS:
        return Beginning(f"ragcore {method}", SpanKind.INTERNAL, attributes)
    attributes |= {names.OPERATION: names.WORKFLOW, names.AGENT: f"ragcore.{method}"}
    return Beginning(f"{names.WORKFLOW} ragcore.{method}", SpanKind.INTERNAL, attributes)


def _call_ended(found: Mapping[str, Any], attributes: Attributes, content: bool) -> None:
    attributes |= {names.OUTCOME: found["outcome"], names.STAGE: found["stage"]}
    if found["degraded"]:
        attributes[names.DEGRADED] = found["degraded"]
    if found["finish_reason"]:
        attributes[names.FINISH_REASONS] = (found["finish_reason"],)


def _embed(about: Mapping[str, Any], content: bool) -> Beginning:
    embedder = about["component"]
    return _of_model(names.EMBEDDINGS, embedder, embedder.model, {names.DIMENSIONS: embedder.dimension})


def _embed_ended(found: Mapping[str, Any], attributes: Attributes, content: bool) -> None:
    if found.get("input_tokens") is not None:
        attributes[names.INPUT_TOKENS] = found["input_tokens"]


def _search(about: Mapping[str, Any], content: bool) -> Beginning:
    store, plan = about["component"], about["plan"]
    name, kind, labels = _subject(names.RETRIEVAL, names.DATA_SOURCE, _collection(store), *_served(store))
    attributes: Attributes = {**labels, names.TOP_K: plan.top_k, names.MODE: plan.mode}
    if content:
        attributes[names.QUERY_TEXT] = plan.searched
    return Beginning(name, kind, attributes)


def _search_ended(found: Mapping[str, Any], attributes: Attributes, content: bool) -> None:
    passages: Sequence[Passage] | None = found.get("passages")
    if passages is None:
        return
    attributes[names.PASSAGES] = len(passages)
    if content:
        listed = [
            {"id": passage.chunk_id, "score": passage.score, "content": passage.text, "title": passage.title}
            for passage in passages
        ]
        attributes[names.DOCUMENTS] = json.dumps(listed, ensure_ascii=False)


def _rerank(about: Mapping[str, Any], content: bool) -> Beginning:
    reranker = about["component"]
    return _of_model(names.RERANK, reranker, reranker.model, {names.CANDIDATES: about["candidates"]})


def _generate(about: Mapping[str, Any], content: bool) -> Beginning:
    prompt: Prompt = about["prompt"]
    attributes: Attributes = {names.REQUEST_STREAM: True}
    if prompt.max_tokens is not None:
        attributes[names.REQUEST_MAX_TOKENS] = prompt.max_tokens
    if prompt.temperature is not None:
        attributes[names.REQUEST_TEMPERATURE] = prompt.temperature
    if prompt.schema is not None:
        attributes[names.OUTPUT_TYPE] = "json"
    if content:
        system, *messages = render(prompt)
        attributes[names.SYSTEM_INSTRUCTIONS] = json.dumps([_part(system["content"])], ensure_ascii=False)
        attributes[names.INPUT_MESSAGES] = _messages(messages)
        if prompt.stop:
            attributes[names.REQUEST_STOP] = prompt.stop
    return _of_model(names.CHAT, about["component"], about["model"], attributes)


def _generate_ended(found: Mapping[str, Any], attributes: Attributes, content: bool) -> None:
    if "first" in found:
        attributes[names.FIRST_CHUNK] = found["first"]
    generation: Generation | None = found.get("generation")
    if generation is None:
        return
    attributes[names.FINISH_REASONS] = (generation.finish_reason,)
    if generation.model:
        attributes[names.RESPONSE_MODEL] = generation.model
    for name, tokens in (
        (names.INPUT_TOKENS, generation.usage.prompt_tokens),
        (names.OUTPUT_TOKENS, generation.usage.completion_tokens),
    ):
        if tokens is not None:
            attributes[name] = tokens
    if content:
        answer = {"role": "assistant", "content": generation.text}
        attributes[names.OUTPUT_MESSAGES] = _messages([answer], finish_reason=generation.finish_reason)


def _nothing(found: Mapping[str, Any], attributes: Attributes, content: bool) -> None:
    """Add nothing."""


def _of_model(operation: str, component: object, model: str, more: Attributes) -> Beginning:
    name, kind, labels = _subject(operation, names.REQUEST_MODEL, model, *_served(component))
    return Beginning(name, kind, {**labels, **more}, labels)


@lru_cache(maxsize=256)
def _subject(
    operation: str, named: str, name: str, host: str | None, port: int | None, own: bool
) -> tuple[str, SpanKind, Labels]:
    """Return what all operations on a model or a collection have in common. It is computed once, because each call has several spans.

    Args:
        named: the attribute that has the name.
        own: whether a component of ragcore does the work in this process.
    """
    provider = "ragcore" if own or named == names.DATA_SOURCE else _provider(host)
    labels: dict[str, str | int] = {names.OPERATION: operation, names.PROVIDER: provider, named: name}
    if host is not None:
        labels[names.SERVER_ADDRESS] = host
    if port is not None:
        labels[names.SERVER_PORT] = port
    return f"{operation} {name}", SpanKind.INTERNAL if own else SpanKind.CLIENT, labels


def _served(component: object) -> tuple[str | None, int | None, bool]:
    """Return the server's host and port, and whether a component of ragcore works in this process, without a server."""
    server = getattr(component, "server", None)
    if server is not None:
        match server:
            case (str(host), int() | None as port):
                return host, port, False
    return None, None, type(component).__module__.startswith("ragcore.")


def _provider(host: str | None) -> str:
    name = f".{host}"
    return next((provider for end, provider in names.PROVIDERS.items() if name.endswith(f".{end}")), "openai")


def _collection(store: object) -> str:
    """Return the name of the store's collection: its schema, else its class."""
    schema = getattr(store, "schema", None)
    return schema if isinstance(schema, str) else type(getattr(store, "searcher", store)).__name__


def _messages(messages: Sequence[Mapping[str, str]], **more: str) -> str:
    listed = [{"role": one["role"], "parts": [_part(one["content"])], **more} for one in messages]
    return json.dumps(listed, ensure_ascii=False)


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "content": text}


_BEGINNINGS: dict[str, Callable[[Mapping[str, Any], bool], Beginning]] = {
    "call": _call,
    "embed": _embed,
    "search": _search,
    "rerank": _rerank,
    "generate": _generate,
}
_ENDINGS: dict[str, Callable[[Mapping[str, Any], Attributes, bool], None]] = {
    "call": _call_ended,
    "embed": _embed_ended,
    "search": _search_ended,
    "rerank": _nothing,
    "generate": _generate_ended,
}
