"""The application's OpenAPI document (3.1)."""

from __future__ import annotations

from typing import Any

__all__ = ["document"]


# The routes that an application without the console doesn't have.
CONSOLE = ("/debug/console", "/debug/ask")


def document(*, max_question: int, console: bool = True) -> dict[str, Any]:
    """Return the document, with the application's limit for a question.

    Args:
        console: whether the application has the console.
    """
    paths = _paths(max_question)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ragcore", "version": "1", "description": "Answers questions from a tenant's documents."},
        "security": [{"bearer": []}],
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": _problem(), "OpenAIProblem": _openai_problem()},
        },
        "paths": {path: operations for path, operations in paths.items() if console or path not in CONSOLE},
    }


def _paths(max_question: int) -> dict[str, Any]:
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
            # As in OpenAI's protocol, any value is allowed, and unknown values are ignored.
            "stream": {},
            "stream_options": {},
            "n": {"enum": [1, None]},
        },
        "messages",
    )
    threshold = {"type": ["number", "null"], "minimum": -1, "maximum": 1}
    similarity = [
        {"name": "user_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},
        {"name": "query", "in": "query", "required": True, "schema": question},
        {"name": "threshold", "in": "query", "schema": {"type": "number", "minimum": -1, "maximum": 1}},
    ]
    return {
        "/livez": {"get": {**_operation("Check whether the process is alive."), "security": []}},
        "/readyz": {
            "get": {
                **_operation("Check whether the service can answer questions.", unavailable=True),
                "security": [],
            }
        },
        "/health": {
            "get": {
                **_operation("Return the status of the service and of its parts.", unavailable=True),
                "security": [{}, {"bearer": []}],
            }
        },
        "/openapi.json": {"get": _operation("Return this document.")},
        "/chat": {"post": {**_operation("Ask a question.", asks=True), "requestBody": _json(chat)}},
        "/v1/chat/completions": {
            "post": {
                **_operation("Ask a question in OpenAI's protocol.", asks=True, problem="OpenAIProblem"),
                "requestBody": _json(completions),
            }
        },
        "/v1/models": {"get": _operation("List the models. There is one, ragcore.", problem="OpenAIProblem")},
        "/v1/models/ragcore": {"get": _operation("Describe the model ragcore.", problem="OpenAIProblem")},
        "/debug/console": {
            "get": {
                **_operation("Return the console, a page for administrators.", content="text/html"),
                "security": [],
            }
        },
        "/debug/status": {
            "get": _operation(
                "Return the state of queues, breakers, pools and calls. Only administrators may use it.",
                forbidden=True,
            )
        },
        "/debug/ask": {
            "post": {
                **_operation(
                    "Ask a question about a tenant's documents. Only administrators may use it.",
                    asks=True,
                    forbidden=True,
                ),
                "requestBody": _json(
                    {
                        **_object(
                            {"message": question, "tenant": {"type": "string", "minLength": 1}, "threshold": threshold},
                            "message",
                            "tenant",
                        ),
                        "additionalProperties": False,
                    }
                ),
            }
        },
        "/debug/inflight": {
            "get": _operation(
                "List running calls: all calls for administrators, the calls of their own tenant for other callers."
            )
        },
        "/debug-env": {
            "get": _operation("Return versions, settings and database. Only administrators may use it.", forbidden=True)
        },
        "/debug/rag-similarity/{user_id}": {
            "post": {
                **_operation("Report how near a tenant's chunks are to a question.", asks=True, forbidden=True),
                "parameters": similarity[:1],
                "requestBody": _json(
                    {
                        **_object(
                            {"query": question, "threshold": threshold},
                            "query",
                        ),
                        "additionalProperties": False,
                    }
                ),
            },
            "get": {
                **_operation(
                    "Return the same report, with the question in the URL. Only administrators may use it.",
                    asks=True,
                    forbidden=True,
                ),
                "parameters": similarity,
            },
        },
    }


def _operation(
    summary: str,
    *,
    asks: bool = False,
    forbidden: bool = False,
    unavailable: bool = False,
    problem: str = "Problem",
    content: str = "application/json",
) -> dict[str, Any]:
    statuses = {"401": "Not authenticated."}
    if asks:
        statuses |= {
            "400": "The question or the body is invalid.",
            "408": "The body did not arrive in time.",
            "413": "The body is too large.",
            "415": "The body's type or encoding is not supported.",
            "429": "A limit is reached; Retry-After gives the seconds until the next attempt.",
            "503": "A dependency is down; Retry-After gives the seconds until the next attempt, if they are known.",
            "504": "The deadline has passed.",
        }
    if forbidden:
        statuses["403"] = "Only administrators may query another tenant."
        statuses["405"] = "Only administrators may use this method."
    refused = {
        status: {
            "description": text,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{problem}"}}},
        }
        for status, text in statuses.items()
    }
    if unavailable:
        refused["503"] = {
            "description": "Service unavailable.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    contents: dict[str, Any] = {content: {"schema": {"type": "object"}} if content == "application/json" else {}}
    if asks:
        contents["text/event-stream"] = {}
    return {"summary": summary, "responses": {"200": {"description": "Done.", "content": contents}, **refused}}


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
