"""Follow-up questions: `is_follow_up` recognises them, and `context_of` returns the words to add."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ragcore import Turn
from ragcore.text.follow_up import MOST_CONTEXT, REPORTED, context_of, is_follow_up

DEPENDENT = (
    "And for my family?",
    "How much is it?",
    "How long does that take?",
    "What about the battery?",
    "In colour?",
    "How long?",
    "Why?",
    "What happens to my order then?",
    "Und für Kinder?",
    "Wie oft?",
    "Braucht man dafür ein Rezept?",
    "Et pour les étudiants ?",
    "Quand est-elle rendue ?",
    "¿Y para mi familia?",
    "E per i bambini?",
    "En voor kinderen?",
    "E para crianças?",
    "子供は？",
)
STANDALONE = (
    "What is my deductible?",
    "Is dental covered?",
    "When are you open?",
    "When did the founder die?",
    "Welche Kündigungsfrist habe ich?",
    "Was kostet ein Einbettzimmer?",
    "Combien coûte un parking ?",
    "¿Cuál es mi franquicia?",
    "Qual è la mia franchigia?",
    "Wat kost een parkeerplaats?",
    "Quanto custa uma vaga?",
    "保証期間はどのくらいですか？",
    "Explain the difference between the two plans that you offer to families in my region.",
)


@pytest.mark.parametrize("question", DEPENDENT)
def test_a_question_that_points_back_or_is_a_part_of_a_sentence_is_a_follow_up(question: str) -> None:
    assert is_follow_up(question)


@pytest.mark.parametrize("question", STANDALONE)
def test_a_whole_question_is_not_a_follow_up(question: str) -> None:
    assert not is_follow_up(question)


def test_the_context_is_the_latest_question_that_stands_alone() -> None:
    history = [
        Turn("user", "What is my deductible?"),
        Turn("assistant", "It is $500 [1]."),
        Turn("user", "And for my family?"),
        Turn("assistant", "It is $1,000 [1]."),
    ]
    assert context_of("And out of network?", history) == "What is my deductible?"
    assert context_of("Is dental covered?", history) == ""


def test_without_a_question_that_stands_alone_the_latest_one_is_joined() -> None:
    assert context_of("And abroad?", [Turn("user", "And for my family?"), Turn("user", "And now?")]) == "And now?"


def test_answers_and_reported_answers_are_not_questions() -> None:
    history = [Turn("assistant", "Ask me."), Turn("user", f"{REPORTED}\n<answer>\nWhat is a copay?\n</answer>")]
    assert context_of("And abroad?", history) == ""


@given(
    st.text(min_size=1, max_size=60),
    st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), st.text()), max_size=6),
)
@example("0", [Turn("user", "1\r0")])
def test_the_context_is_short_one_line_and_comes_from_the_history(question: str, history: list[Turn]) -> None:
    context = context_of(question, history)
    assert len(context) <= MOST_CONTEXT
    assert len(context.splitlines()) <= 1
    asked = [" ".join(turn.content.split()) for turn in history if turn.role == "user"]
    # Words that the question replaces are left out, wherever they stand: what is left has its order.
    assert not context or any(_is_subsequence(context, text) for text in asked)


def _is_subsequence(part: str, text: str) -> bool:
    rest = iter(text)
    return all(character in rest for character in part)


@pytest.mark.parametrize(
    ("before", "question", "context"),
    [
        ("What is the deductible of plan 3?", "And of plan 4?", "What is the deductible of plan"),
        ("What did a repair cost in 2024?", "And in 2025?", "What did a repair cost in"),
        ("What does the gold plan cost?", "And the silver plan?", "What does the plan cost?"),
        ("What does the gold plan cost?", "And for the whole family?", "What does the gold plan cost?"),
        ("What does plan 4 cost?", "And for families in plan 4?", "What does plan 4 cost?"),
        ("Was kostet der Tarif 3?", "Und Tarif 4?", "Was kostet Tarif"),
        ("How many bikes may I rent for 3 days?", "And is it insured?", "How many bikes may I rent for 3 days?"),
    ],
)
def test_what_a_question_replaces_is_left_out_of_its_context(before: str, question: str, context: str) -> None:
    assert context_of(question, [Turn("user", before), Turn("assistant", "An answer.")]) == context
