"""All errors that ragcore raises, as one tree of classes.

RagcoreError
├── InvalidInput (ValueError)          an argument is invalid; nothing was sent
├── ConfigurationError                 a setting, a role or a schema is wrong, or an extra is missing
│   └── Unsupported                    the store or the model does not support the operation
├── NotOpen                            used before start, after close or in a forked child
├── WrongEventLoop                     started on one event loop, used on another
├── DeadlineExceeded (TimeoutError)    the deadline of the call passed
├── CircuitOpen                        the dependency failed recently; nothing was sent
├── Overloaded                         the queue is full, or the call can't finish by its deadline
│   └── LimitExceeded                  a tenant has reached one of its limits
└── DependencyError                    the dependency failed; its own error is `__cause__`
    ├── EmbeddingError
    ├── StoreError
    ├── RerankingError
    └── GenerationError
        └── InvalidAnswer              the reply does not fit the schema of the call

A message says what happened, with which numbers, and what to do. It never contains a key, a password or a DSN. All errors can be pickled.
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
    "InvalidAnswer",
    "InvalidInput",
    "LimitExceeded",
    "NotOpen",
    "Overloaded",
    "RagcoreError",
    "RerankingError",
    "StoreError",
    "Unsupported",
    "WrongEventLoop",
]


class RagcoreError(Exception):
    """The root of all errors that ragcore raises.

    Attributes:
        stage: the stage in which the error occurred: "embed", "search", "rerank", "generate", "write", "start", …; None if no stage applies.
        retry_after: seconds to wait before the next try; None if unknown.
        partial_text: the text that a stream delivered before it broke; "" for other errors.
        call_id: the id of the call, as `RAG.recent()` lists it; None outside a call.
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
    """An argument is invalid, for example an empty question, a blank tenant or a wrong dimension. The error is raised before a request is sent."""


class ConfigurationError(RagcoreError):
    """A setting, a database role or a schema is wrong, or an extra is missing. The message names the problem, the current value and the correct one."""


class Unsupported(ConfigurationError):
    """The store or the model does not support what was requested, for example a mode or a filter. ragcore never ignores such a request silently."""


class NotOpen(RagcoreError):
    """A component was used before `start`, after `aclose`, or in a forked child of the process that started it."""


class WrongEventLoop(RagcoreError):
    """A component was started on one event loop and used on another."""


class DeadlineExceeded(RagcoreError, TimeoutError):
    """The deadline of the call passed before there was a result.

    Attributes:
        budget: seconds that were allowed.
        elapsed: seconds that passed.
        timings: seconds by stage so far; None for stages that did not run, and outside `RAG`.
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
    """The circuit breaker refused the call because the dependency failed recently. Nothing was sent.

    It is also raised if the dependency asked for a pause (`Retry-After`) that is longer than the call can wait.

    Attributes:
        dependency: its name.
        retry_after: seconds until the dependency may be called again; None if unknown.
    """

    def __init__(
        self, message: str, /, *, dependency: str, stage: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, stage=stage, retry_after=retry_after)
        self.dependency = dependency


class Overloaded(RagcoreError):
    """The queue is full, or the call can't finish by its deadline. It is raised as soon as this is known. By default ragcore does not degrade the call.

    Attributes:
        dependency: its name.
    """

    def __init__(
        self, message: str, /, *, dependency: str, stage: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, stage=stage, retry_after=retry_after)
        self.dependency = dependency


class LimitExceeded(Overloaded):
    """A tenant has reached one of its limits. Nothing was sent.

    Attributes:
        limit: "requests" or "tokens" per minute, "calls" at once, "spending" per day.
        retry_after: seconds until the tenant is below the limit again.
    """

    def __init__(self, message: str, /, *, limit: str, retry_after: float) -> None:
        super().__init__(message, dependency="quota", retry_after=retry_after)
        self.limit = limit


class DependencyError(RagcoreError):
    """A dependency failed. `__cause__` is the dependency's own error.

    Attributes:
        dependency: its name, for example "openai embeddings".
        attempts: how many attempts were made.
        status: the HTTP status; None if there was none.
        request_id: the dependency's own id of the request; None if it sent none.
        of_configuration: whether every request would fail in this way, because the key, the model's name, a parameter or the quota is wrong.
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
    """The embedder failed, or returned an invalid embedding."""


class StoreError(DependencyError):
    """The store failed while it searched or wrote."""


class RerankingError(DependencyError):
    """The reranker failed, did not answer in time, or returned invalid scores. By default the passages keep the order of the search."""


class GenerationError(DependencyError):
    """The generator failed, or its stream broke. `partial_text` is the text that was delivered before.

    Attributes:
        model: the name of the model that failed, as in a price table; "" if unknown.
        used_tokens: tokens of the prompt and of the answer, as the model reported them; None if it reported none.
    """

    model: str = ""
    used_tokens: tuple[int, int] | None = None


class InvalidAnswer(GenerationError):
    """The model's reply does not fit the `schema` of the call, also after the model was asked to correct it. The message names the places, not the reply."""
