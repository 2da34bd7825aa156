"""The application's OpenAPI document (3.1)."""

from __future__ import annotations

from typing import Any

__all__ = ["document"]


def document(*, max_question: int) -> dict[str, Any]:
    """The document, with the application's own limit in it."""
    question = {"type": "string", "minLength": 1, "maxLength": max_question, "examples": ["What is my warranty?"]}
    turn = _object({"role": {"enum": ["user", "assistant"]}, "content": {"type": "string"}}, "role", "content")
    chat = {
        **_object({"message": question, "history": {"type": ["array", "null"], "items": turn}}, "message"),
        "additionalProperties": False,
    }
    roles = ["system", "developer", "user", "assistant"]
    message = _object({"role": {"enum": roles}, "content": {"type": "string"}}, "role", "content")
    completions = _object(
        {
            "model": {"type": "string"},
            "messages": {"type": "array", "minItems": 1, "items": message},
            # As OpenAI's programs send it: what is not understood here is left out.
            "stream": {},
            "stream_options": {},
            "n": {"enum": [1, None]},
        },
        "messages",
    )
    similarity = [
        {"name": "user_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},
        {"name": "query", "in": "query", "required": True, "schema": question},
        {"name": "threshold", "in": "query", "schema": {"type": "number", "minimum": -1, "maximum": 1}},
    ]
    return {
        "openapi": "3.1.0",
        "info": {"title": "ragcore", "version": "1", "description": "Questions over one's own documents."},
        "security": [{"bearer": []}],
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": _problem(), "OpenAIProblem": _openai_problem()},
        },
        "paths": {
            "/livez": {"get": {**_operation("Whether the process is alive."), "security": []}},
            "/readyz": {"get": {**_operation("Whether it can answer.", unavailable=True), "security": []}},
            "/health": {
                "get": {
                    **_operation("What works and what doesn't.", unavailable=True),
                    "security": [{}, {"bearer": []}],
                }
            },
            "/openapi.json": {"get": _operation("This document.")},
            "/chat": {"post": {**_operation("Ask a question.", asks=True), "requestBody": _json(chat)}},
            "/v1/chat/completions": {
                "post": {
                    **_operation("Ask in OpenAI's protocol.", asks=True, problem="OpenAIProblem"),
                    "requestBody": _json(completions),
                }
            },
            "/v1/models": {"get": _operation("The one model.", problem="OpenAIProblem")},
            "/v1/models/ragcore": {"get": _operation("It alone.", problem="OpenAIProblem")},
            "/debug/inflight": {"get": _operation("Calls under way, of an administrator's all, else one's own.")},
            "/debug-env": {"get": _operation("What it is made of, for administrators.", forbidden=True)},
            "/debug/rag-similarity/{user_id}": {
                "post": {
                    **_operation("Why a question finds what it finds.", asks=True, forbidden=True),
                    "parameters": similarity[:1],
                    "requestBody": _json(
                        {
                            **_object(
                                {
                                    "query": question,
                                    "threshold": {"type": ["number", "null"], "minimum": -1, "maximum": 1},
                                },
                                "query",
                            ),
                            "additionalProperties": False,
                        }
                    ),
                },
                "get": {
                    **_operation(
                        "The same for administrators, with the question in the address.", asks=True, forbidden=True
                    ),
                    "parameters": similarity,
                },
            },
        },
    }


def _operation(
    summary: str, *, asks: bool = False, forbidden: bool = False, unavailable: bool = False, problem: str = "Problem"
) -> dict[str, Any]:
    statuses = {"401": "Not authenticated."}
    if asks:
        statuses |= {
            "400": "The question or the body is at fault.",
            "408": "The body did not come in time.",
            "413": "The body is too large.",
            "415": "The body is packed in another way than gzip or deflate.",
            "429": "No room; Retry-After says when.",
            "503": "A dependency is down; Retry-After says when, where it is known.",
            "504": "Out of time.",
        }
    if forbidden:
        statuses["403"] = "Not one's own."
        statuses["405"] = "This method is for administrators."
    refused = {
        status: {
            "description": text,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{problem}"}}},
        }
        for status, text in statuses.items()
    }
    if unavailable:
        refused["503"] = {"description": "It can't.", "content": {"application/json": {"schema": {"type": "object"}}}}
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if asks:
        content["text/event-stream"] = {}
    return {"summary": summary, "responses": {"200": {"description": "Done.", "content": content}, **refused}}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _problem() -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    properties = {
        "error": {"type": "string"},
        "message": {"type": "string"},
        "stage": text,
        "call_id": text,
    }
    return _object(properties, "error", "message")


def _openai_problem() -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    error = {"message": {"type": "string"}, "type": text, "param": text, "code": text}
    return _object({"error": _object(error, "message", "type")}, "error")
