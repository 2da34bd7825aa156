"""Real answers of OpenAI-compatible servers. Each row has one provider, one quirk and one source.

The shapes and the short messages come from the servers; the answers, ids and numbers are invented.
"""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

from tests.wire.shapes import JSON, SSE, Chat, Embed, Reply

Obj = dict[str, Any]

TEXT_PLAIN = {"content-type": "text/plain; charset=utf-8"}
SSE_UTF8 = {"content-type": "text/event-stream; charset=utf-8"}
JSON_UTF8 = {"content-type": "application/json; charset=utf-8"}


def dump(obj: object, *, spaces: bool = False, indent: int | None = None, ascii_only: bool = False) -> str:
    """Return JSON as servers write it: compact (Go, Rust, pydantic), with spaces (json.dumps), or pretty-printed."""
    if indent is not None:
        return json.dumps(obj, indent=indent, ensure_ascii=ascii_only)
    return json.dumps(obj, separators=(", ", ": ") if spaces else (",", ":"), ensure_ascii=ascii_only)


def event(obj: object, *, end: str = "\n\n", prefix: str = "data: ", spaces: bool = False) -> str:
    """Return one event. A str is sent unchanged (comments, event: lines, [DONE])."""
    return obj if isinstance(obj, str) else prefix + dump(obj, spaces=spaces) + end


def sse(
    *objects: object,
    end: str = "\n\n",
    done: bool = True,
    prefix: str = "data: ",
    spaces: bool = False,
    headers: dict[str, str] = SSE,
    status: int = 200,
) -> Reply:
    """A stream of events."""
    parts = [event(obj, end=end, prefix=prefix, spaces=spaces) for obj in objects]
    if done:
        parts.append(prefix + "[DONE]" + end)
    return Reply(body="".join(parts).encode(), status=status, headers=headers)


def body(
    obj: object,
    status: int,
    *,
    spaces: bool = False,
    indent: int | None = None,
    tail: str = "",
    headers: dict[str, str] = JSON,
) -> Reply:
    """A JSON body."""
    return Reply(body=(dump(obj, spaces=spaces, indent=indent) + tail).encode(), status=status, headers=headers)


def chunk(
    delta: object,
    finish: str | None = None,
    *,
    ident: str = "chatcmpl-Bq3xT7Yh2LkPz0Wd",
    model: str = "gpt-4o-mini-2024-07-18",
    choice: Obj | None = None,
    **extra: object,
) -> Obj:
    """A chat.completion.chunk with one choice."""
    one: Obj = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, **(choice or {})}
    head: Obj = {"id": ident, "object": "chat.completion.chunk", "created": 1764165600, "model": model}
    return {**head, **extra, "choices": [one]}


def usage_chunk(prompt: int, completion: int, *, choices: object = (), **extra: object) -> Obj:
    """The last chunk of stream_options.include_usage."""
    head: Obj = {"id": "chatcmpl-Bq3xT7Yh2LkPz0Wd", "object": "chat.completion.chunk", "created": 1764165600}
    tokens = usage(prompt, completion)
    return {**head, **extra, "choices": [] if choices == () else choices, "usage": tokens}


def usage(prompt: int, completion: int, **extra: object) -> Obj:
    """Token counts."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **extra}


def completion(message: Obj, finish: str | None, prompt: int, done: int, **extra: object) -> Obj:
    """A chat.completion object, the answer without stream."""
    head: Obj = {"id": "chatcmpl-Bq3xT7Yh2LkPz0Wd", "object": "chat.completion", "created": 1764165600}
    one: Obj = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return {**head, **extra, "choices": [one], "usage": usage(prompt, done)}


def oai_error(message: str, kind: str | None, param: str | None = None, code: object = None) -> Obj:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def b64(*numbers: float) -> str:
    """An embedding as base64: little-endian float32."""
    return base64.b64encode(struct.pack("<4f", *numbers)).decode()


def item(index: object, embedding: object, **extra: object) -> Obj:
    """One embedding of a list."""
    return {"object": "embedding", "index": index, "embedding": embedding, **extra}


def embeddings(*items: Obj, model: str = "text-embedding-3-small", **extra: object) -> Reply:
    """A list of embeddings."""
    tokens = {"prompt_tokens": 2, "total_tokens": 2}
    return body({"object": "list", "data": list(items), "model": model, "usage": tokens, **extra}, 200)


# Exact in float32, so that base64 and numbers give equal vectors.
A = (0.5, -0.25, 0.125, 1.0)
B = (-1.0, 0.75, 0.0, 0.0625)
VECTORS = (A, B)
GOOD_EMBED = embeddings(item(0, b64(*A)), item(1, b64(*B)))
FLOAT_EMBED = embeddings(item(0, list(A)), item(1, list(B)))

GOOD_TEXT = "Your deductible is $1,500 [1]."
GOOD_CHAT = sse(
    chunk({"role": "assistant", "content": "", "refusal": None}),
    chunk({"content": "Your deductible"}),
    chunk({"content": " is $1,500"}),
    chunk({"content": " [1]."}),
    chunk({}, "stop"),
    usage_chunk(412, 9),
)

ROWS: list[Chat | Embed] = []

# --- OpenAI -------------------------------------------------------------------------------------------------

OPENAI_STREAM = "https://platform.openai.com/docs/api-reference/chat-streaming"
OPENAI_ERRORS = "https://platform.openai.com/docs/guides/error-codes"
FP: Obj = {"service_tier": "default", "system_fingerprint": "fp_560af6e559"}


def oai(delta: object, finish: str | None = None, pad: str = "yBUv8b1dlI5ORP") -> Obj:
    """OpenAI's current chunk: service_tier, usage null and obfuscation in every chunk."""
    return {**chunk(delta, finish, **FP), "usage": None, "obfuscation": pad}


ROWS += [
    Chat(
        provider="OpenAI",
        quirk="obfuscation, service_tier and usage null in every chunk",
        source="https://platform.openai.com/docs/api-reference/chat-streaming/streaming#chat_streaming-obfuscation",
        replies=(
            sse(
                oai({"role": "assistant", "content": "", "refusal": None}, pad="zRj"),
                oai({"content": "Your deductible"}, pad="ujF"),
                oai({"content": " is $1,500"}, pad="TZAX"),
                oai({"content": " [1]."}, pad=""),
                oai({}, "stop", pad="SemAF9d4G5HwxkF"),
                {
                    **usage_chunk(412, 9, model="gpt-4o-mini-2024-07-18", **FP),
                    "obfuscation": "8EZi5gjGw66",
                },
                headers=SSE_UTF8,
            ),
        ),
        text=GOOD_TEXT,
        prompt_tokens=412,
        completion_tokens=9,
    ),
    Chat(
        provider="OpenAI",
        quirk="max_tokens refused",
        source="https://github.com/ITSpecialist111/ai_automation_suggester/issues/38",
        replies=(
            body(
                oai_error(
                    "Unsupported parameter: 'max_tokens' is not supported with this model. "
                    "Use 'max_completion_tokens' instead.",
                    "invalid_request_error",
                    "max_tokens",
                    "unsupported_parameter",
                ),
                400,
                indent=2,
            ),
            GOOD_CHAT,
        ),
        text=GOOD_TEXT,
        prompt_tokens=412,
        completion_tokens=9,
        adapts=("max_tokens",),
    ),
    Chat(
        provider="OpenAI",
        quirk="temperature 0 refused",
        source="https://github.com/gabrii/Cursor-Azure-GPT-5/issues/33",
        replies=(
            body(
                oai_error(
                    "Unsupported value: 'temperature' does not support 0 with this model. "
                    "Only the default (1) value is supported.",
                    "invalid_request_error",
                    "temperature",
                    "unsupported_value",
                ),
                400,
                indent=2,
            ),
            GOOD_CHAT,
        ),
        text=GOOD_TEXT,
        prompt_tokens=412,
        completion_tokens=9,
        adapts=("temperature",),
    ),
    Chat(
        provider="OpenAI",
        quirk="temperature unsupported as a parameter, after max_tokens was refused",
        source="https://github.com/BeehiveInnovations/pal-mcp-server/issues/78",
        replies=(
            body(
                oai_error(
                    "Unsupported parameter: 'max_tokens' is not supported with this model. "
                    "Use 'max_completion_tokens' instead.",
                    "invalid_request_error",
                    "max_tokens",
                    "unsupported_parameter",
                ),
                400,
                indent=2,
            ),
            body(
                oai_error(
                    "Unsupported parameter: 'temperature' is not supported with this model.",
                    "invalid_request_error",
                    "temperature",
                    "unsupported_parameter",
                ),
                400,
                indent=2,
            ),
            GOOD_CHAT,
        ),
        text=GOOD_TEXT,
        prompt_tokens=412,
        completion_tokens=9,
        adapts=("max_tokens", "temperature"),
    ),
    Chat(
        provider="OpenAI",
        quirk="system role unsupported",
        source="https://github.com/tailcallhq/forgecode/issues/1177",
        replies=(
            body(
                oai_error(
                    "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
                    "invalid_request_error",
                    "messages[0].role",
                    "unsupported_value",
                ),
                400,
                indent=2,
            ),
            GOOD_CHAT,
        ),
        text=GOOD_TEXT,
        prompt_tokens=412,
        completion_tokens=9,
        adapts=("system",),
    ),
    Chat(
        provider="OpenAI",
        quirk="stream_options unknown",
        source="https://github.com/QuantumNous/new-api/issues/418",
        replies=(
            body(
                oai_error(
                    "Unknown parameter: 'stream_options'.",
                    "invalid_request_error",
                    "stream_options",
                    "unknown_parameter",
                ),
                400,
                indent=2,
            ),
            sse(
                chunk({"role": "assistant", "content": ""}),
                chunk({"content": "Yes, within 30 days"}),
                chunk({"content": " [2]."}),
                chunk({}, "stop"),
            ),
        ),
        text="Yes, within 30 days [2].",
        adapts=("stream_options",),
    ),
    Chat(
        provider="OpenAI",
        quirk="streaming refused to an unverified organization",
        source="https://github.com/lobehub/lobehub/issues/9385",
        replies=(
            body(
                oai_error(
                    "Your organization must be verified to stream this model. Please go to: "
                    "https://platform.openai.com/settings/organization/general and click on Verify Organization. "
                    "If you just verified, it can take up to 15 minutes for access to propagate.",
                    "invalid_request_error",
                    "stream",
                    "unsupported_value",
                ),
                400,
                indent=2,
            ),
        ),
        error="organization must be verified to stream",
    ),
    Chat(
        provider="OpenAI",
        quirk="quota used up",
        source=OPENAI_ERRORS,
        replies=(
            body(
                oai_error(
                    "You exceeded your current quota, please check your plan and billing details. For more "
                    "information on this error, read the docs: "
                    "https://platform.openai.com/docs/guides/error-codes/api-errors.",
                    "insufficient_quota",
                    None,
                    "insufficient_quota",
                ),
                429,
                indent=4,
                tail="\n",
            ),
        ),
        error="exceeded your current quota",
    ),
    Chat(
        provider="OpenAI",
        quirk="unknown model",
        source="https://github.com/BerriAI/litellm/pull/39457",
        replies=(
            body(
                oai_error(
                    "The model `gpt-4o-minni` does not exist or you do not have access to it.",
                    "invalid_request_error",
                    None,
                    "model_not_found",
                ),
                404,
                indent=4,
                tail="\n",
            ),
        ),
        error="does not exist or you do not have access",
    ),
    Chat(
        provider="OpenAI",
        quirk="context length exceeded",
        source="https://github.com/langchain-ai/langchain/issues/24058",
        replies=(
            body(
                oai_error(
                    "This model's maximum context length is 8192 tokens. However, you requested 254457 tokens "
                    "(253457 in the messages, 1000 in the completion). Please reduce the length of the messages "
                    "or completion.",
                    "invalid_request_error",
                    "messages",
                    "context_length_exceeded",
                ),
                400,
                indent=2,
            ),
        ),
        error="maximum context length is 8192 tokens",
    ),
    Chat(
        provider="OpenAI",
        quirk="refusal in delta.refusal only",
        source=OPENAI_STREAM,
        replies=(
            sse(
                oai({"role": "assistant", "content": None, "refusal": ""}),
                oai({"refusal": "I'm sorry, I can't"}),
                oai({"refusal": " help with that."}),
                oai({}, "stop"),
                usage_chunk(90, 11, model="gpt-4o-mini-2024-07-18", **FP),
            ),
        ),
        error="refus",
    ),
    Chat(
        provider="OpenAI",
        quirk="tool calls only",
        source=OPENAI_STREAM,
        replies=(
            sse(
                oai(
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {
                                "index": 0,
                                "id": "call_q8mXw2",
                                "type": "function",
                                "function": {"name": "search", "arguments": ""},
                            }
                        ],
                        "refusal": None,
                    }
                ),
                oai({"tool_calls": [{"index": 0, "function": {"arguments": '{"q":'}}]}),
                oai({"tool_calls": [{"index": 0, "function": {"arguments": '"deductible"}'}}]}),
                oai({}, "tool_calls"),
                usage_chunk(90, 14, model="gpt-4o-mini-2024-07-18", **FP),
            ),
        ),
        error="tool",
    ),
    Chat(
        provider="OpenAI",
        quirk="length without text: reasoning took all the tokens",
        source="https://github.com/covan-ai/covan/pull/112",
        replies=(
            sse(
                oai({"role": "assistant", "content": "", "refusal": None}),
                oai({}, "length"),
                {
                    **usage_chunk(120, 400, model="gpt-5-mini-2025-08-07", **FP),
                    "usage": usage(
                        120,
                        400,
                        prompt_tokens_details={"cached_tokens": 0, "audio_tokens": 0},
                        completion_tokens_details={"reasoning_tokens": 400, "audio_tokens": 0},
                    ),
                },
            ),
        ),
        error="length",
    ),
    Chat(
        provider="OpenAI",
        quirk="content null and stop: an empty completion that used tokens",
        source="https://github.com/AstrBotDevs/AstrBot/pull/7410",
        replies=(
            sse(
                chunk({"role": "assistant", "content": None}, model="gpt-5.4"),
                chunk({"content": None}, "stop", model="gpt-5.4"),
                usage_chunk(133, 58, model="gpt-5.4"),
            ),
        ),
        error="no text",
    ),
    Chat(
        provider="OpenAI",
        quirk="server error in mid-stream, without event line and without [DONE]",
        source="https://api.onlyoffice.com/docspace/api-backend/usage-api/models/ai-open-ai-stream-error",
        replies=(
            sse(
                oai({"role": "assistant", "content": "", "refusal": None}),
                oai({"content": "Your deduct"}),
                oai_error("The server had an error while processing your request. Sorry about that!", "server_error"),
                done=False,
            ),
        ),
        error="server had an error while processing",
    ),
    Chat(
        provider="OpenAI",
        quirk="the whole answer is NOT_FOUND, cut into tokens",
        source=OPENAI_STREAM,
        replies=(
            sse(
                oai({"role": "assistant", "content": "", "refusal": None}),
                oai({"content": "NOT"}),
                oai({"content": "_F"}),
                oai({"content": "OUND"}),
                oai({}, "stop"),
                usage_chunk(412, 4, model="gpt-4o-mini-2024-07-18", **FP),
            ),
        ),
        text="",
        prompt_tokens=412,
        completion_tokens=4,
    ),
    Embed(
        provider="OpenAI",
        quirk="base64 as requested",
        source="https://platform.openai.com/docs/api-reference/embeddings/create",
        replies=(GOOD_EMBED,),
        vectors=VECTORS,
    ),
    Embed(
        provider="OpenAI",
        quirk="embeddings out of order",
        source="https://github.com/chroma-core/chroma/pull/344",
        replies=(embeddings(item(1, b64(*B)), item(0, b64(*A))),),
        vectors=VECTORS,
    ),
    Embed(
        provider="OpenAI",
        quirk="dimensions refused by an older model",
        source="https://portkey.ai/error-library/model-size-error-10103",
        replies=(
            body(
                oai_error("This model does not support specifying dimensions.", "invalid_request_error"),
                400,
                indent=2,
            ),
            GOOD_EMBED,
        ),
        vectors=VECTORS,
        adapts=("dimensions",),
    ),
    Embed(
        provider="OpenAI",
        quirk="an empty text refused",
        source="https://github.com/MaartenGr/BERTopic/issues/1594",
        replies=(
            body(
                oai_error(
                    "'$.input' is invalid. Please check the API reference: "
                    "https://platform.openai.com/docs/api-reference.",
                    "invalid_request_error",
                ),
                400,
                indent=2,
            ),
        ),
        error="'$.input' is invalid",
    ),
]

