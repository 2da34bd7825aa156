"""What a row of the table of providers is: what the server sends, and what must come out."""

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
        quirk: a few plain words, unique with the provider.
        source: where this shape is documented or was seen.
        replies: the first request gets the first; a request without the parameter that was refused gets the next.
        text: the answer; "" if the model said NOT_FOUND; None where it fails.
        reasoning: its thinking, between tags in the text or in a field of its own.
        error: what the error's message must hold, as a rule in the server's own words.
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
    """Vectors of four dimensions for the texts "a" and "b"; otherwise as `Chat`."""

    provider: str
    quirk: str
    source: str
    replies: tuple[Reply, ...]
    vectors: tuple[tuple[float, ...], ...] | None = None
    error: str | None = None
    adapts: tuple[str, ...] = ()
