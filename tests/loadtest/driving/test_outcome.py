from __future__ import annotations

import pytest

from ragcore.loadtest.driving.outcome import judge
from ragcore.loadtest.target import Question, Reply

QUESTION = Question("What is my deductible?", ("$1,500",))


@pytest.mark.parametrize(
    ("text", "degraded", "kind"),
    [
        ("Your deductible is $1,500.", False, "right"),
        ("your DEDUCTIBLE is\n$1,500", False, "right"),
        ("Your deductible is $1,500.", True, "degraded"),
        ("Your deductible is $500.", False, "wrong"),
        ("Your deductible is $500.", True, "wrong"),
        ("I'm sorry, an error occurred. Please try again.", False, "apology"),
        ("I could not find any documents.", False, "apology"),
        ("", False, "apology"),
        ("Sorry, an error occurred. I cannot answer: is your deductible $1,500?", False, "apology"),
        ("Your deductible is $1,500.75.", False, "wrong"),
        ("Your deductible is $21,500 or $1,5001.", False, "wrong"),
        ("Your deductible is **$1,500**, sorry to say.", False, "right"),
    ],
)
def test_an_answer_is_judged_by_its_content(text: str, degraded: bool, kind: str) -> None:
    assert judge(QUESTION, Reply(text, degraded=degraded)) == kind


def test_a_right_answer_contains_every_fact() -> None:
    both = Question("What do I pay?", ("$1,500", "20 percent"))
    assert judge(both, Reply("$1,500, then 20  percent")) == "right"
    assert judge(both, Reply("$1,500")) == "wrong"


def test_without_a_fact_any_answer_except_an_apology_is_right() -> None:
    assert judge(Question("Hello?"), Reply("Hello.")) == "right"
    assert judge(Question("Hello?"), Reply("Sorry.")) == "apology"
