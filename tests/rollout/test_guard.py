"""The guard: what it finds and how soon, that chance rolls nothing back, and that it always decides."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import Answer, Citation, Passage
from ragcore.rollout import Evidence, Guard, Tally
from ragcore.rollout.comparison import differences
from ragcore.rollout.sequential import is_higher, is_more_frequent

SEEDS = 25


def judged(
    seed: int,
    *,
    guard: Guard,
    errors: float = 0.01,
    slower: float = 1.0,
    wrong: float = 0.01,
    stable_errors: float = 0.01,
    share: float = 0.05,
    most: int = 2_000,
    limit: float = math.inf,
) -> tuple[str, int]:
    """Simulate calls, and let the guard judge after each call of the candidate. Return its decision, and after how many of the candidate's calls."""
    draw, evidence = random.Random(seed), Evidence()
    while evidence.candidate.calls < most:
        is_candidate = draw.random() < share
        fails = draw.random() < (errors if is_candidate else stable_errors)
        seconds = (slower if is_candidate else 1.0) * 2.0 * math.exp(draw.gauss(0, 0.6))
        side = evidence.side("candidate" if is_candidate else "stable")
        late = is_candidate and seconds >= limit
        side.count("late" if late else "failed" if fails else "ok", limit if late else seconds, limit=limit)
        if is_candidate:
            evidence.compare(("figures",) if draw.random() < wrong else ())
            verdict = guard.judge(evidence, seconds=1_000)
            if verdict.action != "wait":
                return verdict.action, evidence.candidate.calls
    return "wait", most


@pytest.mark.parametrize(
    "candidate", [{"errors": 0.1}, {"slower": 2.0}, {"wrong": 0.2}, {"errors": 0.3, "share": 0.5}], ids=str
)
def test_a_bad_candidate_is_rolled_back_within_200_of_its_calls(candidate: dict[str, float]) -> None:
    found = [judged(seed, guard=Guard(), most=200, **candidate) for seed in range(SEEDS)]
    assert [action for action, _ in found].count("roll_back") >= SEEDS - 1


def test_a_slow_candidate_whose_slowest_calls_run_out_of_time_still_seems_slow() -> None:
    """Without the calls that were too late, the 95th percentile of a candidate that takes twice as long is only just beyond the limit."""
    evidence, draw = Evidence(), random.Random(1)
    for _ in range(4_000):
        evidence.stable.count("ok", 2.0 * math.exp(draw.gauss(0, 0.6)), limit=10.0)
        seconds = 4.0 * math.exp(draw.gauss(0, 0.6))
        evidence.candidate.count("ok" if seconds < 10 else "late", min(seconds, 10.0), limit=10.0)
    tail, other_tail = evidence.candidate.quantile(0.95), evidence.stable.quantile(0.95)
    assert tail is not None
    assert other_tail is not None
    assert tail > 1.75 * other_tail
    found = [judged(seed, guard=Guard(), most=200, slower=2.0, limit=10.0) for seed in range(4 * SEEDS)]
    assert [action for action, _ in found].count("roll_back") >= 4 * SEEDS - 1


def test_further_steps_need_more_evidence_so_all_steps_together_raise_few_false_alarms() -> None:
    """These are the calls with which an equal candidate was rolled back at the second step."""
    evidence = Evidence(stable=Tally(calls=1_505, failed=14), candidate=Tally(calls=316, failed=13))
    assert [Guard().judge(evidence, seconds=1_000, step=step).action for step in (0, 2)] == ["roll_back", "wait"]
    evidence.candidate.failed = 20
    assert Guard().judge(evidence, seconds=1_000, step=2).action == "roll_back"


def test_a_stable_answer_that_the_candidate_would_have_had_no_time_for_counts_as_a_failure() -> None:
    evidence = Evidence(stable=Tally(calls=1_505, failed=14), candidate=Tally(calls=316, failed=13))
    assert Guard().judge(evidence, seconds=1_000).action == "roll_back"
    for _ in range(40):
        evidence.stable.count("ok", 16.0, limit=15.0)
    assert (evidence.stable.failed, evidence.stable.overtime) == (14, 40)
    assert Evidence.of(evidence.to_dict()) == evidence
    assert Guard().judge(evidence, seconds=1_000).action != "roll_back"


@pytest.mark.parametrize("rate", [0.001, 0.01])
def test_an_equal_candidate_is_promoted_and_chance_rolls_nothing_back(rate: float) -> None:
    found = [judged(seed, guard=Guard(), errors=rate, stable_errors=rate) for seed in range(SEEDS)]
    assert [action for action, _ in found].count("promote") >= SEEDS - 1


def test_even_at_its_limit_a_candidate_does_not_wait_forever() -> None:
    guard = Guard(most_calls=400)
    for seed in range(10):
        action, calls = judged(seed, guard=guard, errors=0.05, stable_errors=0.05)
        assert action != "wait"
        assert calls <= 400


def test_a_certain_but_small_difference_rolls_nothing_back() -> None:
    evidence = Evidence(Tally(calls=100_000, failed=1_000), Tally(calls=20_000, failed=400))
    assert is_more_frequent(400, 20_000, 1_000, 100_000, false_alarm=0.01)
    assert Guard().judge(evidence, seconds=100).action == "promote"
    assert Guard(error_difference=0.005).judge(evidence, seconds=100).action == "roll_back"


