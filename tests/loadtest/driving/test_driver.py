from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest

from ragcore.loadtest.driving.driver import Driver, arrivals
from ragcore.loadtest.driving.monitor import Driving
from ragcore.loadtest.driving.outcome import Outcome
from ragcore.loadtest.load import Objective, measure
from ragcore.loadtest.target import Question, Reply, TargetError
from ragcore.testing import VirtualLoop

QUESTION = Question("What is my deductible?", ("$1,500",))
RIGHT = "It is $1,500."


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Slots:
    """A target that answers a limited number of questions at a time, each after `seconds`, with or without a stream."""

    name = "slots"

    def __init__(self, seconds: float, *, slots: float = math.inf, tokens: int = 0, answer: str = RIGHT) -> None:
        self._seconds = seconds
        self._slots = anyio.CapacityLimiter(slots)
        self._tokens = tokens
        self._answer = answer

    async def ask(self, question: str, /, *, timeout: float, token: Callable[[], None]) -> Reply:
        async with self._slots:
            await anyio.sleep(self._seconds)
            for _ in range(self._tokens):
                token()
                await anyio.sleep(0.1)
        return Reply(self._answer)

    async def health(self) -> Mapping[str, Any] | None:
        return None


class Refusing(Slots):
    async def ask(self, question: str, /, *, timeout: float, token: Callable[[], None]) -> Reply:
        raise TargetError("refused", "no room", status=429)


@pytest.mark.anyio
async def test_an_open_loop_counts_the_time_that_questions_wait_for_a_slow_target() -> None:
    """The test sends two questions per second to a target that needs a second for each. With coordinated omission, all would seem to take one second."""
    driver = Driver(Slots(1.0, slots=1), [QUESTION])
    outcomes = await driver.at_rate(2.0, seconds=10, phase="open", spacing="constant", seed=0)
    assert len(outcomes) == 20
    seconds = sorted(outcome.seconds for outcome in outcomes)
    assert seconds[0] == pytest.approx(1.0)
    assert seconds[-1] == pytest.approx(20 - 9.5)
    assert all(outcome.started == pytest.approx(outcome.due) for outcome in outcomes)


@pytest.mark.anyio
async def test_a_closed_loop_asks_when_its_user_is_ready() -> None:
    driver = Driver(Slots(1.0), [QUESTION])
    outcomes = await driver.at_once(4, each=3, phase="closed")
    assert len(outcomes) == 12
    assert {round(outcome.seconds, 6) for outcome in outcomes} == {1.0}
    assert driver.now() == pytest.approx(3.0)
    assert len(await driver.users(2, seconds=5.0, phase="for so long")) == 10


@pytest.mark.anyio
async def test_a_question_without_an_answer_is_hung_and_ended() -> None:
    (outcome,) = await Driver(Slots(math.inf), [QUESTION], timeout=30.0).at_once(1, each=1, phase="hangs")
    assert outcome.kind == "hung"
    assert outcome.seconds == pytest.approx(35.0)


@pytest.mark.anyio
async def test_an_answer_after_the_timeout_is_late_and_not_right() -> None:
    (outcome,) = await Driver(Slots(2.0), [QUESTION], timeout=1.0).at_once(1, each=1, phase="late")
    assert outcome.kind == "late"
    assert not outcome.ok


@pytest.mark.anyio
async def test_a_refusal_keeps_its_kind_and_status() -> None:
    (outcome,) = await Driver(Refusing(0.0), [QUESTION]).at_once(1, each=1, phase="refused")
    assert (outcome.kind, outcome.status, outcome.detail) == ("refused", 429, "no room")


@pytest.mark.anyio
async def test_tokens_are_timed() -> None:
    (outcome,) = await Driver(Slots(0.5, tokens=5), [QUESTION]).at_once(1, each=1, phase="stream")
    assert outcome.first_token_seconds == pytest.approx(0.5)
    assert outcome.between_tokens == pytest.approx(0.1)
    assert outcome.tokens == 5


