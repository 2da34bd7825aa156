"""The metrics of requests to models, by OpenTelemetry's conventions for generative AI."""

from __future__ import annotations

from opentelemetry.context import Context, set_value
from opentelemetry.metrics import Meter

from ragcore.contrib.otel import conventions as names
from ragcore.contrib.otel.spans import Labels
from ragcore.lifecycle.operations import Operation
from ragcore.types import Generation

__all__ = ["Measures"]

# A context without a span. For a measurement in a span's context, the SDK keeps an exemplar: the identifiers of the span. An exemplar leads from a long
# duration to its trace; more exemplars of the same span would only cost time. An empty context would not do: the SDK replaces it by the current one.
NO_SPAN = set_value("ragcore", True, Context())


class Measures:
    """Records durations and tokens.

    Args:
        meter: makes the instruments.
    """

    def __init__(self, meter: Meter) -> None:
        # By the kind of the operation.
        self._durations = {
            "generate": meter.create_histogram(
                names.CHAT_DURATION, "s", "Duration of a chat.", explicit_bucket_boundaries_advisory=names.SECONDS
            ),
            "embed": meter.create_histogram(
                names.EMBEDDINGS_DURATION,
                "s",
                "Duration of embeddings.",
                explicit_bucket_boundaries_advisory=names.SECONDS,
            ),
        }
        self._first_chunk = meter.create_histogram(
            names.CHAT_FIRST_CHUNK, "s", "Time to the first chunk.", explicit_bucket_boundaries_advisory=names.SECONDS
        )
        self._prompts = meter.create_counter(names.CHAT_INPUT_TOKENS, "{token}", "Tokens of prompts.")
        self._answers = meter.create_counter(names.CHAT_OUTPUT_TOKENS, "{token}", "Tokens of answers.")

    def take(self, operation: Operation, seconds: float, labels: Labels, context: Context) -> None:
        """Record an operation that has ended.

        Args:
            seconds: its duration.
            labels: the attributes that were known at its beginning.
            context: the context of its span.
        """
        duration = self._durations.get(operation.kind)
        if duration is None:
            return
        generation: Generation | None = operation.found.get("generation")
        if operation.error is not None:
            labels = {**labels, names.ERROR_TYPE: operation.error}
        if generation is not None and generation.model:
            labels = {**labels, names.RESPONSE_MODEL: generation.model}
        duration.record(seconds, labels, context=context)
        if "first" in operation.found:
            self._first_chunk.record(operation.found["first"], labels, context=NO_SPAN)
        if generation is None:
            return
        if generation.usage.prompt_tokens is not None:
            self._prompts.add(generation.usage.prompt_tokens, labels, context=NO_SPAN)
        if generation.usage.completion_tokens is not None:
            self._answers.add(generation.usage.completion_tokens, labels, context=NO_SPAN)
