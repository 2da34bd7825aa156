"""Servers' error messages are read in every shape, within limits, and without secrets."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import EmbeddingError
from ragcore.wire.failure import judge, translate
from ragcore.wire.refusal import ServerError, read_refusal

SAID = [
    ({"error": {"message": "no such thing", "type": "t", "code": "c"}}, "no such thing"),
    ({"error": "no such thing"}, "no such thing"),
    ({"error": "no such thing", "error_type": "validation"}, "no such thing"),
    ([{"error": {"message": "no such thing", "status": "INVALID_ARGUMENT"}}], "no such thing"),
    ({"detail": "no such thing"}, "no such thing"),
    ({"detail": [{"loc": ["body", "top_p"], "msg": "no such thing", "input": "the member's question"}]}, "top_p: no such thing"),
    ({"object": "error", "message": "no such thing", "code": 400}, "no such thing"),
    ({"message": "no such thing"}, "no such thing"),
    ({"title": "no such thing", "status": 400}, "no such thing"),
    ({"errors": [{"message": "no such thing"}]}, "no such thing"),
    ({"error": {"message": {"detail": "no such thing"}}}, "no such thing"),
    ({"error": {"metadata": {"raw": "no such thing"}, "message": "Provider returned error"}}, "no such thing"),
    (b"no such thing", "no such thing"),
    (b"<html><head><title>no such thing</title></head></html>", "no such thing"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "said"), SAID)
def test_the_message_is_read_in_every_shape(body: object, said: str) -> None:
    refusal = read_refusal(body, status=400)
    assert refusal is not None
    assert said in refusal.said
    assert "member's question" not in refusal.said
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    again = read_refusal(raw, status=400)
    assert again is not None
    assert again.said == refusal.said


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "error",
                        "message",
                        "detail",
                        "code",
                        "type",
                        "errors",
                        "msg",
                        "loc",
                        "metadata",
                        "raw",
                        "status",
                        "param",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_no_shape_raises_an_error(body: object) -> None:
    refusal = read_refusal(body, status=400, in_answer=True)
    assert refusal is None or isinstance(refusal, ServerError)
    assert read_refusal(body, status=500) is not None


TOO_LONG = [
    "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens",
    "the request exceeds the available context size, try increasing it",
    "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 3000",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "Please reduce the length of the messages or completion.",
    "Input validation error: `inputs` must have less than 512 tokens. Given: 634",
    "The input token count (40000) exceeds the maximum number of tokens allowed (32768).",
]  # fmt: skip


@pytest.mark.parametrize("said", TOO_LONG)
@pytest.mark.parametrize("status", [400, 422, 500, 503, None])
def test_a_request_that_is_too_long_is_neither_retried_nor_counted_against_the_server(
    said: str, status: int | None
) -> None:
    error = ServerError(said, status=status)
    assert error.is_too_long
    assert judge(error) is None
    assert not error.is_of_configuration
    assert "exceeds the model's token limit" in str(
        translate(error, EmbeddingError, dependency="m", stage="embed", attempts=1)
    )


@pytest.mark.parametrize(
    ("error", "of_configuration", "tried_again"),
    [
        (ServerError("bad key", status=401), True, False),
        (ServerError("no credit", status=402), True, False),
        (ServerError("The model `x` does not exist", status=404), True, False),
        (ServerError("Invalid model name passed in model=x", status=400), True, False),
        (ServerError("quota", status=429, code="insufficient_quota"), True, False),
        (ServerError("slow down", status=429), False, True),
        (ServerError("oops", status=500), False, True),
        (ServerError("oops", status=None), False, True),
        (ServerError("bad text", status=400), False, False),
        (ServerError("elsewhere", status=307), True, False),
    ],
)
def test_a_refusal_is_judged_by_its_meaning(error: ServerError, of_configuration: bool, tried_again: bool) -> None:
    assert error.is_of_configuration is of_configuration
    failure = judge(error)
    assert (failure is not None and failure.retry) is tried_again
    ours = translate(error, EmbeddingError, dependency="the embedder m", stage="embed", attempts=2)
    assert isinstance(ours, EmbeddingError)
    assert ours.of_configuration is of_configuration
    assert (ours.status, ours.attempts) == (error.status, 2)
    assert error.said in str(ours)


@pytest.mark.parametrize(
    "said",
    [
        "no available server",
        "The model is not available right now, please retry",
        "Model x is not loaded yet",
        "No model replica is ready",
        "no model workers",
        "the model server is overloaded",
    ],
)
@pytest.mark.parametrize("status", [500, 503])
def test_a_loading_model_is_retried(said: str, status: int) -> None:
    error = ServerError(said, status=status)
    assert not error.is_of_configuration
    failure = judge(error)
    assert failure is not None
    assert failure.retry


@pytest.mark.parametrize(
    "body",
    [b"[" * 60_000, b'{"detail": [{"loc": 5, "msg": "m"}]}', b"\xff\xfe", b'{"error": {"code": [1]}}', b'"text"', b"7"],
)
def test_an_unusual_body_is_read_without_an_error(body: bytes) -> None:
    refusal = read_refusal(body, status=503)
    assert refusal is not None
    assert judge(refusal) is not None


def test_a_body_that_was_cut_off_still_shows_its_message() -> None:
    refusal = read_refusal(
        b'{"error": {"message": "the \\"key\\" is odd", "param": "x", "trace": "' + b"y" * 100, status=400
    )
    assert refusal is not None
    assert "is odd" in refusal.said


@pytest.mark.parametrize(
    ("code", "status"),
    [("rate_limit_exceeded", 429), ("overloaded_error", 529), (503, 503), ("429", 429), ("server_error", 500)],
)
def test_an_error_in_an_answer_has_the_status_that_its_code_stands_for(code: object, status: int) -> None:
    refusal = read_refusal({"error": {"message": "m", "code": code}}, status=None, in_answer=True)
    assert refusal is not None
    assert refusal.status == status
