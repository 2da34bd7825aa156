"""The name, the kind and the attributes of the span for each kind of operation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from opentelemetry.trace import SpanKind

from ragcore.contrib.otel import conventions as names
from ragcore.generation.prompt import render
from ragcore.lifecycle.operations import Operation
from ragcore.types import Generation, Passage, Prompt

__all__ = ["Attributes", "Beginning", "beginning_of", "ending_of"]

Attributes: TypeAlias = dict[str, str | bool | int | float | Sequence[str]]

# The methods that answer a question: a workflow in the words of the conventions.
ANSWERS = ("ask", "stream")


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a span is made of. Samplers see all of it."""

    name: str
    kind: SpanKind
    attributes: Attributes


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
    collection = _collection(store)
    attributes: Attributes = {
        names.OPERATION: names.RETRIEVAL,
        names.PROVIDER: "ragcore",
        names.DATA_SOURCE: collection,
        names.TOP_K: plan.top_k,
        names.MODE: plan.mode,
    }
    kind = _served(store, attributes)
    if content:
        attributes[names.QUERY_TEXT] = plan.searched
    return Beginning(f"{names.RETRIEVAL} {collection}", kind, attributes)


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
    attributes: Attributes = {names.OPERATION: operation, names.REQUEST_MODEL: model}
    kind = _served(component, attributes)
    attributes[names.PROVIDER] = _provider(attributes.get(names.SERVER_ADDRESS), own=kind is SpanKind.INTERNAL)
    return Beginning(f"{operation} {model}", kind, {**attributes, **more})


def _served(component: object, attributes: Attributes) -> SpanKind:
    """Add the server's address. Return the kind of the span: a component of ragcore without a server works in this process."""
    match getattr(component, "server", None):
        case (str(host), int() | None as port):
            attributes[names.SERVER_ADDRESS] = host
            if port is not None:
                attributes[names.SERVER_PORT] = port
        case _ if type(component).__module__.startswith("ragcore."):
            return SpanKind.INTERNAL
    return SpanKind.CLIENT


def _provider(host: object, *, own: bool) -> str:
    if own:
        return "ragcore"
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
