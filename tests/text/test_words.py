"""Tests of words, sentences, tokens and events."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import Passage, estimate_tokens, events
from ragcore.generation.extractive import quote
from ragcore.text import tokens
from ragcore.text.tokens import TokenCounter
from ragcore.text.words import after_blanks, content_words, sentences

from ..conftest import shared


@given(st.text(max_size=300))
def test_sentences_are_ordered_pieces_without_space_around_and_lose_only_space(text: str) -> None:
    spans = list(sentences(text))
    # A blank that carries a mark, such as a variation selector, is not white space.
    assert all(a < b and after_blanks(text, a, b) == a and not text[b - 1].isspace() for a, b in spans)
    assert all(one[1] <= other[0] for one, other in zip(spans, spans[1:], strict=False))
    kept = {i for a, b in spans for i in range(a, b)}
    assert all(text[i].isspace() for i in range(len(text)) if i not in kept)


def test_a_number_is_never_cut() -> None:
    text = "Your deductible is $1,500.50 per year. See e.g. section 2.3 of the plan. Dr. Lee agrees."
    assert [text[a:b] for a, b in sentences(text)] == [
        "Your deductible is $1,500.50 per year.",
        "See e.g. section 2.3 of the plan.",
        "Dr. Lee agrees.",
    ]


def test_plurals_and_possessives_are_folded() -> None:
    assert content_words("The policies' deductibles for glasses") == content_words("policy deductible glasse")


def test_estimates_grow_with_the_text() -> None:
    assert estimate_tokens("") == 0
    assert estimate_tokens("a") == 1
    assert 250 <= estimate_tokens("word " * 200) <= 350


def test_counting_never_waits_for_the_ranks() -> None:
    counter = TokenCounter("a-model-that-tiktoken-does-not-know")
    assert counter.count("hello world") == estimate_tokens("hello world")
    assert counter.wait(5.0) is False


def test_counts_are_exact_once_the_ranks_are_loaded() -> None:
    shared("tiktoken")
    counter = TokenCounter("gpt-4o-mini")
    assert counter.wait(20.0)
    assert counter.count("hello <|endoftext|> world") > 5  # special tokens are plain text
    assert abs(counter.count("word " * 5_000) - 5_000) < 20


def test_missing_ranks_are_reported_once_for_all_models(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import tiktoken

    def no_network(model: str) -> None:
        raise ConnectionError(model)

    monkeypatch.setattr(tiktoken, "encoding_for_model", no_network)
    monkeypatch.setattr(tokens, "_warned", False)
    for counter in [TokenCounter("gpt-4o"), TokenCounter("gpt-4o-mini"), TokenCounter("text-embedding-3-small")]:
        assert counter.wait(20.0) is False
        assert not counter.loading
    (record,) = [
        record for record in caplog.records if record.name == "ragcore.tokens" and record.levelname == "WARNING"
    ]
    assert "set TIKTOKEN_CACHE_DIR" in record.getMessage()


def test_how_long_asks_for_a_number_and_not_for_the_word_long() -> None:
    assert content_words("How long is the warranty, and how often is it renewed?") == ["warranty", "renewed"]
    assert "long" in content_words("Is a long cable included?")


def test_the_ranks_load_in_a_daemon_thread() -> None:
    TokenCounter("gpt-4o")
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "ragcore-tokens")


def test_listeners_get_events_until_they_unsubscribe_and_their_errors_are_contained(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[str] = []

    def broken(event: events.Event) -> None:
        raise ValueError(event.name)

    stop_broken = events.subscribe(broken)
    stop = events.subscribe(lambda event: heard.append(f"{event.name} {event.source} {event.data['n']}"))
    events.emit("a.b", "source", n=1)
    stop()
    stop()
    stop_broken()
    events.emit("a.c", "source", n=2)
    assert heard == ["a.b source 1"]
    assert "a.b" in caplog.text
    assert not events.listening()


def test_a_listener_gets_only_the_events_that_it_has_named() -> None:
    heard: list[str] = []
    stop_all = events.subscribe(lambda event: heard.append(f"all {event.name}"))
    stop = events.subscribe(lambda event: heard.append(f"some {event.name}"), names=["a.b", "a.c"])
    events.emit("a.b")
    events.emit("a.d")
    stop_all()
    events.emit("a.c")
    events.emit("a.d")
    assert heard == ["all a.b", "some a.b", "all a.d", "some a.c"]
    assert (events.listening("a.c"), events.listening("a.d"), events.listening()) == (True, False, True)
    stop()
    assert not events.listening()
    assert not events.listening("a.c")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text", ["." * 200_000 + "a", "\n" * 200_000, "\n" + " " * 200_000, "!)" * 100_000, "a" * 200_000, "- " * 100_000]
)
def test_long_runs_take_linear_time(text: str) -> None:
    """If the time were quadratic, each of these texts would take minutes."""
    assert len(list(sentences(text))) <= len(text)
    assert quote(text[:32_000], [Passage("c", "d", text[:20_000])]) is not None
