"""Messages hide keys and the server's quotations of the request."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore.wire.unsaid import NOTHING, Unsaid


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-abc123def456ghi789",
        "Incorrect API key provided: sk-pr***********************x789. You can find it",
        "bad key gsk_AbCdEf0123456789AbCdEf",
        "header Authorization: Bearer abcdef0123456789",
        "invalid x-api-key: 0123456789abcdef",
        "token='abc123456789'",
        "AIzaSyA0123456789abcdefghijklmnopqrstuv is not valid",
        "proxy http://user:pa55word@proxy.internal:3128 refused",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc is expired",
        "the key my-own-secret-key is unknown",
    ],
)
def test_no_key_is_shown(text: str) -> None:
    shown = Unsaid(["my-own-secret-key"]).hide(text)
    assert "[hidden]" in shown
    for secret in ("sk-p", "gsk_Ab", "abcdef01", "abc123", "AIzaSy", "pa55", "eyJhb", "my-own", "x789"):
        assert secret not in shown


@pytest.mark.parametrize(
    "text",
    [
        "This model's maximum context length is 8192 tokens",
        "Unsupported parameter: 'max_tokens'",
        "The token limit is 4096",
        "the model task-runner does not exist",
        "a basic question",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    assert NOTHING.hide(text) == text


@given(st.text(max_size=5_000))
def test_the_message_is_short_and_on_one_line(text: str) -> None:
    shown = NOTHING.hide(text)
    assert len(shown) <= 300
    assert "\n" not in shown
    assert "\r" not in shown


def request(*texts: str, **others: object) -> bytes:
    messages = [{"role": "user", "content": text} for text in texts]
    return json.dumps({"model": "gpt-4o-mini", "temperature": 0, "messages": messages, **others}).encode()


QUESTION = 'Is my "HIV" treatment covered,\nand is Dr. O\'Neil in the network of plan 4711-A?'
JAPANESE = "\u79c1\u306e\u7cd6\u5c3f\u75c5\u306e\u6cbb\u7642\u306f\u5bfe\u8c61\u3067\u3059\u304b"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"your prompt {QUESTION!r} was filtered", "your prompt '[quoted]?' was filtered"),
        ("can't process: treatment covered, and is dr. o'neil IN THE network", "can't process: [quoted]"),
        ("the word 'HIV' isn't allowed", "the word '[quoted]' isn't allowed"),
        ("the value 4711-A is no number", "the value [quoted] is no number"),
        ("blocked: \u201ctreatment\u201d", "blocked: \u201c[quoted]\u201d"),
        (f"\u9055\u53cd: {JAPANESE[2:9]}", "\u9055\u53cd: [quoted]"),
    ],
)
def test_quotations_of_the_request_are_removed(said: str, shown: str) -> None:
    assert Unsaid(body=request("Answer in few words.", f"Passages\n{QUESTION}\n{JAPANESE}")).hide(said) == shown


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 8192 tokens, and your messages have 9000",
        "Unsupported parameter: 'max_tokens' is not supported with this model",
        "The model 'gpt-4o-mini' does not exist or you do not have access to it",
        "Rate limit reached in organization org-1: limit 3, used 3",
        "treatment of the request failed",
    ],
)
def test_a_servers_own_words_stay(said: str) -> None:
    assert Unsaid(body=request(QUESTION, "What is the limit of my plan? Is it covered or not?")).hide(said) == said


def test_texts_are_found_in_every_shape_of_a_request() -> None:
    text = "my rare disease is porphyria"
    for body in (
        json.dumps({"input": [text, "x"]}),
        json.dumps({"input": text}),
        json.dumps({"prompt": text}),
        json.dumps({"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}),
        json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=False),
    ):
        assert Unsaid(body=body.encode()).hide(f"bad: {text}!") == "bad: [quoted]!"
    for broken in (b"", b"{", b"[" * 100_000, b"\xff\xfe"):
        assert Unsaid(body=broken).hide(f"bad: {text}!") == f"bad: {text}!"


@given(st.text(max_size=600), st.text(min_size=30, max_size=400))
def test_no_long_piece_of_a_request_is_ever_shown(around: str, text: str) -> None:
    shown = Unsaid(body=request(text)).hide(f"{around[:300]} {text} {around[300:]}")
    words = [word for word in text.split() if len(word) > 3 and word.isascii() and word.isalpha()]
    phrase = " ".join(dict.fromkeys(words))
    assert len(shown) <= 300
    assert len(dict.fromkeys(words)) < 3 or phrase not in shown


def test_its_repr_shows_no_secret() -> None:
    assert "secret" not in repr(Unsaid(["my secret"], b"my secret"))