# --- Azure --------------------------------------------------------------------------------------------------

SAFE: Obj = {"filtered": False, "severity": "safe"}
AZURE_SAFE: Obj = {"hate": SAFE, "self_harm": SAFE, "sexual": SAFE, "violence": SAFE}
AZURE_FIRST: Obj = {
    "choices": [],
    "created": 0,
    "id": "",
    "model": "",
    "object": "",
    "prompt_filter_results": [
        {"prompt_index": 0, "content_filter_results": {**AZURE_SAFE, "jailbreak": {"detected": False}}}
    ],
}


def az(delta: object, finish: str | None = None, results: Obj | None = None) -> Obj:
    """Azure's chunk: keys in alphabetical order, the filter's results in the choice."""
    one: Obj = {
        "content_filter_results": results or {},
        "delta": delta,
        "finish_reason": finish,
        "index": 0,
        "logprobs": None,
    }
    return {
        "choices": [one],
        "created": 1764165600,
        "id": "chatcmpl-E892Aoy89ODQ3Tyv",
        "model": "gpt-4o-mini-2024-07-18",
        "object": "chat.completion.chunk",
        "system_fingerprint": "fp_67802d9a6d",
        "usage": None,
    }


ROWS += [
    Chat(
        provider="Azure",
        quirk="first chunk has prompt_filter_results and no choices",
        source="https://github.com/AbanteAI/archive-old-cli-mentat/issues/429",
        replies=(
            sse(
                AZURE_FIRST,
                az({"content": "", "refusal": None, "role": "assistant"}),
                az({"content": "The claim form is due"}, results=AZURE_SAFE),
                az({"content": " on 31 March [3]."}, results=AZURE_SAFE),
                az({}, "stop"),
                {**az({}), "choices": [], "usage": usage(231, 13)},
            ),
        ),
        text="The claim form is due on 31 March [3].",
        prompt_tokens=231,
        completion_tokens=13,
    ),
    Chat(
        provider="Azure",
        quirk="a choice without delta after the end (asynchronous filter)",
        source="https://github.com/microsoft/autogen/issues/6465",
        replies=(
            sse(
                AZURE_FIRST,
                az({"content": "", "role": "assistant"}),
                az({"content": "Dental care is covered"}),
                az({"content": " [1]."}),
                az({}, "stop"),
                {
                    "id": "",
                    "choices": [
                        {
                            "finish_reason": None,
                            "index": 0,
                            "content_filter_offsets": {"check_offset": 26, "start_offset": 0, "end_offset": 26},
                            "content_filter_results": AZURE_SAFE,
                        }
                    ],
                    "created": 0,
                    "model": "",
                    "object": "",
                },
            ),
        ),
        text="Dental care is covered [1].",
    ),
    Chat(
        provider="Azure",
        quirk="the prompt was filtered",
        source="https://github.com/compl-ai/compl-ai/issues/20",
        replies=(
            body(
                {
                    "error": {
                        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content "
                        "management policy. Please modify your prompt and retry. To learn more about our content "
                        "filtering policies please read our documentation: "
                        "https://go.microsoft.com/fwlink/?linkid=2198766",
                        "type": None,
                        "param": "prompt",
                        "code": "content_filter",
                        "status": 400,
                        "innererror": {
                            "code": "ResponsibleAIPolicyViolation",
                            "content_filter_result": {
                                **AZURE_SAFE,
                                "violence": {"filtered": True, "severity": "medium"},
                            },
                        },
                    }
                },
                400,
            ),
        ),
        error="content management policy",
    ),
    Chat(
        provider="Azure",
        quirk="filtered before the first token",
        source="https://learn.microsoft.com/en-us/azure/ai-services/openai/concepts/content-filter",
        replies=(
            sse(
                AZURE_FIRST,
                az({"content": "", "role": "assistant"}),
                az({}, "content_filter", {"violence": {"filtered": True, "severity": "medium"}}),
            ),
        ),
        error="content_filter",
    ),
    Chat(
        provider="Azure",
        quirk="filtered after some words",
        source="https://learn.microsoft.com/en-us/azure/ai-services/openai/concepts/content-filter",
        replies=(
            sse(
                AZURE_FIRST,
                az({"content": "", "role": "assistant"}),
                az({"content": "The policy excludes"}),
                az({"content": " injuries from"}),
                az({}, "content_filter", {"violence": {"filtered": True, "severity": "medium"}}),
            ),
        ),
        text="The policy excludes injuries from",
        finish_reason="content_filter",
        complete=False,
    ),
    Chat(
        provider="Azure",
        quirk="stream_options refused with a FastAPI detail (AI Foundry)",
        source="https://github.com/CherryHQ/cherry-studio/issues/9214",
        replies=(
            body(
                {
                    "detail": "Extra parameters ['stream_options'] are not allowed when extra-parameters is not set "
                    "or set to be 'error'. Set extra-parameters to 'pass-through' to pass to the model."
                },
                400,
            ),
            sse(
                chunk({"role": "assistant", "content": ""}, model="mistral-large-2407"),
                chunk({"content": "It ends on 1 May [2]."}, model="mistral-large-2407"),
                chunk({"content": ""}, "stop", model="mistral-large-2407"),
            ),
        ),
        text="It ends on 1 May [2].",
        adapts=("stream_options",),
    ),
    Chat(
        provider="Azure",
        quirk="unknown deployment",
        source="https://learn.microsoft.com/en-us/azure/ai-foundry/openai/how-to/create-resource",
        replies=(
            body(
                {
                    "error": {
                        "code": "DeploymentNotFound",
                        "message": "The API deployment for this resource does not exist. If you created the "
                        "deployment within the last 5 minutes, please wait a moment and try again.",
                    }
                },
                404,
            ),
        ),
        error="deployment for this resource does not exist",
    ),
    Chat(
        provider="Azure",
        quirk="401 of the gateway: statusCode and message, no error object",
        source="https://learn.microsoft.com/en-us/azure/api-management/api-management-error-handling-policies",
        replies=(
            body(
                {
                    "statusCode": 401,
                    "message": "Unauthorized. Access token is missing, invalid, audience is incorrect "
                    "(https://cognitiveservices.azure.com), or have expired.",
                },
                401,
                spaces=True,
            ),
        ),
        error="Access token is missing",
    ),
]

# --- Mistral ------------------------------------------------------------------------------------------------

MISTRAL_API = "https://docs.mistral.ai/api/"


def mi(delta: object, finish: str | None = None, model: str = "mistral-small-latest", **extra: object) -> Obj:
    """Mistral's chunk: no logprobs, usage in the last chunk."""
    one: Obj = {"index": 0, "delta": delta, "finish_reason": finish}
    head: Obj = {"id": "c3c77283055240cbbaf6f01d384cfccb", "object": "chat.completion.chunk"}
    return {**head, "created": 1764165600, "model": model, "choices": [one], **extra}


def mi_think(text: str) -> Obj:
    """A delta of Magistral's thinking."""
    return {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]}


MAGISTRAL = "magistral-medium-2509"

ROWS += [
    Chat(
        provider="Mistral",
        quirk="usage in the chunk that ends",
        source=MISTRAL_API,
        replies=(
            sse(
                mi({"role": "assistant", "content": ""}),
                mi({"content": "Die Selbstbeteiligung"}),
                mi({"content": " beträgt 1.500 € [1]."}),
                mi({"content": ""}, "stop", usage=usage(55, 12)),
                headers=SSE_UTF8,
            ),
        ),
        text="Die Selbstbeteiligung beträgt 1.500 € [1].",
        prompt_tokens=55,
        completion_tokens=12,
    ),
    Chat(
        provider="Mistral",
        quirk="content is a list of parts: thinking, then text",
        source="https://github.com/BerriAI/litellm/issues/16272",
        replies=(
            sse(
                mi({"role": "assistant", "content": ""}, model=MAGISTRAL),
                mi(mi_think("The user asks"), model=MAGISTRAL),
                mi(mi_think(" for the deductible."), model=MAGISTRAL),
                mi({"content": [{"type": "text", "text": "Your deductible"}]}, model=MAGISTRAL),
                mi({"content": " is $1,500 [1]."}, model=MAGISTRAL),
                mi({"content": ""}, "stop", model=MAGISTRAL, usage=usage(210, 31)),
            ),
        ),
        text=GOOD_TEXT,
        reasoning="The user asks for the deductible.",
        prompt_tokens=210,
        completion_tokens=31,
    ),
    Chat(
        provider="Mistral",
        quirk="only thinking, then length",
        source="https://github.com/agentjido/req_llm/issues/742",
        replies=(
            sse(
                mi({"role": "assistant", "content": ""}, model=MAGISTRAL),
                mi(mi_think("Okay"), model=MAGISTRAL),
                mi(mi_think(", first"), model=MAGISTRAL),
                mi({"content": ""}, "length", model=MAGISTRAL, usage=usage(210, 512)),
            ),
        ),
        error="length",
    ),
    Chat(
        provider="Mistral",
        quirk="model_length",
        source=MISTRAL_API,
        replies=(
            sse(
                mi({"role": "assistant", "content": ""}),
                mi({"content": "The first rule is"}),
                mi({"content": " that"}, "model_length", usage=usage(32000, 768)),
            ),
        ),
        text="The first rule is that",
        finish_reason="model_length",
        complete=False,
        prompt_tokens=32000,
        completion_tokens=768,
    ),
    Chat(
        provider="Mistral",
        quirk="422 whose message is an object with pydantic details",
        source="https://github.com/nomtek/mistralai_client_dart/issues/44",
        replies=(
            body(
                {
                    "object": "error",
                    "message": {
                        "detail": [
                            {
                                "type": "extra_forbidden",
                                "loc": ["body", "messages", 0, "user", "name"],
                                "msg": "Extra inputs are not permitted",
                                "input": None,
                            }
                        ]
                    },
                    "type": "invalid_request_error",
                    "param": None,
                    "code": None,
                },
                422,
            ),
        ),
        error="Extra inputs are not permitted",
    ),
    Chat(
        # The issue shows this shape for frequency_penalty; stream_options was refused in the same way.
        provider="Mistral",
        quirk="stream_options refused, the details being JSON in a string",
        source="https://github.com/mistralai/platform-docs-public/issues/7",
        replies=(
            body(
                {
                    "object": "error",
                    "message": dump(
                        {
                            "detail": [
                                {
                                    "type": "extra_forbidden",
                                    "loc": ["body", "stream_options"],
                                    "msg": "Extra inputs are not permitted",
                                    "input": {"include_usage": True},
                                    "url": "https://errors.pydantic.dev/2.5/v/extra_forbidden",
                                }
                            ]
                        }
                    ),
                    "type": "internal_error_proxy",
                    "param": None,
                    "code": "1000",
                },
                422,
            ),
            sse(
                mi({"role": "assistant", "content": ""}),
                mi({"content": "No, it is not [4]."}),
                mi({"content": ""}, "stop", usage=usage(61, 8)),
            ),
        ),
        text="No, it is not [4].",
        prompt_tokens=61,
        completion_tokens=8,
        adapts=("stream_options",),
    ),
    Chat(
        provider="Mistral",
        quirk="unknown model is a 400 with object error",
        source="https://github.com/tmc/langchaingo/issues/1233",
        replies=(
            body(
                {
                    "object": "error",
                    "message": "Invalid model: mistral-smal",
                    "type": "invalid_model",
                    "param": None,
                    "code": "1500",
                },
                400,
            ),
        ),
        error="Invalid model: mistral-smal",
    ),
    Chat(
        provider="Mistral",
        quirk="429 rate limit",
        source="https://github.com/raycast/extensions/issues/31107",
        replies=(
            body(
                {
                    "object": "error",
                    "message": "Rate limit exceeded",
                    "type": "rate_limited",
                    "param": None,
                    "code": "1300",
                    "raw_status_code": 429,
                },
                429,
            ),
        ),
        error="Rate limit exceeded",
    ),
    Chat(
        provider="Mistral",
        quirk="NOT_FOUND in bold, with a colon and reasons",
        source=MISTRAL_API,
        replies=(
            sse(
                mi({"role": "assistant", "content": ""}),
                mi({"content": "**NOT"}),
                mi({"content": "_FOUND**: the passages"}),
                mi({"content": " do not say it."}),
                mi({"content": ""}, "stop", usage=usage(61, 14)),
            ),
        ),
        text="",
        prompt_tokens=61,
        completion_tokens=14,
    ),
    Embed(
        provider="Mistral",
        quirk="dimensions refused under another name",
        source="https://github.com/upsidelab/enthusiast/pull/360",
        replies=(
            body(
                {
                    "object": "error",
                    "message": "This model does not support output_dimension.",
                    "type": "invalid_request_invalid_args",
                    "param": None,
                    "code": "3051",
                    "raw_status_code": 400,
                },
                400,
            ),
            body(
                {
                    "id": "b4e1a0f2c6d94c0e",
                    "object": "list",
                    "data": [item(0, list(A)), item(1, list(B))],
                    "model": "mistral-embed",
                    "usage": {
                        "prompt_audio_seconds": None,
                        "prompt_tokens": 6,
                        "total_tokens": 6,
                        "completion_tokens": 0,
                    },
                },
                200,
            ),
        ),
        vectors=VECTORS,
        adapts=("dimensions",),
    ),
]

