"""What a telemetry has recorded: every span that began, every span that ended, and a client around servers of tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler, SamplingResult
from opentelemetry.trace import Tracer

from ragcore import RAG, Document, MemoryStore, OpenAIEmbedder, OpenAIGenerator, Retriever, Settings
from ragcore.contrib.otel import Telemetry
from ragcore.resilience import Policy, RetryPolicy
from ragcore.testing import OpenAIServer

QUESTION = "What is the deductible of the plan?"
DOCUMENTS = [Document("plan", "The deductible of the plan is 1,500 dollars."), Document("other", "A visit costs 40.")]


class Asked(Sampler):
    """Samples every span, and remembers what a sampler sees of it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def should_sample(
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        *rest: Any,
        **more: Any,
    ) -> SamplingResult:
        self.seen.append((name, dict(attributes or {})))
        return ALWAYS_ON.should_sample(parent_context, trace_id, name, kind, attributes, *rest, **more)

    def get_description(self) -> str:
        return "asked"


class Recorded(SpanProcessor):
    """All spans of a provider."""

    def __init__(self) -> None:
        self.sampler = Asked()
        self.provider = TracerProvider(sampler=self.sampler)
        self.provider.add_span_processor(self)
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.begun: list[Span] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.begun.append(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)

    def tracer(self) -> Tracer:
        return self.provider.get_tracer("tests")

    def names(self) -> list[str]:
        return sorted(span.name for span in self.ended)

    def one(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.ended if span.name == name]
        return span

    def of(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.ended if span.name == name]

    def children(self, parent: ReadableSpan) -> list[str]:
        return sorted(
            span.name
            for span in self.ended
            if span.parent is not None and span.parent.span_id == parent.get_span_context().span_id  # type: ignore[union-attr]
        )

    def metrics(self) -> dict[str, list[Any]]:
        """Return the data points by the name of their metric."""
        data = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def complete(self) -> None:
        """Check that each span ended once."""
        assert sorted(map(id, self.begun)) == sorted(map(id, self.ended_spans())), "a span did not end, or ended twice"

    def ended_spans(self) -> list[Span]:
        contexts = [span.get_span_context().span_id for span in self.ended]  # type: ignore[union-attr]
        return [span for number in contexts for span in self.begun if span.get_span_context().span_id == number]

    @contextmanager
    def telemetry(self, **options: Any) -> Iterator[Telemetry]:
        with Telemetry(tracer_provider=self.provider, meter_provider=self.meters, **options) as installed:
            yield installed


def rag_of(server: OpenAIServer) -> RAG:
    """Return a client whose embedder and model are the server."""
    retry = RetryPolicy(attempts=3, backoff=0.001)
    embedder = OpenAIEmbedder(
        "small", dimension=64, base_url=server.base_url, api_key="none", policy=Policy("embedding", retry=retry)
    )
    generator = OpenAIGenerator(
        "large", base_url=server.base_url, api_key="none", policy=Policy("generation", retry=retry)
    )
    return RAG(
        retriever=Retriever(store=MemoryStore(), embedder=embedder, mode="vector"),
        generator=generator,
        settings=Settings(watchdog=False, timeout=5.0),
    )
