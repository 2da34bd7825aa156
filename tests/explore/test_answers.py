"""`explore.answers` asks questions and judges the answers by rule, by labels and by a model. `compare` compares two runs in pairs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from ragcore import Document, Generation, InvalidInput, NotOpen, Price, Prompt, Settings, Usage, generation
from ragcore.explore import Agreement, Answers, AnswersComparison, Labelled, answers, compare
from ragcore.explore.judging import agreement
from ragcore.testing import Fail, FakeGenerator, fake_rag

pytestmark = pytest.mark.anyio

DOCUMENTS = [
    Document("plan", "Your deductible is $1,500 per calendar year."),
    Document("ambulance", "An ambulance ride costs a copay of $150."),
    Document("dental", "Two dental cleanings a year are covered in full."),
]
LABELS = [
    Labelled("What is my deductible?", ["plan"], tenant="m", tags=("cost",), answer="$1,500"),
    Labelled("What does an ambulance cost?", ["ambulance"], tenant="m", tags=("cost",), answer="$150"),
    Labelled("How many dental cleanings are covered?", ["dental"], tenant="m", answer="two"),
    Labelled("Who won the dental cup?", [], tenant="m", unanswerable=True),
]


class Scripted:
    """Returns the reply of the first word in `script` that the question contains. In a reply, {n} is the number of the passage of document n."""

    model = "scripted"

    def __init__(self, script: dict[str, str]) -> None:
        self.script = script
        self.prompts: list[Prompt] = []
        self.busy = self.most = 0

    async def generate(self, prompt: Prompt, /) -> Generation:
        self.prompts.append(prompt)
        self.busy += 1
        self.most = max(self.most, self.busy)
        await anyio.sleep(0)
        self.busy -= 1
        text = next((reply for word, reply in self.script.items() if word in prompt.question), "")
        for number, passage in enumerate(prompt.passages, start=1):
            text = text.replace("{" + passage.document_id + "}", f"[{number}]")
        usage = Usage(prompt_tokens=1_000, completion_tokens=100)
        return Generation(text, model=self.model, usage=usage)

    def stream(self, prompt: Prompt, /):  # type: ignore[no-untyped-def]
        return generation.at_once(self.generate(prompt))


GOOD = {
    "deductible": "It is $1,500 a year {plan}.",
    "ambulance": "It costs $150 {ambulance}.",
    "cleanings": "Two cleanings {dental}.",
    "cup": "",
}
BAD = {
    "deductible": "It is $1,600 a year, says Dr. Miller {plan}{dental}.",
    "ambulance": "",
    "cleanings": "Two cleanings.",
    "cup": "Emma won the cup {dental}.",
}


@pytest.fixture
async def prices(anyio_backend: str) -> Settings:
    return Settings(watchdog=False, degrade=False, prices={"scripted": Price(prompt=1.0, completion=10.0)})


async def run(script: dict[str, str], settings: Settings, **options: object) -> Answers:
    async with fake_rag(generator=Scripted(script), settings=settings) as rag:
        await rag.add(DOCUMENTS, tenant="m")
        return await answers(rag, LABELS, **options)  # type: ignore[arg-type]


async def test_a_good_run_has_the_best_value_of_each_measure(prices: Settings) -> None:
    found = await run(GOOD, prices)
    best = (
        "answered",
        "contains_gold",
        "grounded",
        "figures_grounded",
        "cited",
        "citation_precision",
        "citation_recall",
    )
    assert {measure: found.mean(measure) for measure in best} == dict.fromkeys(best, 1.0)
    assert (found.mean("false_answers"), found.mean("failed"), found.mean("degraded")) == (0.0, 0.0, 0.0)
    assert found.mean("cost") == pytest.approx((1_000 * 1.0 + 100 * 10.0) / 1e6)
    assert found.mean("names_grounded") is None
    assert found.mean("judged_right") is None
    low, high = found.interval("answered") or (0, 0)
    assert (round(low, 2), high) == (0.44, 1.0)


async def test_each_fault_of_a_bad_run_is_measured(prices: Settings) -> None:
    found = await run(BAD, prices)
    deductible, ambulance, dental, cup = found.questions
    assert deductible.ungrounded == ("$1,600", "Dr. Miller")
    assert (deductible.contains_gold, deductible.citation_precision, deductible.citation_recall) == (0.0, 0.5, 1.0)
    assert (ambulance.found, ambulance.contains_gold, ambulance.citation_recall) == (False, 0.0, 0.0)
    assert (dental.citations, dental.grounded, dental.contains_gold) == (0, 0.0, 1.0)
    assert (dental.citation_precision, dental.citation_recall) == (None, 0.0)
    assert (cup.found, cup.value("false_answers"), cup.value("answered"), cup.right_by_label) == (
        True,
        1.0,
        None,
        False,
    )
    assert found.mean("answered") == pytest.approx(2 / 3)
    assert any("No answer to 33 % of the answerable questions (1 of 3)" in note for note in found.notes)
    assert any("An answer to 100 % of the unanswerable questions (1 of 1)" in note for note in found.notes)


async def test_two_runs_are_compared_question_by_question(prices: Settings) -> None:
    good, bad = await run(GOOD, prices), await run(BAD, prices)
    comparison = compare(bad, good)
    assert isinstance(comparison, AnswersComparison)
    rows = {row["measure"]: row for row in comparison.to_dicts()}
    assert (rows["answered"]["questions"], rows["answered"]["better"], rows["answered"]["worse"]) == (3, 1, 0)
    assert rows["answered"]["difference"] == pytest.approx(1 / 3)
    assert (rows["false_answers"]["difference"], rows["false_answers"]["better"]) == (-1.0, 1)
    assert not rows["answered"]["clear"]  # three pairs are too few for a clear difference
    same = {row["measure"]: row for row in compare(good, good).to_dicts()}
    assert (same["answered"]["low"], same["answered"]["high"]) == pytest.approx((-0.708, 0.708), abs=1e-3)
    many = Answers(
        tuple(replace(one, question=f"{one.question} {turn}") for turn in range(30) for one in good.questions)
    )
    worse = Answers(
        tuple(replace(one, question=f"{one.question} {turn}") for turn in range(30) for one in bad.questions)
    )
    assert "answered +0.333" in repr(compare(worse, many))
    with pytest.raises(InvalidInput, match="the same questions"):
        compare(good, Answers(good.questions[:2]))


async def test_a_failed_call_is_counted_and_the_run_goes_on() -> None:
    model = FakeGenerator("It is covered [1].")
    model.faults.next(Fail(500))
    async with fake_rag(generator=model, settings=Settings(watchdog=False, degrade=False)) as rag:
        await rag.add(DOCUMENTS, tenant="m")
        found = await answers(rag, LABELS, at_once=1)
    assert [bool(one.error) for one in found.questions] == [True, False, False, False]
    first = found.questions[0]
    assert (first.value("answered"), first.value("contains_gold"), first.value("degraded")) == (0.0, 0.0, None)
    assert found.mean("failed") == 0.25
    assert "1 failed" in repr(found)
    assert any("1 of 4 calls failed (GenerationError 1)" in note for note in found.notes)


async def test_degraded_answers_are_marked() -> None:
    model = FakeGenerator("It is covered [1].")
    model.faults.always(Fail(500))
    async with fake_rag(generator=model) as rag:
        await rag.add(DOCUMENTS, tenant="m")
        found = await answers(rag, LABELS[:2])
    assert [one.degraded for one in found.questions] == [("generate: extractive",)] * 2
    assert "2 degraded" in repr(found)
    assert any("2 answers are degraded" in note for note in found.notes)


async def test_errors_that_concern_every_question_are_raised() -> None:
    rag = fake_rag()
    with pytest.raises(NotOpen):
        await answers(rag, LABELS)
    async with fake_rag() as rag:
        with pytest.raises(TypeError, match="topk"):
            await answers(rag, LABELS, topk=3)  # type: ignore[call-arg]
        with pytest.raises(InvalidInput):
            await answers(rag, [])
        with pytest.raises(InvalidInput):
            await answers(rag, LABELS, at_once=0)


async def test_at_most_at_once_calls_run_and_options_reach_them(prices: Settings) -> None:
    model = Scripted(GOOD)
    async with fake_rag(generator=model, settings=prices) as rag:
        await rag.add(DOCUMENTS, tenant="m")
        await answers(rag, LABELS * 4, at_once=3, top_k=1, instructions="Be brief.")
    assert model.most <= 3
    assert {(len(prompt.passages), prompt.instructions) for prompt in model.prompts} == {(1, "Be brief.")}


class Judge(Scripted):
    def __init__(self, *replies: str) -> None:
        super().__init__(dict(zip(("deductible", "ambulance", "cleanings", "cup"), replies, strict=True)))


async def test_a_judge_is_compared_with_the_labels(prices: Settings) -> None:
    judge = Judge("RIGHT.", "right", "Wrong, because …", "RIGHT")
    found = await run({**GOOD, "cup": "Emma won {dental}."}, prices, judge=judge)
    assert [one.judged_right for one in found.questions] == [True, True, False, True]
    # By the labels, the first three answers are right, and the answer to the unanswerable question is wrong.
    assert found.agreement() == Agreement(both_right=2, both_wrong=0, judge_only=1, label_only=1)
    assert found.agreement({LABELS[0].question: True, LABELS[2].question: False}).share == 1.0
    assert (
        found.agreement([{"question": LABELS[0].question, "right": "0"}, {"question": "?", "right": ""}]).share == 0.0
    )
    with pytest.raises(InvalidInput, match="write 1 or 0"):
        found.agreement([{"question": "q", "right": "perhaps"}])
    (prompt,) = (one for one in judge.prompts if "deductible" in one.question)
    assert "RIGHT" in prompt.instructions
    assert "It is $1,500 a year" in prompt.question
    assert prompt.passages
    assert any(note.startswith("The judge and the labels: Agreement(4 answers: 50 %") for note in found.notes)


async def test_a_judge_that_fails_or_says_nothing_usable_is_counted(prices: Settings) -> None:
    class Broken(Judge):
        async def generate(self, prompt: Prompt, /) -> Generation:
            if "ambulance" in prompt.question:
                raise RuntimeError("no judge today")
            return await super().generate(prompt)

    found = await run(GOOD, prices, judge=Broken("Perhaps.", "", "", ""))
    deductible, ambulance, dental, cup = found.questions
    assert (deductible.judged_right, deductible.judge_error) == (None, "the reply contains neither RIGHT nor WRONG")
    assert (ambulance.judged_right, ambulance.judge_error) == (None, "RuntimeError: no judge today")
    assert (dental.judged_right, dental.judge_error) == (False, "")  # the passages don't support the answer
    assert (cup.judged_right, cup.judge_error) == (None, "")  # there is no answer to judge
    assert any("no verdict on 2 of 3 answers" in note for note in found.notes)


async def test_kappa_is_cohens() -> None:
    # The example of Wikipedia's article "Cohen's kappa": 20, 15, 5 and 10 of 50.
    found = Agreement(both_right=20, both_wrong=15, judge_only=10, label_only=5)
    assert found.share == 0.7
    assert found.kappa == pytest.approx(0.4)
    low, high = found.kappa_interval or (0, 0)
    assert 0.1 < low < 0.4 < high < 0.65
    perfect = agreement([(True, True)] * 5 + [(False, False)] * 5)
    assert (perfect.kappa, perfect.kappa_interval and round(perfect.kappa_interval[0], 2)) == (1.0, 0.44)
    assert agreement([(True, True)] * 3).kappa is None
    assert math.isnan(agreement([]).share)
    assert "no answer has both" in repr(agreement([]))


@pytest.mark.blocking_allowed
async def test_results_are_shown_saved_and_loaded(prices: Settings, tmp_path: Path) -> None:
    bad = await run({**BAD, "cleanings": "<script>alert(1)</script> Two."}, prices)
    for result in (bad, compare(bad, bad), bad.agreement()):
        result.save(tmp_path / "r.json")
        assert type(result).load(tmp_path / "r.json") == result
        page = result.to_html()
        assert "<script" not in page
        assert "prefers-color-scheme: dark" in page
    assert "<svg" in bad.to_html()
    assert "rows; to_pandas()" not in bad._repr_html_()  # it shows the measures, not some of the questions
    assert json.loads((tmp_path / "r.json").read_text())
    assert [row["tag"] for row in bad.tags_to_dicts()] == ["cost"]
    pandas = pytest.importorskip("pandas")
    assert isinstance(bad.to_pandas(), pandas.DataFrame)
    assert bad.plot().figure is not None
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(InvalidInput, match="contains no Answers"):
        Answers.load(tmp_path / "r.json")


async def test_a_label_may_name_chunks(prices: Settings) -> None:
    async with fake_rag(generator=Scripted(GOOD), settings=prices) as rag:
        await rag.add(DOCUMENTS, tenant="m")
        (passage, *_) = (await rag.retrieve("deductible", tenant="m", top_k=1)).passages
        found = await answers(rag, [Labelled("What is my deductible?", [passage.chunk_id], tenant="m")])
    assert (found.mean("citation_precision"), found.mean("citation_recall")) == (1.0, 1.0)
