"""What arrives at a collector: an OTLP receiver on a socket reads what OpenTelemetry's own exporter sends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from tests.contrib.otel.recorded import DOCUMENTS, QUESTION, rag_of

from ragcore.contrib.otel import Telemetry
from ragcore.contrib.otel import conventions as names
from ragcore.testing import Fail, OpenAIServer

pytestmark = [pytest.mark.anyio, pytest.mark.blocking_allowed]


class Receiver:
    """An OTLP receiver over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def spans(self) -> list[Span]:
        return [
            span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if scope.scope.name == "ragcore"
        ]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def values(span: Span) -> dict[str, object]:
    """Return the attributes of a span, with their types on the wire."""
    found: dict[str, object] = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, str(kind))
        found[pair.key] = [one.string_value for one in value.values] if kind == "array_value" else value
    return found


async def test_a_collector_gets_the_whole_trace(receiver: Receiver) -> None:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(receiver.url)))
    async with OpenAIServer(text="It is 1,500 dollars [1].") as server, rag_of(server) as rag:
        await rag.add(DOCUMENTS, tenant="m")
        with Telemetry(tracer_provider=provider):
            server.faults.next(None, Fail(503))
            answer = await rag.ask(QUESTION, tenant="m")
            server.faults.always(Fail(401))
            await rag.ask(QUESTION, tenant="m")
    assert await anyio.to_thread.run_sync(provider.force_flush)
    await anyio.to_thread.run_sync(provider.shutdown)

    spans = receiver.spans()
    whole, failed = sorted(
        (span for span in spans if span.name == "invoke_workflow ragcore.ask"),
        key=lambda span: span.start_time_unix_nano,
    )
    assert (whole.kind, whole.parent_span_id) == (Span.SPAN_KIND_INTERNAL, b"")
    parts = {span.name: span for span in spans if span.parent_span_id == whole.span_id}
    assert set(parts) == {"embeddings small", "retrieval MemoryStore", "chat large"}
    chat = parts["chat large"]
    assert (chat.kind, chat.trace_id) == (Span.SPAN_KIND_CLIENT, whole.trace_id)
    assert [event.name for event in chat.events] == ["retry.attempt"]
    told = values(chat)
    assert told[names.SERVER_PORT] == server.port
    assert told[names.FINISH_REASONS] == ["stop"]
    assert told[names.OUTPUT_TOKENS] == answer.usage.completion_tokens
    assert isinstance(told[names.FIRST_CHUNK], float)
    assert whole.start_time_unix_nano <= chat.start_time_unix_nano < chat.end_time_unix_nano <= whole.end_time_unix_nano
    wrong = next(span for span in spans if span.parent_span_id == failed.span_id and span.name == "chat large")
    assert (wrong.status.code, values(wrong)[names.ERROR_TYPE]) == (Status.STATUS_CODE_ERROR, "GenerationError")
    sent = b"".join(receiver.bodies)
    assert b"deductible" not in sent
    assert b"1,500" not in sent
