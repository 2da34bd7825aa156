"""Comparing the words of a question with those of a text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore.text.languages import ENGLISH, GERMAN, LANGUAGES, RUSSIAN, Language, language_of
from ragcore.text.matching import MOST_WORDS, Wanted, likeness, split_words


@pytest.mark.parametrize(
    ("one", "other", "like"),
    [
        ("cost", "costs", 1.0),
        ("pay", "pays", 1.0),
        ("kostet", "kosten", 1.0),
        ("insure", "insurance", 0.5),
        ("percentage", "percent", 0.5),
        ("haus", "hauser", 0.5),
        ("kosten", "reparaturkosten", 0.5),
        ("car", "care", 0.0),
        ("cost", "coast", 0.0),
        ("1500", "15000", 0.0),
        ("2024", "2023", 0.0),
        ("保証", "証期", 0.0),
    ],
)
def test_forms_of_a_word_match_wholly_and_relatives_by_half(one: str, other: str, like: float) -> None:
    assert likeness(one, other) == likeness(other, one) == like


def test_words_are_folded_and_keep_their_order() -> None:
    assert split_words("The CAFÉ costs 1,500.50 € or 20 %, größer") == [
        *("the", "cafe", "costs", "1,500.50", "or", "20", "%", "grosser"),
    ]
    assert split_words("किताब की कीमत") == ["किताब", "की", "कीमत"]  # vowel signs belong to their words
    assert split_words("保証期間 24") == ["保証", "証期", "期間", "24"]
    assert split_words("각하") == ["각하"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_words_of_each_language_are_spelled_as_texts_are_split(language: Language) -> None:
    for words in (language.function_words, language.asks, [language.alternative]):
        assert [word for word in words if split_words(word) != [word]] == []


def test_the_language_is_that_of_most_function_words() -> None:
    assert language_of(split_words("Was kostet die Reparatur?")) is GERMAN
    assert language_of(split_words("Сколько стоит доставка?")) is RUSSIAN
    assert language_of(["xylophone"]) is ENGLISH
    assert Wanted("Preis?", around=split_words("Der Preis ist hoch und die Lieferung ist frei.")).language is GERMAN


def test_names_and_numbers_weigh_double_and_long_words_more_than_short_ones() -> None:
    weights = Wanted("Which team won Rome in 1999?").weights
    assert set(weights) == {"team", "won", "rome", "1999"}
    assert weights["rome"] == weights["1999"] == pytest.approx(2 * weights["team"])
    assert weights["team"] > weights["won"]


def test_words_that_only_ask_do_not_count_unless_there_are_no_others() -> None:
    assert set(Wanted("What is the name of the river?").weights) == {"river"}
    assert set(Wanted("What does this word mean?").weights) == {"word", "mean"}
    assert set(Wanted("How long is the bridge?").weights) == {"bridge"}


def test_a_compound_matches_its_parts_and_the_parts_match_the_compound() -> None:
    whole = Wanted("Wie hoch sind die Reparaturkosten?")
    assert whole.find(split_words("Eine Reparatur kostet 40 Euro.")).words == {"reparaturkosten": 1.0}
    assert whole.find(split_words("Eine Reparatur ist möglich.")).words == {"reparaturkosten": 0.5}
    parts = Wanted("Was kosten Reparaturen?")
    assert parts.find(["reparaturkosten"]).words == {"kosten": 1.0, "reparaturen": 1.0}
    assert parts.find(["versandkosten"]).words == {"kosten": 0.5}


def test_the_percent_sign_is_a_word() -> None:
    assert Wanted("What percentage is it?").find(split_words("20 %")).words == {"percentage": 0.5}


def test_neighbours_are_found_across_function_words() -> None:
    wanted = Wanted("What is the capital of France?")
    assert wanted.phrases(wanted.find(split_words("The capital of France is Paris."))) == 1.0
    assert wanted.phrases(wanted.find(split_words("France has a large capital."))) == 0.0


def test_without_words_the_others_sum_to_1() -> None:
    wanted = Wanted("Is my plan an HMO or a PPO?")
    wanted.without({"hmo"})
    assert set(wanted.weights) == {"plan", "ppo"}
    assert wanted.find(["hmo"]).words == {}
    assert sum(wanted.weights.values()) == pytest.approx(1.0)


ODD = st.text(alphabet=st.characters(exclude_categories=[]), max_size=60)


@given(ODD, ODD)
def test_coverage_lies_between_0_and_1_and_a_question_covers_itself(question: str, text: str) -> None:
    wanted = Wanted(question, around=split_words(text))
    assert not wanted.weights or math.isclose(sum(wanted.weights.values()), 1.0)
    own = wanted.find(split_words(text))
    assert set(own.words) <= set(wanted.weights)
    assert 0.0 <= wanted.coverage(own.words, {}, around_weight=0.5) <= 1.0 + 1e-9
    assert 0.0 <= wanted.phrases(own) <= 1.0
    itself = wanted.find(split_words(question))
    assert math.isclose(wanted.coverage(itself.words, {}, around_weight=0.5), 1.0 if wanted.weights else 0.0)


@given(ODD, ODD)
def test_likeness_is_symmetric_and_1_for_equal_words(one: str, other: str) -> None:
    assert likeness(one, other) == likeness(other, one)
    assert likeness(one, one) == 1.0


def test_a_long_question_is_cut() -> None:
    assert len(Wanted(" ".join(f"word{number}" for number in range(5_000))).weights) == MOST_WORDS