# --- DeepSeek -----------------------------------------------------------------------------------------------

DEEPSEEK_API = "https://api-docs.deepseek.com/api/create-chat-completion"


def ds(delta: object, finish: str | None = None, **extra: object) -> Obj:
    """DeepSeek's chunk."""
    head: Obj = {"id": "f7c1b9ca-9b1e-4a5e-8a55-9f2d8c1f2f10", "object": "chat.completion.chunk"}
    one: Obj = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    model: Obj = {"created": 1764165600, "model": "deepseek-reasoner", "system_fingerprint": "fp_eaab8d114b"}
    return {**head, **model, "choices": [one], **extra}


DS_USAGE = usage(
    18,
    34,
    prompt_tokens_details={"cached_tokens": 0},
    completion_tokens_details={"reasoning_tokens": 21},
    prompt_cache_hit_tokens=0,
    prompt_cache_miss_tokens=18,
)

ROWS += [
    Chat(
        provider="DeepSeek",
        quirk="keep-alive comments, then reasoning_content with content null",
        source="https://api-docs.deepseek.com/quick_start/rate_limit",
        replies=(
            sse(
                ": keep-alive\n\n",
                ": keep-alive\n\n",
                ds({"role": "assistant", "content": None, "reasoning_content": ""}),
                ds({"content": None, "reasoning_content": "Passage 1 names"}),
                ds({"content": None, "reasoning_content": " the deductible."}),
                ": keep-alive\n\n",
                ds({"content": "Your deductible", "reasoning_content": None}),
                ds({"content": " is $1,500 [1].", "reasoning_content": None}),
                ds({"content": "", "reasoning_content": None}, "stop", usage=DS_USAGE),
            ),
        ),
        text=GOOD_TEXT,
        reasoning="Passage 1 names the deductible.",
        prompt_tokens=18,
        completion_tokens=34,
    ),
    Chat(
        provider="DeepSeek",
        quirk="insufficient_system_resource after some words",
        source=DEEPSEEK_API,
        replies=(
            sse(
                ds({"role": "assistant", "content": ""}),
                ds({"content": "The waiting period"}),
                ds({"content": " is three"}),
                ds({"content": ""}, "insufficient_system_resource", usage=DS_USAGE),
            ),
        ),
        text="The waiting period is three",
        finish_reason="insufficient_system_resource",
        complete=False,
        prompt_tokens=18,
        completion_tokens=34,
    ),
    Chat(
        provider="DeepSeek",
        quirk="length while still reasoning",
        source=DEEPSEEK_API,
        replies=(
            sse(
                ds({"role": "assistant", "content": None, "reasoning_content": ""}),
                ds({"content": None, "reasoning_content": "Let me compare"}),
                ds({"content": "", "reasoning_content": None}, "length", usage=DS_USAGE),
            ),
        ),
        error="length",
    ),
    Chat(
        provider="DeepSeek",
        quirk="blank lines before a JSON answer that is not a stream",
        source="https://github.com/Lambdua/openai4j/issues/86",
        replies=(
            Reply(
                body=b"\n\n\n\n\n"
                + dump(
                    completion(
                        {"role": "assistant", "content": "Your deductible is $1,500 [1]."},
                        "stop",
                        18,
                        34,
                        model="deepseek-chat",
                    )
                ).encode(),
                headers=JSON,
            ),
        ),
        text=GOOD_TEXT,
        prompt_tokens=18,
        completion_tokens=34,
    ),
    Chat(
        provider="DeepSeek",
        quirk="402 without balance",
        source="https://github.com/Aider-AI/aider/issues/4851",
        replies=(body(oai_error("Insufficient Balance", "unknown_error", None, "invalid_request_error"), 402),),
        error="Insufficient Balance",
    ),
    Chat(
        provider="DeepSeek",
        quirk="unknown model is a 400",
        source="https://github.com/deepwn/addi/issues/13",
        replies=(body(oai_error("Model Not Exist", "invalid_request_error", None, "invalid_request_error"), 400),),
        error="Model Not Exist",
    ),
    Chat(
        provider="DeepSeek",
        quirk="stream ends in mid-sentence: no finish_reason, no [DONE]",
        source="https://github.com/deepseek-ai/DeepSeek-V3/issues/1608",
        replies=(
            sse(
                ds({"role": "assistant", "content": ""}),
                ds({"content": "The waiting"}),
                ds({"content": " period is"}),
                done=False,
            ),
        ),
        error="without a finish reason",
    ),
]

# --- Qwen (DashScope) ---------------------------------------------------------------------------------------

QWEN_STREAM = "https://alibabacloud.com/help/en/model-studio/stream"


def qw(delta: object, finish: str | None = None, **extra: object) -> Obj:
    """DashScope's chunk: choices first, id last, usage null."""
    one: Obj = {"delta": delta, "finish_reason": finish, "index": 0, "logprobs": None}
    tail: Obj = {"created": 1764165600, "system_fingerprint": None, "model": "qwen-plus"}
    head: Obj = {"choices": [one], "object": "chat.completion.chunk", "usage": None}
    return {**head, **tail, "id": "chatcmpl-e2edaf2c-8aaf-9e54-90e2-b21dd5045503", **extra}


ROWS += [
    Chat(
        provider="Qwen",
        quirk="content null with reasoning_content, usage in a chunk without choices",
        source=QWEN_STREAM,
        replies=(
            sse(
                qw({"content": None, "role": "assistant", "reasoning_content": ""}),
                qw({"content": None, "reasoning_content": "用户问"}),
                qw({"content": None, "reasoning_content": "免赔额。"}),
                qw({"content": "免赔额是", "reasoning_content": None}),
                qw({"content": "1500美元 [1]。😊", "reasoning_content": None}),
                qw({"content": "", "reasoning_content": None}, "stop"),
                qw({}, choices=[], usage=usage(22, 382, completion_tokens_details={"reasoning_tokens": 360})),
                headers={"content-type": "text/event-stream;charset=UTF-8"},
            ),
        ),
        text="免赔额是1500美元 [1]。😊",
        reasoning="用户问免赔额。",
        prompt_tokens=22,
        completion_tokens=382,
    ),
    Chat(
        provider="Qwen",
        quirk="the input was inspected and refused",
        source="https://github.com/666ghj/BettaFish/issues/449",
        replies=(
            body(
                {
                    **oai_error(
                        "Input data may contain inappropriate content. For details, see: "
                        "https://help.aliyun.com/zh/model-studio/error-code#inappropriate-content",
                        "data_inspection_failed",
                        None,
                        "data_inspection_failed",
                    ),
                    "id": "chatcmpl-c2b25c93-9684-4d7e-91df-793f0cdbef88",
                    "request_id": "c2b25c93-9684-4d7e-91df-793f0cdbef88",
                },
                400,
            ),
        ),
        error="Input data may contain inappropriate content",
    ),
    Chat(
        provider="Qwen",
        quirk="the output was inspected and stopped in mid-stream",
        source="https://github.com/666ghj/BettaFish/issues/572",
        replies=(
            sse(
                qw({"content": "", "role": "assistant"}),
                qw({"content": "The policy excludes"}),
                {
                    **oai_error(
                        "Output data may contain inappropriate content. For details, see: "
                        "https://help.aliyun.com/zh/model-studio/error-code#inappropriate-content",
                        "data_inspection_failed",
                        None,
                        "data_inspection_failed",
                    ),
                    "id": "chatcmpl-e2edaf2c-8aaf-9e54-90e2-b21dd5045503",
                    "request_id": "e2edaf2c-8aaf-9e54-90e2-b21dd5045503",
                },
                done=False,
            ),
        ),
        error="Output data may contain inappropriate content",
    ),
    Embed(
        provider="Qwen",
        quirk="batch too large",
        source="https://github.com/jjyaoao/HelloAgents/issues/27",
        replies=(
            body(
                {
                    **oai_error(
                        "<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, "
                        "it should not be larger than 10.: input.contents",
                        "InvalidParameter",
                        None,
                        "InvalidParameter",
                    ),
                    "id": "318cff27-38bd-4289-8f70-18d8d37bded9",
                    "request_id": "318cff27-38bd-4289-8f70-18d8d37bded9",
                },
                400,
            ),
        ),
        error="batch size is invalid",
    ),
    Embed(
        provider="Qwen",
        quirk="numbers although base64 was requested, and an id",
        source="https://www.alibabacloud.com/help/en/model-studio/text-embedding-synchronous-api",
        replies=(
            body(
                {
                    "data": [
                        {"embedding": list(A), "index": 0, "object": "embedding"},
                        {"embedding": list(B), "index": 1, "object": "embedding"},
                    ],
                    "model": "text-embedding-v4",
                    "object": "list",
                    "usage": {"prompt_tokens": 2, "total_tokens": 2},
                    "id": "73591b79-d194-9bca-8bb5-3f0a6c1d2e4b",
                },
                200,
            ),
        ),
        vectors=VECTORS,
    ),
]

# --- Gemini (OpenAI-compatible API) -------------------------------------------------------------------------

GEMINI_DOCS = "https://ai.google.dev/gemini-api/docs/openai"


def ge(delta: object, finish: str | None = None, **extra: object) -> Obj:
    """Gemini's chunk: no finish_reason until the end, the role repeated."""
    one: Obj = {"delta": delta, **({"finish_reason": finish} if finish else {}), "index": 0}
    head: Obj = {"choices": [one], "created": 1764165600, "id": "ccAXad3iNNbiz7IPocTe0Ac"}
    return {**head, "model": "gemini-2.5-flash", "object": "chat.completion.chunk", **extra}


