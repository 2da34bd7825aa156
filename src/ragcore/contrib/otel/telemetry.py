"""Traces and metrics of ragcore's calls, made with OpenTelemetry's API. The SDK and the exporter are the user's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from contextvars import Token
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeAlias, get_args

from opentelemetry import context as otel
from opentelemetry import metrics, trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from ragcore import __version__
from ragcore.contrib.otel import conventions as names
from ragcore.contrib.otel.measures import Measures
from ragcore.contrib.otel.spans import Attributes, Labels, beginning_of, ending_of
from ragcore.errors import ConfigurationError
from ragcore.events import Event, subscribe
from ragcore.lifecycle.operations import Operation, current, observe

__all__ = ["CONTENT", "EVENTS", "Stage", "Telemetry"]

Stage: TypeAlias = Literal["embed", "search", "rerank", "generate"]

# The environment variable of OpenTelemetry's instrumentations that allows texts in spans, and its values.
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
WITH_TEXTS = ("true", "span_only", "span_and_event")
WITHOUT_TEXTS = ("", "false", "no_content", "event_only")

# Events of ragcore that become events of the span under way. Their data are numbers and short words.
EVENTS = frozenset(
    {
        "answer.rejected",
        "breaker.rejected",
        "bulkhead.admitted",
        "bulkhead.rejected",
        "cache.hit",
        "deadline.exceeded",
        "generator.failed",
        "model.parameter_refused",
        "model.thinks",
        "policy.paused",
        "prompt.passages_left_out",
        "retriever.degraded",
        "retry.attempt",
        "retry.budget_empty",
        "retry.no_time",
    }
)
# The key that keeps instrumentations of other libraries, such as asyncpg and httpx, from making a span.
SUPPRESS = "suppress_instrumentation"


@dataclass(slots=True)
class _Traced:
    """The span of an operation.

    Attributes:
        context: the context in which the span is the current one.
        labels: the attributes that metrics have as well; None: the operation is not measured.
        began: in seconds, on the clock of `time.perf_counter()`.
    """

    span: Span
    context: otel.Context
    labels: Labels | None
    began: float


class Telemetry:
    """Makes spans and metrics of all ragcore calls of the process, by OpenTelemetry's conventions for generative AI.

    A call is a span (INTERNAL) in the caller's context. Its children are one span for each stage, with all attempts: `embeddings {model}`,
    `retrieval {collection}`, `rerank {model}` and `chat {model}`. Retries, waits for a place, refusals and degradations are events of these spans. A
    request for several calls, which the embedder has joined, is a span of its own with links to the spans of the calls.

    Args:
        tracer_provider: None: the global one, as the SDK's set-up has set it.
        meter_provider: None: the global one.
        content: whether spans have texts: questions, passages, answers, the tenant. False: a span has none of them, and no error message.
        leave_out: stages for which no span is made, because another instrumentation makes it. For example, "generate" for a generator of yours that
            calls the `openai` package with `opentelemetry-instrumentation-openai-v2`.
        suppress: whether instrumentations of other libraries, such as asyncpg and httpx, are asked to make no spans within these stages.

    Raises:
        ConfigurationError: `leave_out` has an unknown stage.

    Examples:
        ```python
        async with Telemetry(), ragcore.RAG.from_config(config) as rag:
            ...
        ```
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        content: bool = False,
        leave_out: Collection[Stage] = (),
        suppress: bool = False,
    ) -> None:
        unknown = set(leave_out) - set(get_args(Stage))
        if unknown:
            raise ConfigurationError(
                f"leave_out has {', '.join(sorted(map(repr, unknown)))}: it may have {', '.join(get_args(Stage))}"
            )
        self.content = content
        self._leave_out = frozenset(leave_out)
        self._suppress = suppress
        self._tracer = trace.get_tracer("ragcore", __version__, tracer_provider)
        self._measures = Measures(metrics.get_meter("ragcore", __version__, meter_provider))
        self._stop: tuple[Callable[[], None], ...] = ()

    @classmethod
    def from_env(
        cls,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        leave_out: Collection[Stage] = (),
        suppress: bool = False,
    ) -> Self:
        """Make a telemetry whose `content` is that of the variable OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT.

        "true", "span_only" and "span_and_event" allow texts; "false", "no_content", "event_only" and no value don't.

        Raises:
            ConfigurationError: the variable has another value.
        """
        value = os.environ.get(CONTENT, "").strip().lower()
        if value not in (*WITH_TEXTS, *WITHOUT_TEXTS):
            raise ConfigurationError(
                f"{CONTENT} is {value!r}: it must be one of {', '.join((*WITH_TEXTS, *WITHOUT_TEXTS[1:]))}"
            )
        return cls(
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            content=value in WITH_TEXTS,
            leave_out=leave_out,
            suppress=suppress,
        )

    def install(self) -> None:
        """Trace all calls that begin from now on. Does nothing if it is installed already."""
        if not self._stop:
            self._stop = (observe(self), subscribe(self._take, names=EVENTS))

    def uninstall(self) -> None:
        """Trace no further calls. Spans under way are still ended with their operations. Idempotent."""
        stop, self._stop = self._stop, ()
        for one in stop:
            one()

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.uninstall()

    async def __aenter__(self) -> Self:
        self.install()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.uninstall()

    def begin(self, operation: Operation, /) -> object:
        """Start the span of an operation. See `Observer`."""
        if operation.kind in self._leave_out:
            return None
        name, kind, attributes, labels = beginning_of(operation, content=self.content)
        if operation.callers:
            span, labels = self._shared(operation, name, kind, attributes), None
        else:
            span = self._tracer.start_span(name, kind=kind, attributes=attributes)
        context = trace.set_span_in_context(span)
        if self._suppress and operation.kind != "call":
            context = otel.set_value(SUPPRESS, True, context)
        return _Traced(span, context, labels, time.perf_counter())

    def _shared(self, operation: Operation, name: str, kind: SpanKind, attributes: Attributes) -> Span:
        """Start the span of a request for several calls, linked with their spans. The operations of these calls measure it."""
        callers = [state.span for one in operation.callers if (state := one.state_of(self)) is not None]
        span = self._tracer.start_span(
            name,
            kind=kind,
            attributes={**attributes, names.CALLERS: len(callers)},
            links=[Link(caller.get_span_context()) for caller in callers],
        )
        for caller in callers:
            caller.add_link(span.get_span_context())
        return span

    def enter(self, state: _Traced, /) -> Token[otel.Context]:
        """Make the span the current one. See `Observer`."""
        return otel.attach(state.context)

    def leave(self, token: Token[otel.Context], /) -> None:
        """Restore the context of the task. See `Observer`."""
        otel.detach(token)

    def end(self, operation: Operation, state: _Traced, /) -> None:
        """End the span. See `Observer`."""
        span = state.span
        if span.is_recording():
            attributes = ending_of(operation, content=self.content)
            if attributes:
                span.set_attributes(attributes)
            # A caller that leaves has its reason, which is no error.
            if operation.error not in (None, "cancelled", "abandoned"):
                span.set_status(Status(StatusCode.ERROR))
        span.end()
        if state.labels is not None:
            self._measures.take(operation, time.perf_counter() - state.began, state.labels, state.context)

    def _take(self, event: Event) -> None:
        state = current().state_of(self)
        if state is not None and state.span.is_recording():
            data = {
                f"ragcore.{name}": value for name, value in event.data.items() if isinstance(value, str | int | float)
            }
            state.span.add_event(event.name, {names.SOURCE: event.source, **data})