def test_absolute_limits_hold_whatever_the_stable_side_does() -> None:
    def after(outcome: str, seconds: float) -> Evidence:
        evidence = Evidence()
        for _ in range(60):
            for side in ("stable", "candidate"):
                evidence.side(side).count(outcome, seconds)  # type: ignore[arg-type]
        return evidence

    assert Guard().judge(after("failed", 1), seconds=1).reason.startswith("success: 0 of the candidate's 60 calls")
    assert Guard().judge(after("ok", 40), seconds=1).reason.startswith("p95: the candidate's 95th percentile is 4")
    assert Guard(success=None, p95=None).judge(after("ok", 40), seconds=1).action == "wait"


def test_answers_with_fallbacks_inside_count_even_though_the_calls_succeed() -> None:
    evidence = Evidence(Tally(calls=2_000, degraded=10), Tally(calls=100, degraded=60))
    assert Guard().judge(evidence, seconds=1).reason.startswith("degraded: 60 of the candidate's 100 calls")


def test_a_step_takes_a_number_of_calls_and_a_time() -> None:
    evidence = Evidence(Tally(calls=1_000), Tally(calls=200))
    assert Guard().judge(evidence, seconds=59).action == "wait"
    assert Guard().judge(evidence, seconds=60).action == "promote"
    assert Guard(least_calls=300).judge(evidence, seconds=60).action == "wait"


@pytest.mark.parametrize(
    "test",
    [
        lambda draw: _ever(draw, lambda k, n, *_: is_higher(k, n, 0.05, false_alarm=0.05)),
        lambda draw: _ever(draw, lambda k, n, j, m: is_more_frequent(k, n, j, m, false_alarm=0.05)),
    ],
    ids=["one side", "two sides"],
)
def test_a_test_that_is_evaluated_after_every_call_keeps_its_probability_of_a_false_alarm(
    test: Callable[[random.Random], bool],
) -> None:
    alarms = sum(test(random.Random(seed)) for seed in range(300))
    assert alarms <= 300 * 0.05


def _ever(draw: random.Random, alarm: Callable[[int, int, int, int], bool]) -> bool:
    """Whether an alarm is raised at any of 1,000 calls of each side, of which 5 % fail."""
    mine = theirs = 0
    for calls in range(1, 1_001):
        mine += draw.random() < 0.05
        theirs += draw.random() < 0.05
        if alarm(mine, calls, theirs, calls):
            return True
    return False


@given(
    one=st.lists(st.tuples(st.sampled_from(["ok", "degraded", "failed", "late", "hung"]), st.floats(0, 10_000))),
    other=st.lists(st.tuples(st.sampled_from(["ok", "failed"]), st.floats(0, 10_000))),
)
def test_evidence_of_two_processes_is_the_evidence_of_one(
    one: list[tuple[str, float]], other: list[tuple[str, float]]
) -> None:
    parts, whole = [Evidence(), Evidence()], Evidence()
    for part, calls in zip(parts, (one, other), strict=True):
        for outcome, seconds in calls:
            for evidence in (part, whole):
                evidence.candidate.count(outcome, seconds)  # type: ignore[arg-type]
                evidence.compare(("found",) if outcome == "ok" else ())
    assert parts[0].plus(parts[1:]) == whole
    assert Evidence.of(whole.to_dict()) == whole


@given(st.lists(st.floats(0.002, 3_000), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_exact_to_a_bucket(seconds: list[float], share: float) -> None:
    tally = Tally()
    for one in seconds:
        tally.count("ok", one)
    exact = sorted(seconds)[math.ceil(share * len(seconds)) - 1]
    found = tally.quantile(share)
    assert found is not None
    assert exact * (1 - 1e-9) <= found <= exact * 2 ** (1 / 16) * (1 + 1e-9)


def _answer(text: str, *documents: str, found: bool = True) -> Answer:
    passages = [Passage(name, name, text) for name in documents]
    citations = tuple(Citation(number, passage, 0, 3) for number, passage in enumerate(passages, 1))
    return Answer(text, found=found, citations=citations)


@pytest.mark.parametrize(
    ("stable", "candidate", "expected"),
    [
        ("It is $1,500.", "The deductible: 1500 dollars.", ()),
        ("It is $1,500.", "It is $1,000.", ("figures",)),
        ("It is $1,500.", "It is $1,500 for you, and $3,000 for a family.", ()),
        ("It is high.", "It is $1,500.", ()),
        (_answer("a", "d1"), _answer("a", "d2"), ("citations",)),
        (_answer("a", "d1", "d2"), _answer("a", "d2"), ()),
        (_answer("a", "d1"), _answer("b", found=False), ("found",)),
        (_answer("$5", found=False), _answer("$6", found=False), ()),
        (_answer("in 2020", "d1"), _answer("in 2021", "d1"), ("figures",)),
        ({"any": "value"}, {"any": "other"}, ()),
    ],
)
def test_answers_differ_by_what_they_found_their_figures_and_their_documents(
    stable: object, candidate: object, expected: tuple[str, ...]
) -> None:
    assert differences("What is the deductible?", stable, candidate) == expected