ROWS += [
    Chat(
        provider="Gemini",
        quirk="finish_reason absent until the last chunk, role in every one, usage in the last content chunk",
        source="https://github.com/googleapis/python-genai/issues/2868",
        replies=(
            sse(
                ge({"content": "Your deductible", "role": "assistant"}),
                ge({"content": " is $1,500", "role": "assistant"}),
                ge({"content": " [1].", "role": "assistant"}, "stop", usage=usage(11, 9, total_tokens=561)),
            ),
        ),
        text=GOOD_TEXT,
        prompt_tokens=11,
        completion_tokens=9,
    ),
    Chat(
        provider="Gemini",
        quirk="finish_reason stop in every chunk",
        source="https://github.com/BerriAI/litellm/issues/2195",
        replies=(
            sse(
                ge({"content": "Your deductible", "role": "assistant"}, "stop"),
                ge({"content": " is $1,500", "role": "assistant"}, "stop"),
                ge({"content": " [1].", "role": "assistant"}, "stop"),
            ),
        ),
        text=GOOD_TEXT,
    ),
    Chat(
        provider="Gemini",
        quirk="length without text, completion_tokens 0 and a larger total",
        source="https://github.com/project-arbr/arbr-control-plane/pull/253",
        replies=(
            sse(
                ge(
                    {"role": "assistant"},
                    "length",
                    usage={"completion_tokens": 0, "prompt_tokens": 6, "total_tokens": 22},
                ),
            ),
        ),
        error="length",
    ),
    Chat(
        provider="Gemini",
        quirk="MAX_TOKENS in capitals (through a gateway), in a choice without delta",
        source="https://github.com/envoyproxy/ai-gateway/pull/2107",
        replies=(
            sse(
                ge({"content": "Article 4 lists", "role": "assistant"}),
                ge({"content": " these cases:", "role": "assistant"}),
                {
                    "choices": [{"finish_reason": "MAX_TOKENS", "index": 0}],
                    "created": 1764165600,
                    "id": "ccAXad3iNNbiz7IPocTe0Ac",
                    "model": "gemini-2.5-flash",
                    "object": "chat.completion.chunk",
                },
            ),
        ),
        text="Article 4 lists these cases:",
        finish_reason="MAX_TOKENS",
        complete=False,
    ),
    Chat(
        provider="Gemini",
        quirk="the error object is in a list, pretty-printed",
        source="https://github.com/hexdocom/lemonai/issues/54",
        replies=(
            body(
                [
                    {
                        "error": {
                            "code": 400,
                            "message": 'Invalid JSON payload received. Unknown name "enable_thinking": '
                            "Cannot find field.",
                            "status": "INVALID_ARGUMENT",
                            "details": [
                                {
                                    "@type": "type.googleapis.com/google.rpc.BadRequest",
                                    "fieldViolations": [
                                        {
                                            "description": "Invalid JSON payload received. Unknown name "
                                            '"enable_thinking": Cannot find field.'
                                        }
                                    ],
                                }
                            ],
                        }
                    }
                ],
                400,
                indent=2,
                tail="\n",
                headers={"content-type": "application/json; charset=UTF-8"},
            ),
        ),
        error="Unknown name",
    ),
    Chat(
        provider="Gemini",
        quirk="503 in a list",
        source="https://ai.google.dev/gemini-api/docs/troubleshooting",
        replies=(
            body(
                [
                    {
                        "error": {
                            "code": 503,
                            "message": "The model is overloaded. Please try again later.",
                            "status": "UNAVAILABLE",
                        }
                    }
                ],
                503,
                indent=2,
                tail="\n",
            ),
        ),
        error="The model is overloaded",
    ),
    Embed(
        provider="Gemini",
        quirk="index 0 left out (protobuf default)",
        source="https://github.com/samfoy/pi-session-search/issues/13",
        replies=(
            body(
                {
                    "object": "list",
                    "data": [
                        {"object": "embedding", "embedding": b64(*A)},
                        {"object": "embedding", "embedding": b64(*B), "index": 1},
                    ],
                    "model": "gemini-embedding-001",
                },
                200,
                indent=2,
                tail="\n",
            ),
        ),
        vectors=VECTORS,
    ),
    Embed(
        provider="Gemini",
        quirk="index left out everywhere, no usage, numbers for base64",
        source="https://github.com/spring-projects/spring-ai/issues/7019",
        replies=(
            body(
                {
                    "object": "list",
                    "data": [
                        {"object": "embedding", "embedding": list(A)},
                        {"object": "embedding", "embedding": list(B)},
                    ],
                    "model": "text-embedding-004",
                },
                200,
                indent=2,
                tail="\n",
            ),
        ),
        vectors=VECTORS,
    ),
    Embed(
        provider="Gemini",
        quirk="index null",
        source="https://github.com/agentscope-ai/QwenPaw/issues/5782",
        replies=(embeddings(item(None, b64(*A)), item(None, b64(*B)), model="gemini-embedding-2"),),
        vectors=VECTORS,
    ),
    Embed(
        provider="Gemini",
        quirk="unknown model is a 404 without a list",
        source="https://github.com/feyninc/chonkie/issues/529",
        replies=(
            body(
                {
                    "error": {
                        "code": 404,
                        "message": "models/text-embedding-004 is not found for API version v1beta, or is not "
                        "supported for embedContent. Call ListModels to see the list of available models and "
                        "their supported methods.",
                        "status": "NOT_FOUND",
                    }
                },
                404,
                indent=2,
                tail="\n",
            ),
        ),
        error="is not found for API version v1beta",
    ),
]

# --- Anthropic (OpenAI-compatible API) ----------------------------------------------------------------------

ANTHROPIC_DOCS = "https://platform.claude.com/docs/en/api/openai-sdk"


def an(delta: object, finish: str | None = None) -> Obj:
    """A chunk of Anthropic's compatible API."""
    return chunk(delta, finish, ident="msg_01FqYcXw3V8r6bT5s2", model="claude-haiku-4-5-20251001")


ROWS += [
    Chat(
        provider="Anthropic",
        quirk="ping comments with CRLF among events with LF",
        source="https://github.com/mckinsey/agents-at-scale-ark/blob/main/ark/executors/completions/"
        "sse_decoder_test.go",
        replies=(
            sse(
                ": ping - 2026-06-17 09:09:52.087033\r\n\r\n",
                an({"role": "assistant", "content": "Your deductible"}),
                ": ping - 2026-06-17 09:10:07.087033\r\n\r\n",
                an({"content": " is $1,500 [1]."}),
                an({}, "stop"),
                usage_chunk(48, 12, model="claude-haiku-4-5-20251001"),
            ),
        ),
        text=GOOD_TEXT,
        prompt_tokens=48,
        completion_tokens=12,
    ),
    Chat(
        provider="Anthropic",
        quirk="an error as the first and only event of a stream",
        source="https://github.com/anthropics/anthropic-sdk-typescript/issues/711",
        replies=(
            sse(
                {
                    "error": {
                        "code": "api_error",
                        "message": "Internal server error",
                        "param": None,
                        "type": "invalid_request_error",
                    }
                },
                done=False,
            ),
        ),
        error="Internal server error",
    ),
    Chat(
        provider="Anthropic",
        quirk="temperature deprecated, in the provider's own error shape",
        source="https://github.com/BerriAI/litellm/issues/26444",
        replies=(
            body(
                {
                    "type": "error",
                    "error": {
                        "type": "invalid_request_error",
                        "message": "`temperature` is deprecated for this model.",
                    },
                    "request_id": "req_011CaNyc6Kpmz9bA66oSzTKo",
                },
                400,
            ),
            sse(
                an({"role": "assistant", "content": "Your deductible"}),
                an({"content": " is $1,500 [1]."}),
                an({}, "stop"),
                usage_chunk(48, 12, model="claude-opus-4-7"),
            ),
        ),
        text=GOOD_TEXT,
        prompt_tokens=48,
        completion_tokens=12,
        adapts=("temperature",),
    ),
    Chat(
        provider="Anthropic",
        quirk="overloaded in mid-stream with an event line and type error",
        source="https://github.com/karthink/gptel/pull/1512",
        replies=(
            sse(
                an({"role": "assistant", "content": "Your deduct"}),
                "event: error\n",
                {
                    "type": "error",
                    "error": {"details": None, "type": "overloaded_error", "message": "Overloaded"},
                    "request_id": "req_011Ce3HwQb6vtbs9LQVmh4oe",
                },
                done=False,
            ),
        ),
        error="Overloaded",
    ),
    Chat(
        provider="Anthropic",
        quirk="end_turn passed through by a gateway",
        source="https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons",
        replies=(
            sse(
                an({"role": "assistant", "content": "No, only after"}),
                an({"content": " 90 days [2]."}),
                an({}, "end_turn"),
            ),
        ),
        text="No, only after 90 days [2].",
        finish_reason="end_turn",
    ),
]

# --- Groq ---------------------------------------------------------------------------------------------------

GROQ_MODEL = "llama-3.3-70b-versatile"
GROQ_USAGE = {"queue_time": 0.0753, "prompt_tokens": 23, "prompt_time": 0.006, "completion_tokens": 19}


def gq(delta: object, finish: str | None = None, **extra: object) -> Obj:
    """Groq's chunk."""
    return {**chunk(delta, finish, model=GROQ_MODEL, system_fingerprint="fp_179b0f92c9"), **extra}


ROWS += [
    Chat(
        provider="Groq",
        quirk="usage only in x_groq",
        source="https://github.com/vercel/ai/issues/1651",
        replies=(
            sse(
                gq({"role": "assistant", "content": ""}, x_groq={"id": "req_01hy8ppkajfqk987jv2vx88m9r"}),
                gq({"content": "Your deductible"}),
                gq({"content": " is $1,500 [1]."}),
                gq(
                    {},
                    "stop",
                    x_groq={
                        "id": "req_01hy8ppkajfqk987jv2vx88m9r",
                        "usage": {**GROQ_USAGE, "completion_time": 0.022, "total_tokens": 42},
                    },
                ),
            ),
        ),
        text=GOOD_TEXT,
        prompt_tokens=23,
        completion_tokens=19,
    ),
    Chat(
        provider="Groq",
        quirk="usage twice: in x_groq and in a chunk without choices",
        source="https://github.com/Portkey-AI/gateway/issues/1338",
        replies=(
            sse(
                gq({"role": "assistant", "content": "", "tool_calls": []}),
                gq({"content": "Your deductible"}),
                gq({"content": " is $1,500 [1]."}),
                gq({}, "stop", x_groq={"id": "req_01k4", "usage": {**GROQ_USAGE, "total_tokens": 42}}),
                usage_chunk(23, 19, model=GROQ_MODEL, system_fingerprint="fp_179b0f92c9"),
            ),
        ),
        text=GOOD_TEXT,
        prompt_tokens=23,
        completion_tokens=19,
    ),
    Chat(
        provider="Groq",
        quirk="thinking in delta.reasoning with a channel",
        source="https://console.groq.com/docs/reasoning",
        replies=(
            sse(
                gq({"role": "assistant", "content": ""}),
                gq({"reasoning": "Passage 1", "channel": "analysis"}),
                gq({"reasoning": " has it.", "channel": "analysis"}),
                gq({"content": "Your deductible", "channel": "final"}),
                gq({"content": " is $1,500 [1].", "channel": "final"}),
                gq({}, "stop"),
            ),
        ),
        text=GOOD_TEXT,
        reasoning="Passage 1 has it.",
    ),
    Chat(
        provider="Groq",
        quirk="error in mid-stream after an event line, with status_code",
        source="https://github.com/tensorzero/tensorzero/pull/1893",
        replies=(
            sse(
                gq({"role": "assistant", "content": ""}),
                "event: error\n",
                {
                    "error": {
                        "message": "Failed to call a function. Please adjust your prompt. "
                        "See 'failed_generation' for more details.",
                        "type": "invalid_request_error",
                        "code": "tool_use_failed",
                        "failed_generation": "Tool use failed: no tool can be called",
                        "status_code": 400,
                    }
                },
                done=False,
            ),
        ),
        error="Failed to call a function",
    ),
    Chat(
        provider="Groq",
        quirk="413 for too many tokens a minute",
        source="https://github.com/HunorLaczko/ha-groq-cloud-api/issues/27",
        replies=(
            body(
                {
                    "error": {
                        "message": "Request too large for model `llama-3.1-8b-instant` in organization `org_xxxxxxx` "
                        "service tier `on_demand` on tokens per minute (TPM): Limit 6000, Requested 12328, please "
                        "reduce your message size and try again. Need more tokens? Upgrade to Dev Tier today at "
                        "https://console.groq.com/settings/billing",
                        "type": "tokens",
                        "code": "rate_limit_exceeded",
                    }
                },
                413,
                tail="\n",
            ),
        ),
        error="Request too large for model",
    ),
]

# --- Together -----------------------------------------------------------------------------------------------

TOGETHER_TEST = (
    "https://github.com/lzell/AIProxySwift/blob/360fabbc05b80f33994b9bd31a9d8f9d310b586c/"
    "Tests/AIProxyTests/TogetherAIChatCompletionStreamingChunkTests.swift"
)


def to(text: str, finish: str | None = None, seed: int | None = None, tokens: Obj | None = None) -> Obj:
    """Together's chunk: text beside delta, token_id in delta, role in every chunk."""
    delta: Obj = {"token_id": 30, "role": "assistant", "content": text, "tool_calls": None}
    one: Obj = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish, "seed": seed, "delta": delta}
    head: Obj = {"id": "8b43a5cfadf99e5c-SJC", "object": "chat.completion.chunk", "created": 1764165600}
    return {**head, "choices": [one], "model": "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", "usage": tokens}


ROWS += [
    Chat(
        provider="Together",
        quirk="eos, text beside delta, role repeated, usage in the last content chunk",
        source=TOGETHER_TEST,
        replies=(
            sse(
                to("Your deductible"),
                to(" is $1,500"),
                to(" [1]."),
                to("", "eos", 2039908639335532000, usage(12, 27)),
            ),
        ),
        text=GOOD_TEXT,
        finish_reason="eos",
        prompt_tokens=12,
        completion_tokens=27,
    ),
    Chat(
        provider="Together",
        quirk="model not serverless: 400 with an id beside the error",
        source="https://github.com/HeyPuter/puter/issues/3168",
        replies=(
            body(
                {
                    "id": "okkMWqL-2kFHot-a023f60e9b77ff7e",
                    **oai_error(
                        "Unable to access non-serverless model mistralai/Mistral-Small-24B-Instruct-2501. Please "
                        "visit https://api.together.ai/models/mistralai/Mistral-Small-24B-Instruct-2501 to create "
                        "and start a new dedicated endpoint for the model.",
                        "invalid_request_error",
                        None,
                        "model_not_available",
                    ),
                },
                400,
            ),
        ),
        error="Unable to access non-serverless model",
    ),
    Chat(
        provider="Together",
        quirk="422 when prompt and max_tokens are too long together",
        source="https://github.com/stanford-crfm/helm/pull/2079",
        replies=(
            body(
                oai_error(
                    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. "
                    "Given: 2019 `inputs` tokens and 30 `max_new_tokens`",
                    "invalid_request_error",
                ),
                422,
            ),
        ),
        error="`inputs` tokens + `max_new_tokens` must be <= 2048",
    ),
    Chat(
        provider="Together",
        quirk="inline <think> cut through its tags",
        source="https://docs.together.ai/docs/deepseek-r1",
        replies=(
            sse(
                to("<th"),
                to("ink>\nPassage 1"),
                to(" has it.\n</"),
                to("think>\n\nYour deductible"),
                to(" is $1,500 [1]."),
                to("", "stop", 7, usage(12, 27)),
            ),
        ),
        text=GOOD_TEXT,
        reasoning="Passage 1 has it.",
        prompt_tokens=12,
        completion_tokens=27,
    ),
]

