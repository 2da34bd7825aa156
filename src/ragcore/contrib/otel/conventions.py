"""The names of OpenTelemetry's conventions for generative AI, as far as ragcore uses them, and ragcore's own names beside them.

Source: release v0.1.0 of https://github.com/open-telemetry/semantic-conventions-genai, pages `client-inference`, `client-embeddings` and `gen-ai-spans`. The
conventions are in development: a later release may rename them, and then this module follows in a release of ragcore. `server.*` and `error.type` are stable
names of https://github.com/open-telemetry/semantic-conventions.
"""

from __future__ import annotations

__all__ = ["RELEASE"]

RELEASE = "v0.1.0"

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
AGENT = "gen_ai.agent.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_STOP = "gen_ai.request.stop_sequences"
OUTPUT_TYPE = "gen_ai.output.type"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
DIMENSIONS = "gen_ai.embeddings.dimension.count"
DATA_SOURCE = "gen_ai.data_source.id"
TOP_K = "gen_ai.retrieval.top_k"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
STATUS_CODE = "http.response.status_code"

# Texts: only with `Telemetry(content=True)`.
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
SYSTEM_INSTRUCTIONS = "gen_ai.system_instructions"
QUERY_TEXT = "gen_ai.retrieval.query.text"
DOCUMENTS = "gen_ai.retrieval.documents"

# Values of OPERATION. "rerank" is ragcore's own: the conventions have no name for it, and allow others.
WORKFLOW, EMBEDDINGS, RETRIEVAL, CHAT, RERANK = "invoke_workflow", "embeddings", "retrieval", "chat", "rerank"

# Providers by the host of their server, or its end. Other servers speak OpenAI's protocol, which the conventions call "openai".
PROVIDERS = {
    "openai.azure.com": "azure.ai.openai",
    "inference.ai.azure.com": "azure.ai.inference",
    "mistral.ai": "mistral_ai",
    "groq.com": "groq",
    "deepseek.com": "deepseek",
    "x.ai": "x_ai",
    "perplexity.ai": "perplexity",
    "moonshot.ai": "moonshot_ai",
    "cohere.com": "cohere",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "amazonaws.com": "aws.bedrock",
    "anthropic.com": "anthropic",
}

# The conventions' metrics, with their units and the boundaries of their buckets.
CHAT_DURATION = "gen_ai.client.inference.duration"
CHAT_FIRST_CHUNK = "gen_ai.client.inference.time_to_first_chunk"
CHAT_INPUT_TOKENS = "gen_ai.client.inference.usage.input_tokens"
CHAT_OUTPUT_TOKENS = "gen_ai.client.inference.usage.output_tokens"
EMBEDDINGS_DURATION = "gen_ai.client.embeddings.duration"
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)

# ragcore's own attributes.
CALL_ID = "ragcore.call.id"
METHOD = "ragcore.method"
OUTCOME = "ragcore.outcome"
STAGE = "ragcore.stage"
DEGRADED = "ragcore.degraded"
TENANT = "ragcore.tenant"
MODE = "ragcore.retrieval.mode"
PASSAGES = "ragcore.retrieval.passages"
CANDIDATES = "ragcore.rerank.candidates"
CALLERS = "ragcore.callers"
SOURCE = "ragcore.source"
