"""Thinking between tags is separated from the answer, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore.generation.thinking import Thinking


def split(text: str, cuts: list[int], **options: bool) -> tuple[str, str, bool]:
    """Return (answer, thinking, whether the text ends within thinking)."""
    thinking = Thinking(**options)
    out, at, number = "", 0, 0
    while at < len(text):
        size = cuts[number % len(cuts)]
        out += thinking.take(text[at : at + size])
        at, number = at + size, number + 1
    return out + thinking.end(), thinking.thought, thinking.open


CUTS = st.lists(st.integers(1, 12), min_size=1, max_size=6)
CASES = [
    ("<think>It is in [1].</think>It is $40 [1].", "It is $40 [1].", "It is in [1]."),
    ("<think></think>\n\nIt is $40.", "It is $40.", ""),
    ("<think>\n\n</think>\n\nIt is $40.", "It is $40.", ""),
    ("<THINK>a</Think>b", "b", "a"),
    ("<thinking>a</thinking>b", "b", "a"),
    ("<thought>a</thought>b", "b", "a"),
    ("[THINK]a[/THINK]b", "b", "a"),
    ("<|channel|>analysis<|message|>a<|end|>b", "b", "a"),
    ("It is\n<think>still?</think>\n$40.", "It is\n\n$40.", "still?"),
    ("<mm:think>a [1]</mm:think>b", "b", "a [1]"),
    ("◁think▷a◁/think▷b", "b", "a"),
    ("<|begin_of_thought|>a<|end_of_thought|>b", "b", "a"),
    ("<|START_THINKING|>a<|END_THINKING|>b", "b", "a"),
    ("<think >a</think >b", "b", "a"),
    ("<thoughts>a</thoughts>b", "b", "a"),
    ("<think>a<think>b</think>c</think>d", "d", "a<think>b</think>c"),
    ("<think>a</think>It is $40.<think>secret [1]</think> Yes.", "It is $40. Yes.", "asecret [1]"),
    ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>", "b", "a"),
    ("<|start|>assistant<|channel|>final<|message|>b", "b", ""),
    ("The tag </think> ends it.", "The tag </think> ends it.", ""),
    ("b<|im_end|>", "b", ""),
    ("The tag <think> is HTML-like.", "The tag <think> is HTML-like.", ""),
    ("a < b and x[1] <thin ice>", "a < b and x[1] <thin ice>", ""),
    ("no thinking [1]", "no thinking [1]", ""),
]


@given(case=st.sampled_from(CASES), cuts=CUTS)
def test_thinking_is_removed_from_the_answer(case: tuple[str, str, str], cuts: list[int]) -> None:
    text, answer, thought = case
    assert split(text, cuts) == (answer, thought, False)


@given(cuts=CUTS)
def test_without_a_closing_tag_everything_is_thinking(cuts: list[int]) -> None:
    answer, thought, still_open = split("<think>It is $40 [1]", cuts)
    assert (answer, thought, still_open) == ("", "It is $40 [1]", True)


@pytest.mark.parametrize(
    "closing", ["</think>", "</thinking>", "</THINK>", "[/THINK]", "</thought>", "◁/think▷", "</mm:think>"]
)
@given(cuts=CUTS)
def test_a_closing_tag_alone_ends_thinking(closing: str, cuts: list[int]) -> None:
    for text in (f"It is in [1].\n{closing}\n\n$40 [1].", f"It is in [1].{closing}\n$40 [1]."):
        thinking = Thinking()
        shown, at, number = "", 0, 0
        while at < len(text):
            size = cuts[number % len(cuts)]
            piece = thinking.take(text[at : at + size])
            shown = piece if thinking.omits_opening_tag and shown.startswith("It") else shown + piece
            at, number = at + size, number + 1
        shown += thinking.end()
        assert thinking.omits_opening_tag
        assert thinking.thought == "It is in [1]."
        assert shown.strip() == "$40 [1]."


@given(cuts=CUTS)
def test_text_of_a_model_that_sends_only_a_closing_tag_is_held_back(cuts: list[int]) -> None:
    assert split("It is in [1].</think>\n\n$40 [1].", cuts, begun=True)[:2] == ("$40 [1].", "It is in [1].")
    assert split("$40 [1].", cuts, begun=True)[:2] == ("$40 [1].", "")
    assert split("<think>a</think>b", cuts, begun=True)[:2] == ("b", "a")


@given(st.text(alphabet="abc <>[]/\nthink", max_size=80), CUTS)
def test_cuts_make_no_difference(text: str, cuts: list[int]) -> None:
    whole, cut = Thinking(), Thinking()
    expected = whole.take(text) + whole.end()
    answer, thought, still_open = split(text, cuts)
    if not whole.omits_opening_tag:  # the text before a lone closing tag was returned before that tag arrived
        assert (answer.strip(), thought, still_open) == (expected.strip(), whole.thought, whole.open)
    assert cut.thought == ""


def test_the_kept_thinking_is_bounded() -> None:
    thinking = Thinking(most=100)
    thinking.take("<think>")
    for _ in range(1_000):
        thinking.take("x" * 10)
    assert len(thinking.thought) == 100


@pytest.mark.parametrize("tag", ["<", "<t", "<think", "</think", "[", "[THIN"])
def test_the_beginning_of_a_tag_at_the_end_is_text(tag: str) -> None:
    assert split(f"It is {tag}", [1])[0] == f"It is {tag}"


@pytest.mark.timeout(20)
def test_long_thinking_of_a_model_that_sends_only_a_closing_tag_takes_linear_time() -> None:
    """If each piece were searched for together with all the text before it, this would take a minute."""
    thinking = Thinking(begun=True)
    assert "".join(thinking.take("word ") for _ in range(40_000)) == ""
    assert thinking.take("</thi") + thinking.take("nk>$40 [1].") + thinking.end() == "$40 [1]."
    assert thinking.thought.startswith("word word")


@given(cuts=CUTS)
def test_white_space_may_stand_before_an_opening_tag_that_is_not_expected(cuts: list[int]) -> None:
    assert split(" \n" * 60 + "<think>a</think>b", cuts, begun=True)[:2] == ("b", "a")