# --- OpenRouter ---------------------------------------------------------------------------------------------

OR_ERRORS = "https://openrouter.ai/docs/api/reference/errors-and-debugging"
OR_STREAM = "https://openrouter.ai/docs/api-reference/streaming"
OR_WAIT = ": OPENROUTER PROCESSING\n\n"


def orr(delta: object, finish: str | None = None, native: str | None = None, **extra: object) -> Obj:
    """OpenRouter's chunk."""
    one: Obj = {"index": 0, "delta": delta, "finish_reason": finish, "native_finish_reason": native}
    head: Obj = {"id": "gen-1739458867-kUKFjpDGCEBBvK6V46PX", "provider": "OpenAI", "model": "openai/gpt-4o-mini"}
    middle: Obj = {"object": "chat.completion.chunk", "created": 1739458867}
    return {**head, **middle, "choices": [{**one, "logprobs": None}], **extra}


ROWS += [
    Chat(
        provider="OpenRouter",
        quirk="comments before and among the events",
        source="https://github.com/openai/openai-go/issues/227",
        replies=(
            sse(
                OR_WAIT,
                OR_WAIT,
                orr({"role": "assistant", "content": ""}, system_fingerprint="fp_72ed7ab54c"),
                orr({"role": "assistant", "content": "免赔额是"}, system_fingerprint="fp_72ed7ab54c"),
                OR_WAIT,
                orr({"role": "assistant", "content": "1500美元 [1]。"}, system_fingerprint="fp_72ed7ab54c"),
                orr({"role": "assistant", "content": ""}, "stop", "stop", system_fingerprint="fp_72ed7ab54c"),
            ),
        ),
        text="免赔额是1500美元 [1]。",
    ),
    Chat(
        provider="OpenRouter",
        quirk="usage in a later chunk whose choice has finish_reason null again",
        source=OR_STREAM,
        replies=(
            sse(
                OR_WAIT,
                orr({"role": "assistant", "content": "Your deductible"}),
                orr({"role": "assistant", "content": " is $1,500 [1]."}),
                orr({"role": "assistant", "content": ""}, "length", "max_tokens"),
                orr({"role": "assistant", "content": ""}, usage=usage(23, 10, cost=0.0000123)),
            ),
        ),
        text=GOOD_TEXT,
        finish_reason="length",
        complete=False,
        prompt_tokens=23,
        completion_tokens=10,
    ),
    Chat(
        provider="OpenRouter",
        quirk="thinking in delta.reasoning and again in reasoning_details",
        source="https://openrouter.ai/docs/use-cases/reasoning-tokens",
        replies=(
            sse(
                OR_WAIT,
                orr(
                    {
                        "role": "assistant",
                        "content": "",
                        "reasoning": "Passage 1 has it.",
                        "reasoning_details": [
                            {"type": "reasoning.text", "text": "Passage 1 has it.", "format": "unknown", "index": 0}
                        ],
                    }
                ),
                orr({"role": "assistant", "content": GOOD_TEXT, "reasoning": None, "reasoning_details": []}),
                orr({"role": "assistant", "content": "", "reasoning": None}, "stop", "stop"),
            ),
        ),
        text=GOOD_TEXT,
        reasoning="Passage 1 has it.",
    ),
    Chat(
        provider="OpenRouter",
        quirk="error in mid-stream beside choices with finish_reason error",
        source=OR_ERRORS,
        replies=(
            sse(
                OR_WAIT,
                orr({"role": "assistant", "content": "Your deduct"}),
                orr(
                    {"content": ""},
                    "error",
                    "error",
                    error={"code": "server_error", "message": "Provider disconnected unexpectedly"},
                ),
                done=False,
            ),
        ),
        error="Provider disconnected unexpectedly",
    ),
    Chat(
        provider="OpenRouter",
        quirk="error inside the choice, although finish_reason says stop",
        source="https://openrouter.ai/docs/api-reference/overview",
        replies=(
            sse(
                OR_WAIT,
                {
                    **orr({}),
                    "choices": [
                        {
                            "index": 0,
                            "delta": {"role": "assistant", "content": " "},
                            "finish_reason": "stop",
                            "native_finish_reason": "error",
                            "error": {"code": 502, "message": "Upstream error"},
                        }
                    ],
                },
                usage_chunk(10, 1),
            ),
        ),
        error="Upstream error",
    ),
    Chat(
        provider="OpenRouter",
        quirk="status 200 with an error in a JSON body, after blank space",
        source="https://openrouter.ai/docs/errors",
        replies=(
            Reply(
                body=b"\n         \n         \n"
                + dump(
                    {
                        "error": {
                            "message": "Provider returned error",
                            "code": 429,
                            "metadata": {"raw": "upstream is busy", "provider_name": "Targon"},
                        }
                    }
                ).encode(),
                headers=JSON,
            ),
        ),
        error="Provider returned error",
    ),
    Chat(
        provider="OpenRouter",
        quirk="402 for credits, code as a number, a user_id beside",
        source="https://github.com/babikov/doka-site/issues/7",
        replies=(
            body(
                {
                    "error": {
                        "message": "This request requires more credits, or fewer max_tokens. You requested up to "
                        "65536 tokens, but can only afford 10114. To increase, visit "
                        "https://openrouter.ai/settings/credits and upgrade to a paid account",
                        "code": 402,
                        "metadata": {"provider_name": None},
                    },
                    "user_id": "user_",
                },
                402,
            ),
        ),
        error="requires more credits",
    ),
    Chat(
        provider="OpenRouter",
        quirk="403 from moderation",
        source=OR_ERRORS,
        replies=(
            body(
                {
                    "error": {
                        "message": "openai/gpt-4o-mini requires moderation on OpenAI. Your input was flagged for "
                        '"violence". No credits were charged.',
                        "code": 403,
                        "metadata": {
                            "reasons": ["violence"],
                            "flagged_input": "How do I…",
                            "provider_name": "OpenAI",
                            "model_slug": "openai/gpt-4o-mini",
                        },
                    }
                },
                403,
            ),
        ),
        error="Your input was flagged",
    ),
]

# --- LiteLLM ------------------------------------------------------------------------------------------------


def li(delta: object, finish: str | None = None) -> Obj:
    """A chunk of the LiteLLM proxy."""
    one: Obj = {**({"finish_reason": finish} if finish else {}), "index": 0, "delta": delta}
    head: Obj = {"id": "chatcmpl-cjo4zIwpUamQ17CrksTp2uSheKXFL", "created": 1764165600, "model": "gemini-2.5-flash"}
    return {**head, "object": "chat.completion.chunk", "choices": [one]}


ROWS += [
    Chat(
        provider="LiteLLM",
        quirk="upstream failure in mid-stream, code as text",
        source="https://github.com/BerriAI/litellm/issues/25492",
        replies=(
            sse(
                li({"content": "Your deduct", "role": "assistant"}),
                "data: "
                + dump(
                    oai_error(
                        "litellm.MidStreamFallbackError: litellm.APIConnectionError: APIConnectionError: "
                        "OpenAIException - Model unloaded.. Received Model Group=qwen/qwen3.5-9b",
                        "MidStreamFallbackError",
                        "None",
                        "503",
                    ),
                    spaces=True,
                )
                + "\n\n",
                done=False,
                headers=SSE_UTF8,
            ),
        ),
        error="Model unloaded",
    ),
    Chat(
        provider="LiteLLM",
        quirk="temperature unsupported: drop_params is off",
        source="https://github.com/BerriAI/litellm/pull/33738",
        replies=(
            body(
                oai_error(
                    "litellm.UnsupportedParamsError: gpt-5-nano doesn't support temperature=0 while reasoning is "
                    "active. Only temperature=1 is supported unless reasoning.effort resolves to 'none'. To drop "
                    "unsupported params set `litellm.drop_params = True`. Received Model Group=gpt-5-nano\n"
                    "Available Model Group Fallbacks=None",
                    None,
                    None,
                    "400",
                ),
                400,
            ),
            sse(
                li({"content": "Your deductible", "role": "assistant"}),
                li({"content": " is $1,500 [1]."}),
                li({}, "stop"),
                usage_chunk(23, 9, model="gpt-5-nano"),
                headers=SSE_UTF8,
            ),
        ),
        text=GOOD_TEXT,
        prompt_tokens=23,
        completion_tokens=9,
        adapts=("temperature",),
    ),
    Chat(
        provider="LiteLLM",
        quirk="an upstream failure that looks like an empty stop",
        source="https://github.com/BerriAI/litellm/issues/36768",
        replies=(sse(li({"content": "", "role": "assistant"}), li({}, "stop"), headers=SSE_UTF8),),
        error="no text",
    ),
    Chat(
        provider="LiteLLM",
        quirk="content policy of Azure, wrapped",
        source="https://github.com/BerriAI/litellm/pull/16231",
        replies=(
            body(
                {
                    "error": {
                        "message": "litellm.BadRequestError: litellm.ContentPolicyViolationError: AzureException - "
                        "The response was filtered due to the prompt triggering Azure OpenAI's content management "
                        "policy. Please modify your prompt and retry.",
                        "type": None,
                        "param": None,
                        "code": "400",
                        "provider_specific_fields": {"innererror": {"code": "ResponsibleAIPolicyViolation"}},
                    }
                },
                400,
            ),
        ),
        error="content management policy",
    ),
    Chat(
        provider="LiteLLM",
        quirk="budget exceeded is a 400",
        source="https://docs.litellm.ai/docs/proxy/users",
        replies=(
            body(
                oai_error(
                    "Budget has been exceeded! Current cost: 0.0011, Max budget: 0.001",
                    "budget_exceeded",
                    None,
                    "400",
                ),
                400,
            ),
        ),
        error="Budget has been exceeded",
    ),
    Chat(
        provider="LiteLLM",
        quirk="reasoning_content with thinking_blocks and many nulls",
        source="https://docs.litellm.ai/docs/reasoning_content",
        replies=(
            sse(
                li(
                    {
                        "reasoning_content": "Passage 1 has it.",
                        "thinking_blocks": [{"type": "thinking", "thinking": "Passage 1 has it.", "signature": None}],
                        "provider_specific_fields": None,
                        "content": None,
                        "role": "assistant",
                        "function_call": None,
                        "tool_calls": None,
                        "audio": None,
                    }
                ),
                li({"content": GOOD_TEXT}),
                li({}, "stop"),
                headers=SSE_UTF8,
            ),
        ),
        text=GOOD_TEXT,
        reasoning="Passage 1 has it.",
    ),
    Embed(
        provider="LiteLLM",
        quirk="encoding_format refused for the model behind it",
        source="https://github.com/BerriAI/litellm/issues/42426",
        replies=(
            body(
                oai_error(
                    "litellm.UnsupportedParamsError: Setting {'encoding_format': 'base64'} is not supported by "
                    "ollama, nomic-embed-text. To drop it from the call, set `litellm.drop_params = True`.",
                    "None",
                    "None",
                    "500",
                ),
                500,
            ),
            FLOAT_EMBED,
        ),
        vectors=VECTORS,
        adapts=("encoding_format",),
    ),
]

# --- vLLM ---------------------------------------------------------------------------------------------------

VLLM_CHAT = "https://github.com/vllm-project/vllm/blob/main/vllm/entrypoints/openai/serving_chat.py"
VLLM_API = "https://github.com/vllm-project/vllm/blob/main/vllm/entrypoints/openai/api_server.py"


def vl(delta: object, finish: str | None = None, stop: object = None) -> Obj:
    """vLLM's chunk."""
    model = "Qwen/Qwen3-8B"
    more = {"stop_reason": stop, "token_ids": None} if finish else {"token_ids": None}
    return chunk(delta, finish, ident="chatcmpl-0d8f1b3c5e7a4c", model=model, choice=more)


def vl_error(message: str, kind: str, code: int) -> Obj:
    """vLLM's error object until 2025: not in "error"."""
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


