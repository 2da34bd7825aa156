from __future__ import annotations

import math

import pytest

from ragcore.loadtest.words import heading, label, number, percent, quantity, seconds, worth_showing


@pytest.mark.parametrize(
    ("name", "value", "words", "shown"),
    [
        ("p95_s", 12.84, "p95", "12.8 s"),
        ("success_rate", 0.976, "success", "97.6 %"),
        ("success_rate", 1.0, "success", "100 %"),
        ("success_rate", 0.9996, "success", "99.96 %"),
        ("rss_growth_kb_per_question_low", 3.45, "memory growth per question, at least", "3.45 kB"),
        ("goodput", 26.68, "answers within the objective", "26.7 per second"),
        ("at_highest.p95_s", 2.0, "at the highest rate: p95", "2 s"),
        ("concurrency 5, first_token_p50_s", 0.5, "concurrency 5, first token p50", "0.5 s"),
        ("asked", 1317, "questions asked", "1,317"),
        ("import_ms", 12.05, "import", "12.1 ms"),
        ("langchain.cold_s", None, "langchain: cold", "–"),
        ("max_s", math.nan, "slowest", "–"),
        ("rate", 1500.0, "rate", "1,500"),
    ],
)
def test_a_figure_is_shown_in_words_with_its_unit(name: str, value: float | None, words: str, shown: str) -> None:
    assert (label(name), quantity(name, value)) == (words, shown)


def test_the_heading_of_a_column_has_the_unit() -> None:
    assert (heading("p95_s"), number("p95_s", 12.84)) == ("p95 s", "12.8")
    assert (heading("wrong"), number("wrong", 3)) == ("wrong", "3")


def test_shares_and_times_have_their_units() -> None:
    assert (percent(0.95), seconds(0.25)) == ("95 %", "0.25 s")


def test_unmeasured_figures_and_errors_that_did_not_occur_are_left_out() -> None:
    values = {"hung": 0, "errors.http": 0, "errors.timeout": 2, "rss_growth_mb": None}
    assert worth_showing(values) == {"hung": 0, "errors.timeout": 2}