def test_poisson_arrivals_have_the_counts_and_gaps_of_a_poisson_process() -> None:
    """The mean and the variance of the counts are rate × seconds. The gaps are distributed exponentially (Kolmogorov-Smirnov test, 1 %)."""
    rate, seconds = 20.0, 50.0
    runs = [list(arrivals(rate, seconds=seconds, seed=seed)) for seed in range(200)]
    counts = [len(run) for run in runs]
    assert statistics.fmean(counts) == pytest.approx(rate * seconds, abs=4 * math.sqrt(rate * seconds / len(runs)))
    assert 0.7 < statistics.variance(counts) / (rate * seconds) < 1.4
    gaps = sorted(later - earlier for run in runs[:5] for earlier, later in itertools.pairwise(run))
    furthest = max(abs((number + 1) / len(gaps) - (1 - math.exp(-rate * gap))) for number, gap in enumerate(gaps))
    assert furthest < 1.63 / math.sqrt(len(gaps))


def test_equal_seeds_give_equal_arrivals_and_constant_arrivals_are_even() -> None:
    assert list(arrivals(5, seconds=3, seed=1)) == list(arrivals(5, seconds=3, seed=1))
    assert list(arrivals(5, seconds=3, seed=1)) != list(arrivals(5, seconds=3, seed=2))
    assert list(arrivals(4, seconds=1, spacing="constant")) == [0.0, 0.25, 0.5, 0.75]


def test_a_driver_that_was_the_bottleneck_reports_it() -> None:
    assert Driving(shared=False, lags=[0.001] * 100, cpu=0.3).judge(1.0) is None
    assert "late" in str(Driving(shared=False, lags=[0.2] * 100, cpu=0.3).judge(1.0))
    assert "bottleneck" in str(Driving(shared=False, lags=[0.001] * 100, cpu=0.97).judge(1.0, open_loop=True))
    # In a closed loop a busy driver only sends fewer questions, so its CPU is not judged.
    assert Driving(shared=False, lags=[0.001] * 100, cpu=0.97).judge(1.0) is None
    assert "late" in str(Driving(shared=True).judge(0.5, lateness=0.2))
    assert Driving(shared=False, lags=[0.2] * 100, cpu=0.3).judge(10.0) is None  # a fiftieth of the measured latency


@pytest.mark.anyio
async def test_an_unexpected_error_is_one_failed_question_and_does_not_end_the_run() -> None:
    class Deep(Slots):
        async def ask(self, question: str, /, *, timeout: float, token: Callable[[], None]) -> Reply:
            raise RecursionError("too deep")

    (outcome,) = await Driver(Deep(0.0), [QUESTION]).at_once(1, each=1, phase="deep")
    assert (outcome.kind, outcome.detail) == ("protocol", "RecursionError: too deep")


@pytest.mark.anyio
async def test_users_pause_after_an_immediate_refusal() -> None:
    outcomes = await Driver(Refusing(0.0), [QUESTION]).users(1, seconds=1.0, phase="dead")
    assert 40 <= len(outcomes) <= 60


@pytest.mark.anyio
async def test_the_longest_pause_between_tokens_is_recorded() -> None:
    class Stalls(Slots):
        async def ask(self, question: str, /, *, timeout: float, token: Callable[[], None]) -> Reply:
            for pause in (0.0, 0.1, 4.0, 0.1):
                await anyio.sleep(pause)
                token()
            return Reply(RIGHT)

    (outcome,) = await Driver(Stalls(0.0), [QUESTION]).at_once(1, each=1, phase="stalls")
    assert outcome.longest_pause == pytest.approx(4.0)


def outcome(seconds: float, *, first: float | None = None, due: float = 0.0) -> Outcome:
    tokens = 0 if first is None else 3
    last = None if first is None else due + seconds
    begun = None if first is None else due + first
    return Outcome("p", "q", due, due, begun, last, due + seconds, "right", tokens=tokens)


def test_an_answer_without_a_first_token_does_not_meet_its_objective() -> None:
    objective = Objective(slo_seconds=10, slo_first_token=1.0)
    assert objective.met_by(outcome(2.0, first=0.5))
    assert not objective.met_by(outcome(2.0, first=1.5))
    assert not objective.met_by(outcome(2.0))
    assert Objective(slo_seconds=10).met_by(outcome(2.0))


def test_goodput_of_a_closed_loop_uses_the_actual_time() -> None:
    """The load was to last 2 s, and its ten answers took 8 s."""
    part = [outcome(8.0) for _ in range(10)]
    own = Driving(shared=False)
    assert measure([part], Objective(), own, seconds=2.0, open_loop=False).values["goodput"] == pytest.approx(10 / 8)
    assert measure([part], Objective(), own, seconds=2.0, open_loop=True).values["goodput"] == pytest.approx(5)
