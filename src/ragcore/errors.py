"""Every error that ragcore raises, one tree.

RagcoreError
├── InvalidInput (ValueError)          the request is at fault; nothing was sent
├── ConfigurationError                 a setting, a role, a schema or an extra is at fault
│   └── Unsupported                    a store or model can't do what was asked
├── NotOpen                            before start, after close, in a forked child
├── WrongEventLoop                     made on one event loop, used on another
├── DeadlineExceeded (TimeoutError)    the caller's time is used up
├── CircuitOpen                        the dependency is known to be failing; it was not asked
├── Overloaded                         no room, or no chance within the deadline
│   └── LimitExceeded                  a tenant has used up what it may
└── DependencyError                    the dependency failed; its own error is `__cause__`
    ├── EmbeddingError
    ├── StoreError
    └── GenerationError

A message says what happened, with which numbers, and what to do, and never holds a key, a password or a DSN. All pickle.
"""

from __future__ import annotations

from typing import Any

from ragcore.value import Timings

__all__ = [
    "CircuitOpen",
    "ConfigurationError",
    "DeadlineExceeded",
    "DependencyError",
    "EmbeddingError",
    "GenerationError",
    "InvalidInput",
    "LimitExceeded",
    "NotOpen",
    "Overloaded",
    "RagcoreError",
    "StoreError",
    "Unsupported",
    "WrongEventLoop",
]


class RagcoreError(Exception):
    """The root of all errors that ragcore raises.

    Attributes:
        stage: where in the call it happened: "embed", "search", "generate", "write", "start", …; None where no stage fits.
        retry_after: seconds after which another try makes sense; None where unknown.
        partial_text: what a stream had handed on before it broke; "" elsewhere.
        call_id: the id of the call, as `RAG.recent()` lists it; None outside of a call.
    """

    def __init__(
        self,
        message: str,
        /,
        *,
        stage: str | None = None,
        retry_after: float | None = None,
        partial_text: str = "",
        call_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.stage = stage
        self.retry_after = retry_after
        self.partial_text = partial_text
        self.call_id = call_id

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[RagcoreError], args: tuple[object, ...], state: dict[str, object]) -> RagcoreError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InvalidInput(RagcoreError, ValueError):
    """The request itself is at fault: an empty question, a blank tenant, a wrong dimension. Raised before anything is sent."""


class ConfigurationError(RagcoreError):
    """A setting, a role, a schema or a missing extra: which it is, what it was, and what would be right."""


class Unsupported(ConfigurationError):
    """A store or model can't do what was asked (a mode, a filter). Never ignored silently."""


class NotOpen(RagcoreError):
    """Used before `start`, after `aclose`, or in a forked child of the process that started it."""


class WrongEventLoop(RagcoreError):
    """Started on one event loop and used on another."""


class DeadlineExceeded(RagcoreError, TimeoutError):
    """The caller's time is used up.

    Attributes:
        budget: seconds that were allowed.
        elapsed: seconds that passed.
        timings: seconds by stage so far; None for stages that did not run, and outside of `RAG`.
    """

    timings: Timings

    def __init__(
        self,
        message: str,
        /,
        *,
        budget: float,
        elapsed: float,
        timings: Timings | None = None,
        stage: str | None = None,
        retry_after: float | None = None,
        partial_text: str = "",
        call_id: str | None = None,
    ) -> None:
        super().__init__(message, stage=stage, retry_after=retry_after, partial_text=partial_text, call_id=call_id)
        self.budget = budget
        self.elapsed = elapsed
        self.timings = Timings() if timings is None else timings


class CircuitOpen(RagcoreError):
    """The circuit breaker of a dependency is open: it failed lately and was not asked. `retry_after` says when it will be."""

    def __init__(
        self, message: str, /, *, dependency: str, stage: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, stage=stage, retry_after=retry_after)
        self.dependency = dependency


class Overloaded(RagcoreError):
    """The queue is full, or the call had no chance within its deadline. Raised at once, never degraded away."""

    def __init__(
        self, message: str, /, *, dependency: str, stage: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, stage=stage, retry_after=retry_after)
        self.dependency = dependency


class LimitExceeded(Overloaded):
    """A tenant has used up what it may: `retry_after` says when it may again. Nothing was sent.

    Attributes:
        limit: "requests" or "tokens" a minute, "calls" at once, "spending" a day.
    """

    def __init__(self, message: str, /, *, limit: str, retry_after: float) -> None:
        super().__init__(message, dependency="quota", retry_after=retry_after)
        self.limit = limit


class DependencyError(RagcoreError):
    """A dependency failed. The foreign error is `__cause__`.

    Attributes:
        dependency: its name, for example "openai embeddings".
        attempts: how many times it was asked.
        status: the HTTP status, where there was one.
        request_id: the dependency's own id of the request, where it sent one.
        of_configuration: every request would fail like this one: the key, the model's name, a parameter or the quota is at fault.
    """

    def __init__(
        self,
        message: str,
        /,
        *,
        dependency: str = "",
        attempts: int = 1,
        status: int | None = None,
        request_id: str | None = None,
        of_configuration: bool = False,
        stage: str | None = None,
        retry_after: float | None = None,
        partial_text: str = "",
        call_id: str | None = None,
    ) -> None:
        super().__init__(message, stage=stage, retry_after=retry_after, partial_text=partial_text, call_id=call_id)
        self.dependency = dependency
        self.attempts = attempts
        self.status = status
        self.request_id = request_id
        self.of_configuration = of_configuration


class EmbeddingError(DependencyError):
    """The embedder failed, or answered with something that is not an embedding."""


class StoreError(DependencyError):
    """The store failed, in search or in writing."""


class GenerationError(DependencyError):
    """The generator failed, or its stream broke; `partial_text` holds what was handed on before.

    Attributes:
        model: that failed, as it is called in a price table; "" where that is not known.
        used_tokens: of the prompt and of what it wrote, where the model said that it has used them; None: it did not say.
    """

    model: str = ""
    used_tokens: tuple[int, int] | None = None
