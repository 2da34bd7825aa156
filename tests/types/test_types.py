"""Values, and the checks of input."""

from __future__ import annotations

import pickle
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

import ragcore
from ragcore import Document, InvalidInput
from ragcore.types.validation import (
    check_history,
    check_ids,
    check_mode,
    check_question,
    check_tenant,
    check_threshold,
    check_timeout,
    check_top_k,
)


@pytest.mark.parametrize("question", ["", "  \n", "x" * 1_000_000, "a\0b", "\ud800", None, 3])
def test_an_invalid_question_is_refused(question: object) -> None:
    with pytest.raises(ragcore.InvalidInput):
        check_question(question)


def test_a_uuid_and_its_text_are_one_tenant() -> None:
    assert check_tenant(UUID(int=7)) == check_tenant(str(UUID(int=7)))


@pytest.mark.parametrize("tenant", ["", " ", "a\0", "\udfff", "x" * 1000, 42, None])
def test_an_invalid_tenant_is_refused(tenant: object) -> None:
    with pytest.raises(ragcore.InvalidInput):
        check_tenant(tenant)


def test_a_single_string_instead_of_a_list_of_ids_is_invalid() -> None:
    with pytest.raises(ragcore.InvalidInput, match="put it into a list"):
        check_ids("doc")
    assert check_ids(["b", "a", "b"]) == ["b", "a"]


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), True, "5"])
def test_a_timeout_is_positive_and_finite(timeout: object) -> None:
    with pytest.raises(ragcore.InvalidInput):
        check_timeout(timeout)  # type: ignore[arg-type]


def test_options_are_checked() -> None:
    for bad in (0, 1_001, True, 2.0):
        with pytest.raises(ragcore.InvalidInput):
            check_top_k(bad)  # type: ignore[arg-type]
    for bad in (1.1, -1.1, float("nan"), True):
        with pytest.raises(ragcore.InvalidInput):
            check_threshold(bad)
    with pytest.raises(ragcore.InvalidInput, match="vector, text, hybrid"):
        check_mode("fuzzy")


def test_history_takes_mappings_and_ignores_other_keys() -> None:
    turns = check_history([{"role": "user", "content": "hi", "id": 7}, ragcore.Turn("assistant", "hello")])
    assert turns == (ragcore.Turn("user", "hi"), ragcore.Turn("assistant", "hello"))
    for bad in ([{"role": "system", "content": "x"}], [{"role": "user", "content": None}], [3], {"role": "user"}, "hi"):
        with pytest.raises(ragcore.InvalidInput):
            check_history(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("id", "text", "metadata"),
    [
        ("", "t", {}),
        ("a", "t\0", {}),
        ("a", "\ud800", {}),
        ("a", "t", {"x": object()}),
        ("a", "t", {"x": float("nan")}),
        ("a", "t", {1: 2}),
        ("a", "t", {"x": "\0"}),
    ],
)
def test_a_document_that_could_not_be_stored_is_invalid(id: str, text: str, metadata: dict[str, object]) -> None:
    with pytest.raises(ragcore.InvalidInput):
        ragcore.Document(id, text, metadata=metadata)


def test_health_has_the_documented_form() -> None:
    health = ragcore.Health(
        status="healthy",
        timestamp=datetime(2026, 1, 31, 1, 53, 24, 747_000, UTC),
        services={"database": "healthy"},
        ready=True,
    )
    written = health.to_dict()
    assert list(written)[:3] == ["status", "timestamp", "services"]
    assert written["timestamp"] == "2026-01-31T01:53:24.747Z"


def test_a_secret_never_shows_its_value() -> None:
    secret = ragcore.Secret("sk-canary")
    shown = [repr(secret), str(secret), f"{secret}", repr(ragcore.Config(api_key=secret)), repr([secret])]
    assert all("canary" not in text for text in shown)
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret.reveal() == "sk-canary"
    assert secret == ragcore.Secret("sk-canary")


@pytest.mark.parametrize(
    "error",
    [
        ragcore.InvalidInput("m", stage="embed"),
        ragcore.DeadlineExceeded("m", budget=1.0, elapsed=2.0, stage="search", partial_text="par"),
        ragcore.CircuitOpen("m", dependency="d", retry_after=3.0),
        ragcore.Overloaded("m", dependency="d"),
        ragcore.GenerationError("m", dependency="d", attempts=3, status=503, request_id="r", call_id="c"),
        ragcore.NotOpen("m"),
    ],
)
def test_errors_pickle_with_all_their_attributes(error: ragcore.RagcoreError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), vars(copy)) == (str(error), vars(error))


def test_errors_are_instances_of_matching_standard_errors() -> None:
    assert issubclass(ragcore.InvalidInput, ValueError)
    assert issubclass(ragcore.DeadlineExceeded, TimeoutError)
    assert issubclass(ragcore.Unsupported, ragcore.ConfigurationError)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2030, 1, 1),  # noqa: DTZ001  # a time without a zone is the case to test
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        "2030-01-01",
        date(2030, 1, 1),
        True,
        0,
    ],
)
def test_an_invalid_expiry_is_refused(moment: Any) -> None:
    with pytest.raises(InvalidInput, match="expires_at"):
        Document("d", "text", expires_at=moment)
    Document("d", "text", expires_at=datetime.max.replace(tzinfo=UTC))
