"""Traces and metrics of ragcore's calls, made with OpenTelemetry's API. The SDK and the exporter are the user's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from contextvars import Token
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, get_args

from opentelemetry import context as otel
from opentelemetry import metrics, trace
from opentelemetry.trace import Link, Span, Status, StatusCode

from ragcore import __version__
from ragcore.contrib.otel import conventions as names
from ragcore.contrib.otel.spans import Attributes, beginning_of, ending_of
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
# The attributes of a span that a metric has as well.
LABELS = (
    names.OPERATION,
    names.PROVIDER,
    names.REQUEST_MODEL,
    names.RESPONSE_MODEL,
    names.SERVER_ADDRESS,
    names.SERVER_PORT,
    names.ERROR_TYPE,
)


@dataclass(slots=True)
class _Traced:
    """The span of an operation.

    Attributes:
        context: the context in which the span is the current one.
        labels: the attributes at the beginning that metrics have as well.
        began: in seconds, on the clock of `time.perf_counter()`.
    """

    span: Span
    context: otel.Context
    labels: Attributes
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
        meter = metrics.get_meter("ragcore", __version__, meter_provider)
        self._durations = {
            names.CHAT: meter.create_histogram(
                names.CHAT_DURATION, "s", "Duration of a chat.", explicit_bucket_boundaries_advisory=names.SECONDS
            ),
            names.EMBEDDINGS: meter.create_histogram(
                names.EMBEDDINGS_DURATION,
                "s",
                "Duration of embeddings.",
                explicit_bucket_boundaries_advisory=names.SECONDS,
            ),
        }
        self._first_chunk = meter.create_histogram(
            names.CHAT_FIRST_CHUNK, "s", "Time to the first chunk.", explicit_bucket_boundaries_advisory=names.SECONDS
        )
        # By the attribute of the span that has the number.
        self._tokens = {
            names.INPUT_TOKENS: meter.create_counter(names.CHAT_INPUT_TOKENS, "{token}", "Tokens of prompts."),
            names.OUTPUT_TOKENS: meter.create_counter(names.CHAT_OUTPUT_TOKENS, "{token}", "Tokens of answers."),
        }
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
            self._stop = (observe(self), subscribe(self._take))

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
        made = beginning_of(operation, content=self.content)
        callers = [state.span for one in operation.callers if (state := one.state_of(self)) is not None]
        attributes = {**made.attributes, names.CALLERS: len(callers)} if callers else made.attributes
        span = self._tracer.start_span(
            made.name,
            kind=made.kind,
            attributes=attributes,
            links=[Link(caller.get_span_context()) for caller in callers],
        )
        for caller in callers:
            caller.add_link(span.get_span_context())
        context = trace.set_span_in_context(span)
        if self._suppress and operation.kind != "call":
            context = otel.set_value(SUPPRESS, True, context)
        return _Traced(span, context, attributes, time.perf_counter())

    def enter(self, state: _Traced, /) -> Token[otel.Context]:
        """Make the span the current one. See `Observer`."""
        return otel.attach(state.context)

    def leave(self, token: Token[otel.Context], /) -> None:
        """Restore the context of the task. See `Observer`."""
        otel.detach(token)

    def end(self, operation: Operation, state: _Traced, /) -> None:
        """End the span. See `Observer`."""
        span = state.span
        attributes = ending_of(operation, content=self.content)
        if span.is_recording():
            span.set_attributes(attributes)
            # A caller that leaves has its reason, which is no error.
            if operation.error not in (None, "cancelled", "abandoned"):
                span.set_status(Status(StatusCode.ERROR))
        span.end()
        self._measure(state, attributes)

    def _measure(self, state: _Traced, attributes: Attributes) -> None:
        duration = self._durations.get(str(state.labels.get(names.OPERATION)))
        # A request for several calls is measured by the operations of these calls.
        if duration is None or names.CALLERS in state.labels:
            return
        known: dict[str, Any] = {**state.labels, **attributes}
        labels = {name: known[name] for name in LABELS if name in known}
        duration.record(time.perf_counter() - state.began, labels, context=state.context)
        if known[names.OPERATION] != names.CHAT:
            return
        if names.FIRST_CHUNK in known:
            self._first_chunk.record(known[names.FIRST_CHUNK], labels, context=state.context)
        for name, counter in self._tokens.items():
            if name in known:
                counter.add(known[name], labels, context=state.context)

    def _take(self, event: Event) -> None:
        if event.name not in EVENTS:
            return
        state = current().state_of(self)
        if state is not None and state.span.is_recording():
            data = {
                f"ragcore.{name}": value for name, value in event.data.items() if isinstance(value, str | int | float)
            }
            state.span.add_event(event.name, {names.SOURCE: event.source, **data})