ROWS += [
    Chat(
        provider="vLLM",
        quirk="stop_reason and token_ids in the choice, inline empty <think>",
        source="https://github.com/QwenLM/Qwen3/issues/1334",
        replies=(
            sse(
                vl({"role": "assistant", "content": ""}),
                vl({"content": "<think>"}),
                vl({"content": "\n\n"}),
                vl({"content": "</think>"}),
                vl({"content": "\n\nYour deductible"}),
                vl({"content": " is $1,500 [1]."}),
                vl({"content": ""}, "stop", 151645),
                usage_chunk(40, 16, model="Qwen/Qwen3-8B"),
                headers=SSE_UTF8,
            ),
        ),
        text=GOOD_TEXT,
        prompt_tokens=40,
        completion_tokens=16,
    ),
    Chat(
        provider="vLLM",
        quirk="reasoning_content from the reasoning parser, last words with finish_reason",
        source="https://github.com/vllm-project/vllm/pull/36944",
        replies=(
            sse(
                vl({"role": "assistant", "content": ""}),
                vl({"reasoning_content": "Passage 1"}),
                vl({"reasoning_content": " has it."}),
                vl({"content": "Your deductible"}),
                vl({"content": " is $1,500"}, "length"),
                usage_chunk(40, 16, model="Qwen/Qwen3-8B"),
                headers=SSE_UTF8,
            ),
        ),
        text="Your deductible is $1,500",
        finish_reason="length",
        complete=False,
        reasoning="Passage 1 has it.",
        prompt_tokens=40,
        completion_tokens=16,
    ),
    Chat(
        provider="vLLM",
        quirk="only </think>: the template had opened it",
        source="https://github.com/vllm-project/vllm/issues/13125",
        replies=(
            sse(
                vl({"role": "assistant", "content": ""}),
                vl({"content": "Passage 1"}),
                vl({"content": " has it.\n"}),
                vl({"content": "</think>"}),
                vl({"content": "\n\nYour deductible"}),
                vl({"content": " is $1,500 [1]."}),
                vl({"content": ""}, "stop"),
                headers=SSE_UTF8,
            ),
        ),
        text=GOOD_TEXT,
        reasoning="Passage 1 has it.",
    ),
    Chat(
        provider="vLLM",
        quirk="<think> never closed, then length",
        source="https://docs.vllm.ai/en/latest/features/reasoning_outputs.html",
        replies=(
            sse(
                vl({"role": "assistant", "content": ""}),
                vl({"content": "<think>"}),
                vl({"content": "\nFirst I look at passage 1"}),
                vl({"content": " and then"}, "length"),
                headers=SSE_UTF8,
            ),
        ),
        error="length",
    ),
    Chat(
        provider="vLLM",
        quirk="error as the first event of a 200 stream, then [DONE]",
        source="https://github.com/BerriAI/litellm/pull/32237",
        replies=(
            sse(
                {"error": vl_error("The model is not multimodal. Please remove image inputs.", "BadRequestError", 400)},
                spaces=True,
                headers=SSE_UTF8,
            ),
        ),
        error="The model is not multimodal",
    ),
    Chat(
        provider="vLLM",
        quirk="engine failure in mid-stream, then [DONE]",
        source=VLLM_CHAT,
        replies=(
            sse(
                vl({"role": "assistant", "content": ""}),
                vl({"content": "Your deduct"}),
                "data: "
                + dump(
                    oai_error("Internal server error", "InternalServerError", None, 500),
                    spaces=True,
                )
                + "\n\n",
                headers=SSE_UTF8,
            ),
        ),
        error="Internal server error",
    ),
    Chat(
        provider="vLLM",
        quirk="context length: object error without an error key",
        source="https://github.com/vllm-project/vllm/issues/20409",
        replies=(
            body(
                vl_error(
                    "This model's maximum context length is 16384 tokens. However, you requested 122946 tokens "
                    "(112946 in the messages, 10000 in the completion). Please reduce the length of the messages "
                    "or completion.",
                    "BadRequestError",
                    400,
                ),
                400,
            ),
        ),
        error="maximum context length is 16384 tokens",
    ),
    Chat(
        provider="vLLM",
        quirk="max_tokens must be at least 1: the prompt filled the context",
        source="https://github.com/vllm-project/vllm/issues/4667",
        replies=(body(vl_error("max_tokens must be at least 1, got -186.", "BadRequestError", 400), 400),),
        error="max_tokens must be at least 1",
    ),
    Chat(
        provider="vLLM",
        quirk="unknown model, error of today with an error key",
        source=VLLM_API,
        replies=(body(oai_error("The model `qwen` does not exist.", "NotFoundError", "model", 404), 404),),
        error="The model `qwen` does not exist",
    ),
    Chat(
        provider="vLLM",
        quirk="system role not supported by the template",
        source="https://github.com/vllm-project/vllm/pull/2964",
        replies=(
            body(vl_error("System role not supported", "BadRequestError", 400), 400),
            sse(
                vl({"role": "assistant", "content": ""}),
                vl({"content": "Your deductible"}),
                vl({"content": " is $1,500 [1]."}),
                vl({"content": ""}, "stop", 107),
                headers=SSE_UTF8,
            ),
        ),
        text=GOOD_TEXT,
        adapts=("system",),
    ),
    Chat(
        provider="vLLM",
        quirk="401 whose error is a text",
        source=VLLM_API,
        replies=(body({"error": "Unauthorized"}, 401),),
        error="Unauthorized",
    ),
    Chat(
        provider="vLLM",
        quirk="not_found in small letters, with a colon and reasons after thinking",
        source=VLLM_CHAT,
        replies=(
            sse(
                vl({"role": "assistant", "content": ""}),
                vl({"reasoning": "Nothing here."}),
                vl({"content": "not_found"}),
                vl({"content": ": the passages are about dental care"}),
                vl({"content": ""}, "stop"),
                headers=SSE_UTF8,
            ),
        ),
        text="",
        reasoning="Nothing here.",
    ),
    Embed(
        provider="vLLM",
        quirk="dimensions refused: no matryoshka model",
        source="https://github.com/coze-dev/coze-studio/issues/484",
        replies=(
            body(
                vl_error(
                    'Model "embedding" does not support matryoshka representation, '
                    "changing output dimensions will lead to poor results.",
                    "BadRequestError",
                    400,
                ),
                400,
            ),
            embeddings(
                item(0, b64(*A)),
                item(1, b64(*B)),
                id="embd-5b3c2f0c5d3b4c1e",
                created=1764165600,
                model="embedding",
            ),
        ),
        vectors=VECTORS,
        adapts=("dimensions",),
    ),
    Embed(
        provider="vLLM",
        quirk="dimensions refused in the words of 2025",
        source="https://github.com/vllm-project/vllm/issues/15465",
        replies=(
            body(vl_error("dimensions is currently not supported", "BadRequestError", 400), 400),
            GOOD_EMBED,
        ),
        vectors=VECTORS,
        adapts=("dimensions",),
    ),
]

# --- llama.cpp ----------------------------------------------------------------------------------------------

LLAMA_README = "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md"


def lc(delta: object, finish: str | None = None, **extra: object) -> Obj:
    """llama-server's chunk."""
    one: Obj = {"finish_reason": finish, "index": 0, "delta": delta}
    tail: Obj = {"id": "chatcmpl-PZ5ZD8fqMnhPYSsPlrOieSvbLMKUCe69", "model": "gpt-3.5-turbo"}
    last: Obj = {"system_fingerprint": "b6099-a414a44", "object": "chat.completion.chunk"}
    return {"choices": [one], "created": 1764165600, **tail, **last, **extra}


LC_TIMINGS = {"prompt_n": 31, "prompt_ms": 137.2, "predicted_n": 11, "predicted_ms": 302.3, "cache_n": 0}

ROWS += [
    Chat(
        provider="llama.cpp",
        quirk="first delta has content null; usage and timings in a chunk without choices",
        source="https://github.com/ggml-org/llama.cpp/pull/15444",
        replies=(
            sse(
                lc({"role": "assistant", "content": None}),
                lc({"content": "Your deductible"}),
                lc({"content": " is $1,500 [1]."}),
                lc({}, "stop"),
                lc({}, choices=[], usage=usage(31, 11), timings=LC_TIMINGS),
            ),
        ),
        text=GOOD_TEXT,
        prompt_tokens=31,
        completion_tokens=11,
    ),
    Chat(
        provider="llama.cpp",
        quirk="no blank line after [DONE]",
        source="https://github.com/darshi1337/apogee/pull/139",
        replies=(
            sse(
                lc({"role": "assistant", "content": None}),
                lc({"content": "Yes 👍, up to"}),
                lc({"content": " 1 000 € [2]."}),
                lc({}, "stop", usage=usage(31, 14), timings=LC_TIMINGS),
                "data: [DONE]",
                done=False,
            ),
        ),
        text="Yes 👍, up to 1 000 € [2].",
        prompt_tokens=31,
        completion_tokens=14,
    ),
    Chat(
        provider="llama.cpp",
        quirk="errors of a stream in a field named error (to September 2025)",
        source="https://github.com/ggml-org/llama.cpp/pull/16109",
        replies=(
            sse(
                "error: "
                + dump(
                    {
                        "code": 400,
                        "message": "the request exceeds the available context size. "
                        "try increasing the context size or enable context shift",
                        "type": "invalid_request_error",
                    }
                )
                + "\n\n",
            ),
        ),
        error="exceeds the available context size",
    ),
    Chat(
        provider="llama.cpp",
        quirk="status 200 and an exceed_context_size_error in a data line",
        source="https://github.com/oobabooga/textgen/issues/7257",
        replies=(
            sse(
                {
                    "error": {
                        "code": 400,
                        "message": "the request exceeds the available context size. "
                        "try increasing the context size or enable context shift",
                        "type": "exceed_context_size_error",
                        "n_prompt_tokens": 14429,
                        "n_ctx": 8192,
                    }
                },
            ),
        ),
        error="exceeds the available context size",
    ),
    Chat(
        provider="llama.cpp",
        quirk="context exceeded in mid-stream",
        source="https://github.com/unslothai/unsloth/pull/9390",
        replies=(
            sse(
                lc({"role": "assistant", "content": None}),
                lc({"content": "Your deduct"}),
                {
                    "error": {
                        "code": 500,
                        "message": "Context size has been exceeded.",
                        "type": "server_error",
                    }
                },
                done=False,
            ),
        ),
        error="Context size has been exceeded",
    ),
    Chat(
        provider="llama.cpp",
        quirk="503 while the model is loading",
        source=LLAMA_README,
        replies=(
            body(
                {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}},
                503,
                headers=JSON_UTF8,
            ),
        ),
        error="Loading model",
    ),
    Chat(
        provider="llama.cpp",
        quirk="Magistral's [THINK] in the content",
        source="https://github.com/ggml-org/llama.cpp/issues/16158",
        replies=(
            sse(
                lc({"role": "assistant", "content": None}),
                lc({"content": "[THINK]"}),
                lc({"content": "Passage 1 has it."}),
                lc({"content": "[/THINK]"}),
                lc({"content": "Your deductible is $1,500 [1]."}),
                lc({}, "stop"),
            ),
        ),
        text=GOOD_TEXT,
        reasoning="Passage 1 has it.",
    ),
    Chat(
        provider="llama.cpp",
        quirk="NOT_FOUND in backticks",
        source=LLAMA_README,
        replies=(
            sse(
                lc({"role": "assistant", "content": None}),
                lc({"content": "`NOT"}),
                lc({"content": "_FOUND`"}),
                lc({}, "stop"),
                lc({}, choices=[], usage=usage(31, 5), timings=LC_TIMINGS),
            ),
        ),
        text="",
        prompt_tokens=31,
        completion_tokens=5,
    ),
    Embed(
        provider="llama.cpp",
        quirk="base64 with encoding_format in every item",
        source="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/server-common.cpp",
        replies=(
            body(
                {
                    "model": "gpt-3.5-turbo",
                    "object": "list",
                    "usage": {"prompt_tokens": 6, "total_tokens": 6},
                    "data": [
                        {"embedding": b64(*A), "index": 0, "object": "embedding", "encoding_format": "base64"},
                        {"embedding": b64(*B), "index": 1, "object": "embedding", "encoding_format": "base64"},
                    ],
                },
                200,
                headers=JSON_UTF8,
            ),
        ),
        vectors=VECTORS,
    ),
    Embed(
        provider="llama.cpp",
        quirk="500 for a text longer than the physical batch",
        source="https://github.com/ggml-org/llama.cpp/pull/7389",
        replies=(
            body(
                {
                    "error": {
                        "code": 500,
                        "message": "input is too large to process. increase the physical batch size",
                        "type": "server_error",
                    }
                },
                500,
                headers=JSON_UTF8,
            ),
        ),
        error="increase the physical batch size",
    ),
]

# --- llama-cpp-python (sse-starlette) -----------------------------------------------------------------------


def lp(delta: object, finish: str | None = None) -> Obj:
    """A chunk of llama-cpp-python's server."""
    head: Obj = {"id": "chatcmpl-3a0464cf-4236-40d1-99d4-fed5d8f1c554", "model": "qwen2.5-3b-instruct-q8_0.gguf"}
    one: Obj = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**head, "created": 1764165600, "object": "chat.completion.chunk", "choices": [one]}


ROWS += [
    Chat(
        provider="llama-cpp-python",
        quirk="CRLF and ping comments of sse-starlette, JSON with spaces",
        source="https://github.com/abetlen/llama-cpp-python/issues/133",
        replies=(
            sse(
                lp({"role": "assistant"}),
                lp({"content": "Your deductible"}),
                ": ping - 2026-02-03 06:19:47.430583+00:00\r\n\r\n",
                lp({"content": " is $1,500 [1]."}),
                lp({}, "stop"),
                end="\r\n\r\n",
                spaces=True,
                headers=SSE_UTF8,
            ),
        ),
        text=GOOD_TEXT,
    ),
]

# --- Ollama -------------------------------------------------------------------------------------------------

OLLAMA_GO = "https://github.com/ollama/ollama/blob/main/openai/openai.go"


def ol(delta: object, finish: str | None = None, **extra: object) -> Obj:
    """Ollama's chunk."""
    head: Obj = {"id": "chatcmpl-693", "object": "chat.completion.chunk", "created": 1764165600}
    one: Obj = {"index": 0, "delta": delta, "finish_reason": finish}
    return {**head, "model": "qwen3:8b", "system_fingerprint": "fp_ollama", "choices": [one], **extra}


