"""The two sides of a rollout: clients, or functions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

from ragcore.client.stream import AnswerStream
from ragcore.errors import ConfigurationError, Unsupported

__all__ = ["Asking", "Callee", "Implementation", "Streaming"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@runtime_checkable
class Asking(Protocol[T_co]):
    """A client that answers questions, such as `RAG`."""

    @property
    def ask(self) -> Callable[..., Awaitable[T_co]]:
        """Answers a question: `await ask(question, tenant=…, timeout=…, …)`."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A client that streams answers, such as `RAG`."""

    @property
    def stream(self) -> Callable[..., AbstractAsyncContextManager[AnswerStream]]:
        """Streams the answer to a question: `async with stream(question, tenant=…, timeout=…, …)`."""
        ...


# A function gets the arguments of `RAG.ask`: `await function(question, tenant=…, timeout=…, …)`.
Implementation: TypeAlias = Asking[T] | Callable[..., Awaitable[T]]


class Callee(Generic[T]):
    """One side of a rollout: calls its client or its function."""

    def __init__(self, given: Implementation[T], name: str) -> None:
        self.given = given
        self.name = name
        ask = getattr(given, "ask", given)
        if not callable(ask):
            raise ConfigurationError(
                f"{name} is a {type(given).__name__}: it must be a client with ask(), or a coroutine function"
            )
        self.ask = cast("Callable[..., Awaitable[T]]", ask)

    def stream(self, question: str, **options: Any) -> AbstractAsyncContextManager[AnswerStream]:
        """Enter a stream of the client.

        Raises:
            Unsupported: this side is a function, or a client without `stream`.
        """
        if not isinstance(self.given, Streaming):
            raise Unsupported(
                f"the {self.name} side of this rollout has no stream(): use a client on both sides, or ask()"
            )
        return self.given.stream(question, **options)
