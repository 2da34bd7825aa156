"""The types of the rows in the table of providers. Each row has the server's replies and the expected result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SSE = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One HTTP response, byte for byte."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: SSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """An answer of a chat model.

    Attributes:
        quirk: a short description, unique for the provider.
        source: the page that documents this shape, or where it was observed.
        replies: the first request gets the first reply; a request without the refused parameter gets the next.
        text: the answer; "" if the model said NOT_FOUND; None if the request fails.
        reasoning: the model's thinking, between tags in the text or in a separate field.
        error: text that the error's message must contain, usually the server's own words.
        adapts: parameters that the last request must not have.
    """

    provider: str
    quirk: str
    source: str
    replies: tuple[Reply, ...]
    text: str | None = None
    finish_reason: str = "stop"
    complete: bool = True
    reasoning: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str | None = None
    adapts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed:
    """Vectors of four dimensions for the texts "a" and "b". Its attributes are those of `Chat`."""

    provider: str
    quirk: str
    source: str
    replies: tuple[Reply, ...]
    vectors: tuple[tuple[float, ...], ...] | None = None
    error: str | None = None
    adapts: tuple[str, ...] = ()