ROWS += [
    Chat(
        provider="Ollama",
        quirk='finish_reason "" until the end (2024)',
        source="https://github.com/ollama/ollama/issues/4357",
        replies=(
            sse(
                ol({"role": "assistant", "content": "Your deductible"}, ""),
                ol({"role": "assistant", "content": " is $1,500"}, ""),
                ol({"role": "assistant", "content": " [1]."}, ""),
                ol({"role": "assistant", "content": ""}, "stop"),
            ),
        ),
        text=GOOD_TEXT,
    ),
    Chat(
        provider="Ollama",
        quirk="thinking in delta.reasoning, delta empty at the end, usage in a chunk of its own",
        source=OLLAMA_GO,
        replies=(
            sse(
                ol({"role": "assistant", "content": "", "reasoning": "Passage 1"}),
                ol({"content": "", "reasoning": " has it."}),
                ol({"content": "Your deductible"}),
                ol({"content": " is $1,500 [1]."}),
                ol({}, "stop"),
                ol({}, choices=[], usage=usage(27, 18)),
            ),
        ),
        text=GOOD_TEXT,
        reasoning="Passage 1 has it.",
        prompt_tokens=27,
        completion_tokens=18,
    ),
    Chat(
        provider="Ollama",
        quirk="a runner's failure in mid-stream becomes an empty chunk, and the stream ends",
        source="https://github.com/ollama/ollama/blob/main/middleware/openai.go",
        replies=(
            sse(
                ol({"role": "assistant", "content": "The waiting"}),
                ol({"content": " period is"}),
                {**ol({"content": ""}), "model": ""},
                done=False,
            ),
        ),
        error="without a finish reason",
    ),
    Chat(
        provider="Ollama",
        quirk="all tokens used for thinking",
        source="https://github.com/NousResearch/hermes-agent/pull/82699",
        replies=(
            sse(
                ol({"role": "assistant", "content": "", "reasoning": "Let me see"}),
                ol({"content": "", "reasoning": " what passage 1 says"}),
                ol({}, "length"),
                ol({}, choices=[], usage=usage(27, 512)),
            ),
        ),
        error="length",
    ),
    Chat(
        provider="Ollama",
        quirk="unknown model",
        source="https://github.com/ollama/ollama/blob/main/server/routes.go",
        replies=(
            body(
                oai_error("model 'qwen3:8b' not found", "not_found_error"),
                404,
                tail="\n",
            ),
        ),
        error="model 'qwen3:8b' not found",
    ),
    Chat(
        provider="Ollama",
        quirk="its own error: error is a text",
        source="https://mintlify.com/ollama/ollama/api/errors",
        replies=(body({"error": "model 'llama3.2' not found"}, 404),),
        error="model 'llama3.2' not found",
    ),
    Embed(
        provider="Ollama",
        quirk="numbers although base64 was requested (older versions)",
        source="https://github.com/openclaw/openclaw/pull/45985",
        replies=(
            body(
                {
                    "object": "list",
                    "data": [
                        {"object": "embedding", "embedding": list(A), "index": 0},
                        {"object": "embedding", "embedding": list(B), "index": 1},
                    ],
                    "model": "nomic-embed-text",
                    "usage": {"prompt_tokens": 2, "total_tokens": 2},
                },
                200,
                tail="\n",
            ),
        ),
        vectors=VECTORS,
    ),
    Embed(
        provider="Ollama",
        quirk="200 with data null",
        source=OLLAMA_GO,
        replies=(
            body(
                {
                    "object": "",
                    "data": None,
                    "model": "",
                    "usage": {"prompt_tokens": 0, "total_tokens": 0},
                },
                200,
                tail="\n",
            ),
        ),
        error="embedding",
    ),
    Embed(
        provider="Ollama",
        quirk="text longer than the context",
        source="https://github.com/ollama/ollama/blob/main/llm/llama_server.go",
        replies=(
            body(
                oai_error("the input length exceeds the context length", "invalid_request_error"),
                400,
                tail="\n",
            ),
        ),
        error="input length exceeds the context length",
    ),
]

# --- LM Studio ----------------------------------------------------------------------------------------------


def lm(delta: object, finish: str | None = None) -> Obj:
    """LM Studio's chunk."""
    return chunk(delta, finish, ident="chatcmpl-wwpbo9vpk4", model="qwen3.5-9b", system_fingerprint="qwen3.5-9b")


ROWS += [
    Chat(
        provider="LM Studio",
        quirk="event: error in mid-stream, the message twice",
        source="https://github.com/zendev-sh/goai/pull/110",
        replies=(
            sse(
                lm({"role": "assistant", "content": "Your deduct"}),
                "event: error\n",
                {"error": {"message": "Compute error."}, "message": "Compute error."},
                done=False,
            ),
        ),
        error="Compute error.",
    ),
    Chat(
        provider="LM Studio",
        quirk="context too small: 200 and an error event",
        source="https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/2322",
        replies=(
            sse(
                "event: error\n",
                {
                    "error": {
                        "message": "The number of tokens to keep from the initial prompt is greater than the context "
                        "length. Try to load the model with a larger context length, or provide a shorter input"
                    },
                    "message": "The number of tokens to keep from the initial prompt is greater than the context "
                    "length. Try to load the model with a larger context length, or provide a shorter input",
                },
                done=False,
            ),
        ),
        error="greater than the context length",
    ),
    Chat(
        provider="LM Studio",
        quirk="prompt too long: a well-formed stream without text",
        source="https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/2339",
        replies=(sse(lm({"role": "assistant"}), lm({}, "stop"), usage_chunk(36000, 0, model="qwen3-coder-30b")),),
        error="no text",
    ),
    Chat(
        provider="LM Studio",
        quirk="reasoning_content used all of max_tokens",
        source="https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/1990",
        replies=(
            sse(
                lm({"role": "assistant", "reasoning_content": "Thinking Process:\n"}),
                lm({"role": "assistant", "reasoning_content": "1. Analyze the Request"}),
                lm({}, "length"),
                usage_chunk(40, 100, model="qwen3.5-9b"),
            ),
        ),
        error="length",
    ),
    Embed(
        provider="LM Studio",
        quirk="numbers although base64 was requested, usage 0",
        source="https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/756",
        replies=(
            body(
                {
                    "object": "list",
                    "data": [
                        {"object": "embedding", "embedding": list(A), "index": 0},
                        {"object": "embedding", "embedding": list(B), "index": 1},
                    ],
                    "model": "text-embedding-nomic-embed-text-v1.5",
                    "usage": {"prompt_tokens": 0, "total_tokens": 0},
                },
                200,
                indent=2,
            ),
        ),
        vectors=VECTORS,
    ),
    Embed(
        provider="LM Studio",
        quirk="error is a text",
        source="https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/692",
        replies=(body({"error": "'input' field must be a string or an array of strings"}, 400),),
        error="'input' field must be a string",
    ),
]

# --- TEI ----------------------------------------------------------------------------------------------------

TEI_SERVER = "https://github.com/huggingface/text-embeddings-inference/blob/main/router/src/http/server.rs"
TEI_INFER = "https://github.com/huggingface/text-embeddings-inference/blob/main/core/src/infer.rs"


def tei_error(message: str, code: int, kind: str) -> Reply:
    """TEI's error on the OpenAI route: message, code and type at the top."""
    return body({"message": message, "code": code, "type": kind}, code)


ROWS += [
    Embed(
        provider="TEI",
        quirk="numbers although base64 was requested (before 1.5)",
        source="https://github.com/huggingface/text-embeddings-inference/issues/288",
        replies=(
            embeddings(
                {"object": "embedding", "embedding": list(A), "index": 0},
                {"object": "embedding", "embedding": list(B), "index": 1},
                model="thenlper/gte-base",
            ),
        ),
        vectors=VECTORS,
    ),
    Embed(
        provider="TEI",
        quirk="batch too large, error without an error key",
        source=TEI_SERVER,
        replies=(tei_error("batch size 64 > maximum allowed batch size 32", 422, "Validation"),),
        error="maximum allowed batch size 32",
    ),
    Embed(
        provider="TEI",
        quirk="429 overloaded",
        source=TEI_SERVER,
        replies=(tei_error("Model is overloaded", 429, "Overloaded"),),
        error="Model is overloaded",
    ),
    Embed(
        provider="TEI",
        quirk="dimensions larger than the model's",
        source=TEI_INFER,
        replies=(
            tei_error(
                "Input validation error: `dimensions` should be smaller than the maximum embedding dimension.",
                422,
                "Validation",
            ),
            embeddings(
                {"object": "embedding", "embedding": b64(*A), "index": 0},
                {"object": "embedding", "embedding": b64(*B), "index": 1},
                model="thenlper/gte-base",
            ),
        ),
        vectors=VECTORS,
        adapts=("dimensions",),
    ),
    Embed(
        provider="TEI",
        quirk="a text with too many tokens",
        source="https://github.com/huggingface/text-embeddings-inference/blob/main/core/src/tokenization.rs",
        replies=(
            tei_error("Input validation error: `inputs` must have less than 512 tokens. Given: 634", 422, "Validation"),
        ),
        error="must have less than 512 tokens",
    ),
]

# --- TGI ----------------------------------------------------------------------------------------------------

TGI_SERVER = "https://github.com/huggingface/text-generation-inference/blob/main/router/src/server.rs"


def tg(delta: object, finish: str | None = None, tokens: Obj | None = None) -> Obj:
    """TGI's chunk: id is empty."""
    one: Obj = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head: Obj = {"id": "", "created": 1764165600, "model": "HuggingFaceH4/zephyr-7b-beta"}
    middle: Obj = {"object": "chat.completion.chunk", "system_fingerprint": "3.3.7-native"}
    return {**head, **middle, "choices": [one], "usage": tokens}


ROWS += [
    Chat(
        provider="TGI",
        quirk="data: without a space, index counts the tokens, no [DONE] (1.4)",
        source="https://github.com/huggingface/text-generation-inference/pull/1648",
        replies=(
            sse(
                *(
                    {
                        "id": "",
                        "object": "text_completion",
                        "created": 1710508199,
                        "model": "HuggingFaceH4/zephyr-7b-beta",
                        "system_fingerprint": "1.4.3-sha-e6bb3ff",
                        "choices": [
                            {
                                "index": n,
                                "delta": {"role": "assistant", "content": word},
                                "logprobs": None,
                                "finish_reason": end,
                            }
                        ],
                    }
                    for n, (word, end) in enumerate(
                        (("Your", None), (" deductible", None), (" is $1,500 [1].", "eos_token")), start=1
                    )
                ),
                prefix="data:",
                done=False,
            ),
        ),
        text=GOOD_TEXT,
        finish_reason="eos_token",
    ),
    Chat(
        provider="TGI",
        quirk="stop_sequence, empty comments as keep-alive",
        source=TGI_SERVER,
        replies=(
            sse(
                ":\n\n",
                tg({"role": "assistant", "content": "Your deductible"}),
                ":\n\n",
                tg({"role": "assistant", "content": " is $1,500 [1]."}),
                tg({"role": "assistant", "content": ""}, "stop_sequence"),
                {**tg({}), "choices": [], "usage": usage(38, 11)},
            ),
        ),
        text=GOOD_TEXT,
        finish_reason="stop_sequence",
        prompt_tokens=38,
        completion_tokens=11,
    ),
    Chat(
        provider="TGI",
        quirk="status 200 and a validation error as only event, error is a text",
        source="https://github.com/huggingface/text-generation-inference/issues/1896",
        replies=(
            sse(
                {
                    "error": "Input validation error: `top_p` must be > 0.0 and < 1.0",
                    "error_type": "validation",
                },
                prefix="data:",
                done=False,
            ),
        ),
        error="`top_p` must be > 0.0 and < 1.0",
    ),
    Chat(
        provider="TGI",
        quirk="failure in mid-stream: message and http_status_code, then [DONE]",
        source="https://github.com/huggingface/text-generation-inference/blob/main/router/src/infer/mod.rs",
        replies=(
            sse(
                tg({"role": "assistant", "content": "Your deduct"}),
                {
                    "error": {
                        "message": "Request failed during generation: Server error: CANCELLED",
                        "http_status_code": 422,
                    }
                },
            ),
        ),
        error="Request failed during generation",
    ),
    Chat(
        provider="TGI",
        quirk="429 overloaded: error and error_type",
        source=TGI_SERVER,
        replies=(body({"error": "Model is overloaded", "error_type": "overloaded"}, 429),),
        error="Model is overloaded",
    ),
    Chat(
        provider="TGI",
        quirk="temperature 0 refused",
        source="https://github.com/huggingface/text-generation-inference/blob/main/router/src/validation.rs",
        replies=(
            body(
                {
                    "error": "Input validation error: `temperature` must be strictly positive",
                    "error_type": "validation",
                },
                422,
            ),
            sse(
                tg({"role": "assistant", "content": "Your deductible"}),
                tg({"role": "assistant", "content": " is $1,500 [1]."}),
                tg({"role": "assistant", "content": ""}, "stop"),
            ),
        ),
        text=GOOD_TEXT,
        adapts=("temperature",),
    ),
    Chat(
        provider="TGI",
        quirk="422 in plain text (axum)",
        source="https://docs.rs/axum/latest/axum/extract/rejection/enum.JsonRejection.html",
        replies=(
            Reply(
                body=b"Failed to deserialize the JSON body into the target type: messages[0]: "
                b"data did not match any variant of untagged enum MessageBody at line 1 column 96",
                status=422,
                headers=TEXT_PLAIN,
            ),
        ),
        error="Failed to deserialize the JSON body",
    ),
]

# --- Voyage -------------------------------------------------------------------------------------------------

VOYAGE_ERRORS = "https://docs.voyageai.com/docs/error-codes"
VOYAGE_API = "https://docs.voyageai.com/reference/embeddings-api"

