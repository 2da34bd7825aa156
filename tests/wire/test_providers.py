"""The response shapes of all providers, over a real socket, whole and cut anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import anyio
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from ragcore import (
    EmbeddingError,
    Generation,
    GenerationError,
    OpenAIEmbedder,
    OpenAIGenerator,
    Passage,
    Prompt,
    RagcoreError,
)
from ragcore.resilience import Policy
from tests.examples import examples
from tests.wire.providers import ROWS
from tests.wire.serving import Scripted
from tests.wire.shapes import Chat, Embed, Reply

CHATS = [row for row in ROWS if isinstance(row, Chat)]
EMBEDS = [row for row in ROWS if isinstance(row, Embed)]
PROMPT = Prompt(
    "What is my deductible?", passages=(Passage("c", "d", "It is $1,500."),), instructions="Be brief.", max_tokens=50
)
ONCE = Policy(retry=False, breaker=False, first_timeout=5, idle_timeout=5)


def name(row: Chat | Embed) -> str:
    return f"{row.provider}: {row.quirk}"


def test_the_table_is_large_and_names_each_quirk_once_with_its_source() -> None:
    names = Counter(map(name, ROWS))
    assert max(names.values()) == 1
    assert len(names) >= 60
    assert all(row.source.startswith("https://") for row in ROWS)
    providers = {row.provider for row in ROWS}
    assert providers >= {
        "OpenAI", "Azure", "Mistral", "DeepSeek", "Qwen", "Gemini", "Anthropic", "Groq", "Together", "OpenRouter", "LiteLLM", "vLLM", "llama.cpp",
        "Ollama", "LM Studio", "TEI", "Voyage",
    }  # fmt: skip


async def generated(
    row: Chat, cuts: Sequence[int] = ()
) -> tuple[Generation | RagcoreError, str, list[dict[str, object]]]:
    """Return the result or the error, the streamed text, and the requests."""
    pieces: list[str] = []
    async with (
        Scripted(row.replies, cuts=cuts) as server,
        OpenAIGenerator("m", base_url=server.base_url, api_key="k", policy=ONCE) as generator,
    ):
        try:
            async with generator.stream(PROMPT) as stream:
                async for piece in stream:
                    if isinstance(piece, Generation):
                        return piece, "".join(pieces), server.requests
                    pieces.append(piece)
        except GenerationError as error:
            return error, "".join(pieces), server.requests
    raise AssertionError("the stream ended without a result")


def check_chat(row: Chat, out: Generation | RagcoreError, streamed: str, requests: Sequence[dict[str, object]]) -> None:
    if row.error is not None:
        assert isinstance(out, GenerationError), out
        assert row.error.lower() in str(out).lower()
        assert "\n" not in str(out)
        assert len(str(out)) < 600
        return
    assert isinstance(out, Generation), out
    assert out.text == row.text
    assert "NOT_FOUND" not in streamed
    if out.text:  # thinking without an opening tag is recognised only at its end
        assert streamed.endswith(out.text) if "only </think>" in row.quirk else streamed == out.text
    assert out.finish_reason == row.finish_reason
    assert out.complete is row.complete
    assert out.reasoning == row.reasoning
    assert (out.usage.prompt_tokens, out.usage.completion_tokens) == (row.prompt_tokens, row.completion_tokens)
    for parameter in row.adapts:
        if parameter == "system":
            assert requests[0]["messages"][0]["role"] == "system"  # type: ignore[index]
            assert requests[-1]["messages"][0]["role"] != "system"  # type: ignore[index]
            assert "Be brief." in str(requests[-1]["messages"])
        else:
            assert parameter in requests[0]
            assert parameter not in requests[-1]


@pytest.mark.anyio
@pytest.mark.parametrize("row", CHATS, ids=name)
async def test_each_shape_of_a_chat_is_understood(row: Chat) -> None:
    check_chat(row, *await generated(row))


async def embedded(row: Embed, cuts: Sequence[int] = ()) -> tuple[np.ndarray | RagcoreError, list[dict[str, object]]]:
    async with (
        Scripted(row.replies, cuts=cuts) as server,
        OpenAIEmbedder(
            "m", dimension=4, dimensions=True, base_url=server.base_url, api_key="k", policy=ONCE
        ) as embedder,
    ):
        try:
            return np.asarray(await embedder.embed(["a", "b"], kind="document")), server.requests
        except EmbeddingError as error:
            return error, server.requests


def check_embed(row: Embed, out: np.ndarray | RagcoreError, requests: Sequence[dict[str, object]]) -> None:
    if row.error is not None:
        assert isinstance(out, EmbeddingError), out
        assert row.error.lower() in str(out).lower()
        return
    assert isinstance(out, np.ndarray), out
    assert np.allclose(out, np.asarray(row.vectors), atol=1e-6)
    for parameter in row.adapts:
        assert parameter in requests[0]
        assert requests[-1].get(parameter) != requests[0][parameter]


@pytest.mark.anyio
@pytest.mark.parametrize("row", EMBEDS, ids=name)
async def test_each_shape_of_an_embedding_is_understood(row: Embed) -> None:
    check_embed(row, *await embedded(row))


# Each stream has only one of these, because a lone CR before an LF would be one line end, not two.
ENDINGS = (b"\n", b"\r\n", b"\r")


def with_endings(reply: Reply, ending: bytes) -> Reply:
    """Return the stream with other line endings. A body that is not a stream stays unchanged."""
    if "event-stream" not in reply.headers.get("content-type", ""):
        return reply
    plain = reply.body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return Reply(body=plain.replace(b"\n", ending), status=reply.status, headers=reply.headers)


@examples(0.8, suppress_health_check=list(HealthCheck))
@given(
    row=st.sampled_from(CHATS),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    ending=st.sampled_from(ENDINGS),
)
def test_a_stream_gives_the_same_answer_however_it_is_cut(row: Chat, cuts: list[int], ending: bytes) -> None:
    changed = Chat(
        **{field: getattr(row, field) for field in Chat.__dataclass_fields__ if field != "replies"},
        replies=tuple(with_endings(reply, ending) for reply in row.replies),
    )
    check_chat(changed, *anyio.run(generated, changed, cuts))


@examples(0.5, suppress_health_check=list(HealthCheck))
@given(row=st.sampled_from(EMBEDS), cuts=st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_embeddings_are_the_same_however_the_body_is_cut(row: Embed, cuts: list[int]) -> None:
    check_embed(row, *anyio.run(embedded, row, cuts))