ROWS += [
    Embed(
        provider="Voyage",
        quirk="base64, usage with total_tokens only",
        source=VOYAGE_API,
        replies=(
            body(
                {
                    "object": "list",
                    "data": [
                        {"object": "embedding", "embedding": b64(*A), "index": 0},
                        {"object": "embedding", "embedding": b64(*B), "index": 1},
                    ],
                    "model": "voyage-3.5",
                    "usage": {"total_tokens": 2},
                },
                200,
            ),
        ),
        vectors=VECTORS,
    ),
    Embed(
        provider="Voyage",
        quirk="429 with a detail only",
        source="https://github.com/assafelovic/gpt-researcher/issues/1148",
        replies=(
            body(
                {
                    "detail": "You have not yet added your payment method in the billing page and will have reduced "
                    "rate limits of 3 RPM and 10K TPM.  Please add your payment method in the billing page "
                    "(https://dash.voyageai.com/billing/payment-methods) to unlock our standard rate limits "
                    "(https://docs.voyageai.com/docs/rate-limits)."
                },
                429,
            ),
        ),
        error="not yet added your payment method",
    ),
    Embed(
        provider="Voyage",
        quirk="401 with a detail only",
        source=VOYAGE_ERRORS,
        replies=(body({"detail": "Provided API key is invalid."}, 401),),
        error="Provided API key is invalid",
    ),
    Embed(
        provider="Voyage",
        quirk="400 for too many tokens in a batch",
        source=VOYAGE_ERRORS,
        replies=(
            body(
                {
                    "detail": "Request to model 'voyage-3' failed. The max allowed tokens per submitted batch is "
                    "120000. Your batch has 134567 tokens after truncation. Please lower the number of tokens in "
                    "the batch.",
                    "error_code": "TOO_MANY_TOKENS_IN_BATCH",
                },
                400,
            ),
        ),
        error="max allowed tokens per submitted batch",
    ),
]

# --- Cohere, SGLang, LocalAI, Fireworks, LightLLM -----------------------------------------------------------


def sg(delta: Obj, finish: str | None = None, matched: object = None) -> Obj:
    """SGLang's chunk: the delta has every key."""
    full: Obj = {"role": None, "content": None, "reasoning_content": None, "tool_calls": None, **delta}
    return chunk(full, finish, ident="7f2c1d9e0b3a", model="qwen3", choice={"matched_stop": matched}, usage=None)


def la(delta: object, finish: str | None = None) -> Obj:
    """LocalAI's chunk."""
    head: Obj = {"created": 1764165600, "object": "chat.completion.chunk", "id": "6d9345bc-4bfd-4baf-b6d3"}
    one: Obj = {"index": 0, "finish_reason": finish, "delta": delta}
    tokens = usage(0, 0)
    return {**head, "model": "fastllama-3.2-1b-instruct", "choices": [one], "usage": tokens}


ROWS += [
    Chat(
        provider="Cohere",
        quirk="401 is a message only",
        source="https://docs.cohere.com/reference/errors",
        replies=(body({"message": "invalid api token"}, 401),),
        error="invalid api token",
    ),
    Chat(
        provider="Cohere",
        quirk="429 of a trial key: id and message",
        source="https://docs.cohere.com/docs/rate-limits",
        replies=(
            body(
                {
                    "id": "0f6c7c5e-9a52-4ee0-a1a2-5d7f0b9f8f57",
                    "message": "You are using a Trial key, which is limited to 40 API calls / minute. You can "
                    "continue to use the Trial key for free or upgrade to a Production key with higher rate limits "
                    "at 'https://dashboard.cohere.com/api-keys'.",
                },
                429,
            ),
        ),
        error="limited to 40 API calls / minute",
    ),
    Chat(
        provider="SGLang",
        quirk="every key of the delta null, matched_stop",
        source="https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/entrypoints/openai/serving_chat.py",
        replies=(
            sse(
                sg({"role": "assistant", "content": ""}),
                sg({"reasoning_content": "Passage 1 has it."}),
                sg({"content": "Your deductible"}),
                sg({"content": " is $1,500 [1]."}),
                sg({}, "stop", 151645),
                usage_chunk(33, 17, model="qwen3"),
                headers=SSE_UTF8,
            ),
        ),
        text=GOOD_TEXT,
        reasoning="Passage 1 has it.",
        prompt_tokens=33,
        completion_tokens=17,
    ),
    Chat(
        provider="SGLang",
        quirk="abort after some words",
        source="https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/entrypoints/openai/protocol.py",
        replies=(
            sse(
                sg({"role": "assistant", "content": ""}),
                sg({"content": "The waiting period"}),
                sg({"content": " is"}),
                sg({}, "abort"),
                headers=SSE_UTF8,
            ),
        ),
        text="The waiting period is",
        finish_reason="abort",
        complete=False,
    ),
    Chat(
        provider="SGLang",
        quirk="context length as the only event of a 200 stream",
        source="https://github.com/BerriAI/litellm/issues/25492",
        replies=(
            sse(
                {
                    "error": {
                        "object": "error",
                        "message": "Requested token count exceeds the model's maximum context length of 196608 "
                        "tokens. You requested a total of 204830 tokens: 172830 tokens from the input messages and "
                        "32000 tokens for the completion. Please reduce the number of tokens in the input messages "
                        "or the completion to fit within the limit.",
                        "type": "BadRequestError",
                        "param": None,
                        "code": 400,
                    }
                },
                spaces=True,
                headers=SSE_UTF8,
            ),
        ),
        error="exceeds the model's maximum context length of 196608",
    ),
    Chat(
        provider="LocalAI",
        quirk="delta null at the end, content null at the start, usage of zeros",
        source="https://github.com/mudler/LocalAI/issues/6053",
        replies=(
            sse(
                la({"role": "assistant", "content": None}),
                la({"content": "Your deductible"}),
                la({"content": " is $1,500 [1]."}),
                la(None, "stop"),
            ),
        ),
        text=GOOD_TEXT,
        prompt_tokens=0,
        completion_tokens=0,
    ),
    Chat(
        provider="LocalAI",
        quirk="500 of the backend, type empty",
        source="https://github.com/mudler/LocalAI/issues/800",
        replies=(
            body(
                {"error": {"code": 500, "message": "rpc error: code = Unknown desc = unimplemented", "type": ""}},
                500,
            ),
        ),
        error="rpc error: code = Unknown",
    ),
    Embed(
        provider="LocalAI",
        quirk="500 of the backend",
        source="https://github.com/mudler/LocalAI/issues/1198",
        replies=(
            body(
                {
                    "error": {
                        "code": 500,
                        "message": "rpc error: code = ResourceExhausted desc = grpc: received message larger than "
                        "max (400000002 vs. 4194304)",
                        "type": "",
                    }
                },
                500,
            ),
        ),
        error="received message larger than max",
    ),
    Chat(
        provider="Fireworks",
        quirk="usage in the chunk that ends, null before",
        source="https://docs.fireworks.ai/guides/querying-text-models",
        replies=(
            sse(
                chunk({"role": "assistant"}, model="accounts/fireworks/models/deepseek-v3p1", usage=None),
                chunk({"content": "Your deductible"}, model="accounts/fireworks/models/deepseek-v3p1", usage=None),
                chunk({"content": " is $1,500 [1]."}, model="accounts/fireworks/models/deepseek-v3p1", usage=None),
                chunk({}, "stop", model="accounts/fireworks/models/deepseek-v3p1", usage=usage(24, 10)),
            ),
        ),
        text=GOOD_TEXT,
        prompt_tokens=24,
        completion_tokens=10,
    ),
    Chat(
        provider="Fireworks",
        quirk="unknown model",
        source="https://github.com/warpdotdev/warp/issues/15107",
        replies=(
            body(
                {
                    "error": {
                        "message": "Model not found, inaccessible, and/or not deployed",
                        "param": "model",
                        "code": "NOT_FOUND",
                        "type": "error",
                    }
                },
                404,
            ),
        ),
        error="Model not found, inaccessible",
    ),
    Chat(
        provider="LightLLM",
        quirk="finish_reason null to the very end, then [DONE]",
        source="https://github.com/ModelTC/LightLLM/issues/130",
        replies=(
            sse(
                *(
                    {
                        "id": "chatcmpl-e93674ffedbb465e9ac7d3b503e29f13",
                        "object": "chat.completion.chunk",
                        "created": 1694575540,
                        "model": "Qwen",
                        "choices": [
                            {"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}
                        ],
                    }
                    for word in ("免赔额", "是1500美元", " [1]。")
                ),
                spaces=True,
            ),
        ),
        text="免赔额是1500美元 [1]。",
        finish_reason="stop",
    ),
]

# --- FastAPI apps, plain proxies, and variants that the SSE specification allows -------------------------------------

FASTAPI = "https://fastapi.tiangolo.com/tutorial/handling-errors/"
SSE_SPEC = "https://html.spec.whatwg.org/multipage/server-sent-events.html"
EMBED_OBJECT = "https://platform.openai.com/docs/api-reference/embeddings/object"

ROWS += [
    Chat(
        provider="FastAPI app",
        quirk="422 with a list of details",
        source=FASTAPI,
        replies=(
            body(
                {
                    "detail": [
                        {
                            "type": "missing",
                            "loc": ["body", "prompt"],
                            "msg": "Field required",
                            "input": {"model": "m"},
                        }
                    ]
                },
                422,
            ),
        ),
        error="Field required",
    ),
    Chat(
        provider="FastAPI app",
        quirk="404 with a detail: wrong path",
        source=FASTAPI,
        replies=(body({"detail": "Not Found"}, 404),),
        error="Not Found",
    ),
    Chat(
        provider="OpenAI-compatible proxy",
        quirk="stream ignored: one chat.completion with thinking inside",
        source="https://platform.openai.com/docs/api-reference/chat/object",
        replies=(
            body(
                completion(
                    {
                        "role": "assistant",
                        "content": "<think>\nPassage 1 has it.\n</think>\n\nYour deductible is $1,500 [1].",
                        "refusal": None,
                        "annotations": [],
                    },
                    "stop",
                    40,
                    16,
                    model="proxy",
                ),
                200,
            ),
        ),
        text=GOOD_TEXT,
        reasoning="Passage 1 has it.",
        prompt_tokens=40,
        completion_tokens=16,
    ),
    Chat(
        provider="OpenAI-compatible proxy",
        quirk="502 in HTML",
        source="https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Status/502",
        replies=(
            Reply(
                body=b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
                b"<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n",
                status=502,
                headers={"content-type": "text/html"},
            ),
        ),
        error="502",
    ),
    Chat(
        provider="OpenAI-compatible proxy",
        quirk="usage chunks with choices null and with choices absent",
        source=OPENAI_STREAM,
        replies=(
            sse(
                chunk({"role": "assistant", "content": "Your deductible"}),
                usage_chunk(40, 3, choices=None),
                chunk({"content": " is $1,500 [1]."}),
                chunk({}, "stop"),
                {
                    "id": "chatcmpl-Bq3xT7Yh2LkPz0Wd",
                    "object": "chat.completion.chunk",
                    "created": 1764165600,
                    "usage": usage(40, 9),
                },
            ),
        ),
        text=GOOD_TEXT,
        prompt_tokens=40,
        completion_tokens=9,
    ),
    Embed(  # not observed on a real server: a proxy that sends the index as a text
        provider="OpenAI-compatible proxy",
        quirk="index as a text",
        source=EMBED_OBJECT,
        replies=(embeddings(item("0", b64(*A)), item("1", b64(*B))),),
        vectors=VECTORS,
    ),
    Embed(  # not observed on a real server: a proxy that joins responses with one embedding each
        provider="OpenAI-compatible proxy",
        quirk="index 0 in every item",
        source=EMBED_OBJECT,
        replies=(embeddings(item(0, list(A)), item(0, list(B))),),
        vectors=VECTORS,
    ),
    Embed(
        provider="OpenAI-compatible proxy",
        quirk="one embedding for two texts",
        source="https://github.com/agno-agi/agno/pull/10128",
        replies=(embeddings(item(0, b64(*A))),),
        error="embedding",
    ),
    Embed(
        provider="OpenAI-compatible proxy",
        quirk="status 200 with an error body",
        source="https://openrouter.ai/docs/errors",
        replies=(body({"error": {"message": "No successful provider responses.", "code": 404}}, 200),),
        error="No successful provider responses",
    ),
    Embed(
        provider="OpenAI-compatible proxy",
        quirk="index omitted, embeddings in the order of the texts",
        source="https://github.com/doobidoo/mcp-memory-service/pull/612",
        replies=(embeddings({"embedding": list(A)}, {"embedding": list(B)}),),
        vectors=VECTORS,
    ),
    Chat(
        provider="SSE specification",
        quirk="BOM, then id, event and retry lines, data without a space",
        source=SSE_SPEC,
        replies=(
            Reply(
                body=b"\xef\xbb\xbf"
                + sse(
                    chunk({"role": "assistant", "content": "Your deductible"}),
                    "retry: 3000\n\n",
                    "id: 1\nevent: message\n",
                    chunk({"content": " is $1,500"}),
                    "id:2\nevent:message\n",
                    chunk({"content": " [1]."}),
                    "id\n",
                    chunk({}, "stop"),
                    prefix="data:",
                ).body,
            ),
        ),
        text=GOOD_TEXT,
    ),
    Chat(
        provider="SSE specification",
        quirk="an event's JSON over several data lines",
        source=SSE_SPEC,
        replies=(
            sse(
                chunk({"role": "assistant", "content": "Your deductible"}),
                'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1764165600,"model":"m",\n'
                'data: "choices":[{"index":0,"delta":{"content":" is $1,500 [1]."},\n'
                'data: "finish_reason":"stop"}]}\n\n',
            ),
        ),
        text=GOOD_TEXT,
    ),
]
