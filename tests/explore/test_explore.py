"""Tests of labels, sweeps and evaluations."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragcore import (
    ConfigurationError,
    Document,
    Ingestor,
    InvalidInput,
    MemoryStore,
    Passage,
    Query,
    Retriever,
    StoreError,
    Unsupported,
)
from ragcore.explore import Aim, Comparison, Evaluation, Labelled, Sweep, compare, evaluate, load, thresholds
from ragcore.explore.fetching import Fetched
from ragcore.explore.sweep import sweep
from ragcore.testing import FakeEmbedder

pytestmark = pytest.mark.anyio

TOPICS = ["deductible", "ambulance", "specialist", "imaging", "dental", "glasses"]
LABELS = [Labelled(f"How much is the {topic}?", [topic], tenant="m", tags=("cost",)) for topic in TOPICS]


@pytest.fixture
async def retriever(anyio_backend: str) -> AsyncIterator[Retriever]:
    embedder, store = FakeEmbedder(), MemoryStore()
    async with Retriever(embedder=embedder, store=store) as made:
        documents = [Document(topic, f"The {topic} costs {number} dollars.") for number, topic in enumerate(TOPICS)]
        await Ingestor(embedder=embedder, store=store).add(documents, tenant="m")
        yield made


@pytest.mark.blocking_allowed
async def test_labels_load_from_files_frames_and_mappings(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text(json.dumps({"question": "q", "relevant": ["a", "b"], "tags": ["x"]}) + "\n")
    (tmp_path / "l.csv").write_text("question,relevant,tenant,tags\nq,a b,t,x y\n")
    assert load(tmp_path / "l.jsonl", tenant="m") == [Labelled("q", ("a", "b"), tenant="m", tags=("x",))]
    assert load(tmp_path / "l.csv") == [Labelled("q", ("a", "b"), tenant="t", tags=("x", "y"))]
    pandas = pytest.importorskip("pandas")
    assert load(pandas.DataFrame([{"question": "q", "relevant": ["a"]}]), tenant="m") == [
        Labelled("q", ("a",), tenant="m")
    ]
    assert load([{"question": "q", "relevant": {"a": 2}}], tenant="m")[0].grades() == {"a": 2}
    for bad in ([{"question": "q"}], [{"relevant": ["a"]}], [3], 7):
        with pytest.raises(InvalidInput):
            load(bad, tenant="m")
    with pytest.raises(InvalidInput, match="tenant"):
        load([{"question": "q", "relevant": ["a"]}])


async def test_a_sweep_measures_and_recommends(retriever: Retriever) -> None:
    found = await thresholds(retriever, LABELS, grid=[step / 20 for step in range(21)])
    rows = found.to_dicts()
    assert rows[0]["recall"] == 1.0
    assert [row["recall"] for row in rows] == sorted((row["recall"] for row in rows), reverse=True)
    assert rows[-1]["nothing_found"] == 1.0
    best = max(rows, key=lambda row: row["f1"])
    assert found.recommended == max(row["threshold"] for row in rows if row["f1"] == pytest.approx(best["f1"]))
    low, high = found.interval
    assert low <= found.recommended <= high
    assert "recommended" in repr(found)
    for aim in ("recall", "found"):
        assert (await thresholds(retriever, LABELS, aim=aim)).aim == aim


async def test_results_of_few_questions_have_a_warning(retriever: Retriever) -> None:
    few = await evaluate(retriever, LABELS[:1])
    assert repr(few).endswith("; only 1 question: label 50 or more for a reliable result)")
    many = [LABELS[number % len(LABELS)] for number in range(50)]
    results = (await evaluate(retriever, many), await thresholds(retriever, many))
    assert not any("for a reliable result" in repr(result) for result in results)
    others = (compare(few, few), await thresholds(retriever, LABELS))
    assert all("for a reliable result" in repr(result) for result in others)


async def test_a_comparison_finds_the_better_retriever(retriever: Retriever) -> None:
    evaluation = await evaluate(retriever, LABELS, k=3)
    assert (evaluation.mean("recall"), evaluation.mean("mrr"), evaluation.mean("ndcg")) == (1.0, 1.0, 1.0)
    assert evaluation.mean("precision") == pytest.approx(1 / 3)
    wrong = [
        Labelled(one.question, other.relevant, tenant="m")
        for one, other in zip(LABELS, LABELS[1:] + LABELS[:1], strict=True)
    ]
    worse = await evaluate(retriever, wrong, k=3)
    comparison = compare(evaluation, worse)
    assert comparison.difference < -0.3
    assert comparison.p_value < 0.05
    assert (len(comparison.worse), comparison.better) == (len(LABELS), [])
    assert compare(worse, evaluation).better == comparison.worse
    assert compare(evaluation, evaluation).p_value == 1.0
    with pytest.raises(InvalidInput):
        compare(evaluation, await evaluate(retriever, LABELS, k=2))


async def test_ndcg_equals_the_textbook_formula() -> None:
    from ragcore.explore.evaluation import judged

    found = judged(Labelled("q", {"a": 3, "b": 2, "c": 1}, tenant="m"), ["b", "x", "a"], 3)
    ideal = 3 + 2 / np.log2(3) + 1 / 2
    assert found.ndcg == pytest.approx((2 + 3 / 2) / ideal)
    assert found.recall == pytest.approx(2 / 3)
    assert found.mrr == 1.0


@pytest.mark.blocking_allowed
async def test_results_are_displayed_and_can_be_saved_and_loaded(retriever: Retriever, tmp_path: Path) -> None:
    found = await thresholds(retriever, LABELS, grid=[0.1, 0.5])
    evaluation = await evaluate(retriever, LABELS)
    comparison = compare(evaluation, evaluation)
    for result, kind in ((found, Sweep), (evaluation, Evaluation), (comparison, Comparison)):
        result.save(tmp_path / "r.json")
        assert kind.load(tmp_path / "r.json") == result
        assert "<table>" in result._repr_html_()
        pytest.importorskip("pandas")
        assert len(result.to_frame()) == len(result.to_dicts())
        assert result.plot().figure is not None
    evil = Evaluation(1, (evaluation.questions[0].__class__("<script>", 0, 0, 0, 0),))
    assert "<script>" not in evil._repr_html_()


async def test_invalid_arguments_are_refused(retriever: Retriever) -> None:
    for call in (
        thresholds(retriever, []),
        evaluate(retriever, []),
        thresholds(retriever, [Labelled("q", [], tenant="m")]),
        thresholds(retriever, LABELS, grid=[]),
        thresholds(retriever, LABELS, grid=[0.2, 0.1]),
        thresholds(retriever, LABELS, grid=[float("nan")]),
        thresholds(retriever, LABELS[:1]),
        thresholds(retriever, LABELS, aim="best"),  # type: ignore[arg-type]
        evaluate(retriever, LABELS, k=0),
    ):
        with pytest.raises(InvalidInput):
            await call
    async with Retriever(store=MemoryStore(), mode="text") as text_only:
        with pytest.raises(Unsupported):
            await thresholds(text_only, LABELS)


@pytest.mark.parametrize("call", [thresholds, evaluate])
async def test_labels_without_any_stored_document_are_refused(retriever: Retriever, call: Any) -> None:
    strangers = [Labelled(f"q {number}", [f"missing-{number}"], tenant="m") for number in range(9)]
    with pytest.raises(InvalidInput, match="none of the 9 documents .* missing-0, .*, …; check the document ids"):
        await call(retriever, strangers)
    with pytest.raises(InvalidInput, match="'nobody' has no chunks"):
        await call(retriever, [Labelled("q", ["deductible"], tenant="nobody")] * 2)


async def test_the_result_names_unknown_documents(retriever: Retriever) -> None:
    found = await thresholds(retriever, [*LABELS, Labelled("q", ["missing"], tenant="m")])
    assert found.unknown == ("missing",)
    assert "labelled documents that are not in the store: 1 (" in repr(found)


async def test_a_score_that_is_not_a_number_is_an_error(retriever: Retriever) -> None:
    class Broken(MemoryStore):
        async def search(self, query: Query, /) -> Sequence[Passage]:
            return [replace(passage, score=float("nan")) for passage in await super().search(query)]

        async def hashes(self, document_ids: Sequence[str] | None, /, *, tenant: str) -> dict[str, str]:
            return dict.fromkeys(document_ids or (), "x")

    embedder, store = FakeEmbedder(), Broken()
    async with Retriever(embedder=embedder, store=store) as broken:
        await Ingestor(embedder=embedder, store=store).add([Document("deductible", "the deductible")], tenant="m")
        with pytest.raises(StoreError, match="not a number for 'How much"):
            await thresholds(broken, LABELS)


def fetched(scores: Sequence[float], right: Sequence[bool], *, tags: tuple[str, ...] = (), tokens: int = 10) -> Fetched:
    return Fetched(
        label=Labelled("q", ["d"], tenant="m", tags=tags),
        scores=np.array(scores, dtype=np.float32),
        right=np.array(right),
        first=np.ones(len(scores), dtype=np.bool_),
        tokens=np.full(len(scores), tokens),
        relevant=1,
    )


STEPS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
# Right chunks have the scores 0.6 and 0.8, and wrong chunks have 0.2 and 0.4.
PLAIN = [fetched([0.8, 0.4, 0.2], [True, False, False], tags=("easy",)), fetched([0.6, 0.4], [True, False])] * 10


def test_each_measure_has_its_defined_value() -> None:
    rows = sweep(PLAIN, STEPS, "f1").to_dicts()
    assert [row["recall"] for row in rows] == [1.0, 1.0, 1.0, 0.5, 0.0]
    assert [row["passages"] for row in rows] == [2.5, 2.0, 1.0, 0.5, 0.0]
    assert [row["tokens"] for row in rows] == [25.0, 20.0, 10.0, 5.0, 0.0]
    assert [row["nothing_found"] for row in rows] == [0.0, 0.0, 0.0, 0.5, 1.0]
    assert rows[0]["precision"] == pytest.approx((1 / 3 + 1 / 2) / 2)


@pytest.mark.parametrize(("aim", "recommended"), [("f1", 0.5), ("recall", 0.5), ("found", 0.5)])
def test_each_aim_gets_its_threshold(aim: Aim, recommended: float) -> None:
    found = sweep(PLAIN, STEPS, aim)
    assert found.recommended == recommended
    assert found.interval[0] <= recommended <= found.interval[1]


def test_a_sweep_has_tags_distributions_and_relative_thresholds() -> None:
    found = sweep(PLAIN, STEPS, "f1")
    (row,) = found.tags_to_dicts()
    assert (row["tag"], row["questions"], row["recall"], row["recommended"]) == ("easy", 10, 1.0, 0.7)
    assert (sum(found.right), sum(found.wrong)) == (20, 30)
    # Wrong chunks reach at most 0.4 / 0.6 of the best score.
    assert found.recommended_relative == 1.0
    at_two_thirds = {round(row[0], 2): row[1] for row in found.relative}
    assert at_two_thirds[0.66] < at_two_thirds[0.67] == 1.0


# Ten questions find their document only below 0.3, ten only above it.
HARD = [fetched([0.8, 0.2], [True, False]), fetched([0.2], [True])] * 10


@pytest.mark.parametrize("aim", ["f1", "recall", "found"])
def test_a_recommendation_says_what_it_costs(aim: Aim) -> None:
    found = sweep(HARD, STEPS, aim)
    (row,) = (row for row in found.to_dicts() if row["recommended"])
    assert row["threshold"] == found.recommended
    text = f"recall {row['recall']:.3f}, nothing found for {100 * row['nothing_found']:.0f} % of the questions"
    assert text in repr(found)
    assert f"recall is {row['recall']:.3f}, and nothing is found for" in found.notes[0]
    assert any(note.startswith("A relative threshold") for note in found.notes)
    aims = found.aims_to_dicts()
    assert [(one["aim"], one["kind"]) for one in aims if one["recommended"]] == [(aim, "absolute")]
    assert len(aims) == 6
    assert all({"recall", "nothing_found", "f1"} <= one.keys() for one in aims)
    for one in aims:
        assert one["threshold"] == getattr(
            sweep(HARD, STEPS, one["aim"]), "recommended" if one["kind"] == "absolute" else "recommended_relative"
        )


def test_questions_that_find_nothing_are_not_hidden() -> None:
    near = fetched([0.8, 0.4, 0.4, 0.4], [True, False, False, False])
    far = fetched([0.35, 0.34, 0.34, 0.34, 0.34], [True, False, False, False, False])
    found = sweep([near, far] * 10, STEPS, "f1")
    assert found.recommended == 0.7
    assert found.notes[0] == (
        "At the recommended threshold 0.70, recall is 0.500, and nothing is found for 50 % of the questions (10 of 20), "
        "95 % interval 30 to 70 %."
    )
    gentle = "To find something more often, choose aim 'found' (threshold 0.30: recall 1.000, nothing found 0 %)."
    assert gentle in found.notes


async def test_a_retriever_applies_the_relative_threshold_that_the_sweep_measures(retriever: Retriever) -> None:
    found = await thresholds(retriever, LABELS)
    for row in found.relative_to_dicts()[::7]:
        kept = [
            await retriever.retrieve(label.question, tenant="m", relative_threshold=row["threshold"])
            for label in LABELS
        ]
        assert sum(len(one.passages) for one in kept) / len(LABELS) == pytest.approx(row["passages"])


def test_a_better_relative_threshold_is_pointed_out() -> None:
    """All scores of one question are high and all scores of another one are low, so one absolute threshold can't suit both."""
    high, low = fetched([0.9, 0.7, 0.7], [True, False, False]), fetched([0.5, 0.3, 0.3], [True, False, False])
    found = sweep([high, low] * 20, np.array([number / 100 for number in range(101)]), "f1")
    better = next(note for note in found.notes if note.startswith("A relative threshold"))
    assert better.startswith(
        f"A relative threshold of {found.recommended_relative:.2f} has a better F1, 1.000 instead of "
    )
    assert better.endswith(f"Set relative_threshold={found.recommended_relative:.2f}.")


def test_a_relative_threshold_is_never_recommended_because_it_leaves_one_passage() -> None:
    """The second passage is the right one, so a share of 1 would lose it, although something is found."""
    found = sweep([fetched([0.8, 0.6, 0.2], [False, True, False])] * 20, STEPS, "found")
    assert 0.25 < found.recommended_relative <= 0.75
    (row,) = (row for row in found.relative_to_dicts() if row["recommended"])
    assert row["recall"] == 1.0


def test_ties_are_explained() -> None:
    found = sweep([fetched([0.8, 0.2], [True, False])] * 20, np.array([0.1, 0.3, 0.5, 0.7, 0.9]), "f1")
    assert (found.recommended, found.ties) == (0.7, (0.3, 0.7))
    assert any(note.startswith("The thresholds from 0.30 to 0.70 have the same F1") for note in found.notes)
    alone = sweep(PLAIN, STEPS, "f1")
    assert alone.ties == (0.5, 0.5)
    assert not any("have the same" in note for note in alone.notes)


@pytest.mark.blocking_allowed
def test_the_recommended_row_is_marked_wherever_rows_are_shown() -> None:
    found = sweep(PLAIN, np.array([number / 100 for number in range(101)]), "f1")
    for shown in (found.to_html(), found._repr_html_()):
        (marked,) = re.findall(rf'<tr class="marked"[^>]*><td>({found.recommended:.3f})</td>.*?◀ recommended', shown)
        assert marked
    assert 'class="marked"' in found.to_html()
    assert len(found._shown()) < 30


async def test_unanswerable_questions_are_no_part_of_retrieval_measures(retriever: Retriever) -> None:
    more = [*LABELS, Labelled("Who won?", [], tenant="m", unanswerable=True), Labelled("q", [], tenant="m", answer="x")]
    assert await thresholds(retriever, more) == await thresholds(retriever, LABELS)
    assert await evaluate(retriever, more) == await evaluate(retriever, LABELS)


async def test_nothing_found_is_a_measure_and_intervals_are_honest(retriever: Retriever) -> None:
    found = await evaluate(retriever, LABELS)
    low, high = found.interval("recall")
    assert (round(low, 2), high) == (0.61, 1.0)  # six of six questions
    assert found.mean("nothing_found") == 0.0
    async with Retriever(embedder=retriever.embedder, store=retriever.store, score_threshold=0.99) as strict:
        assert (await evaluate(strict, LABELS)).mean("nothing_found") == 1.0
    low, high = compare(found, found).interval
    assert low < -0.3 < 0.3 < high


@pytest.mark.blocking_allowed
async def test_results_become_frames_of_polars(retriever: Retriever) -> None:
    polars = pytest.importorskip("polars")
    evaluation = await evaluate(retriever, LABELS)
    for result in (await thresholds(retriever, LABELS), evaluation, compare(evaluation, evaluation)):
        frame = result.to_polars()
        assert isinstance(frame, polars.DataFrame)
        assert frame.to_dicts() == result.to_dicts()
        assert list(result.to_pandas().columns) == frame.columns


async def test_a_missing_polars_is_named(retriever: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ConfigurationError, match="pip install polars"):
        (await evaluate(retriever, LABELS)).to_polars()


def test_two_chunks_of_one_document_count_as_one_document() -> None:
    one = fetched([0.8, 0.7], [True, True])
    twice = replace(one, first=np.array([True, False]), relevant=2)
    assert sweep([twice, twice], STEPS, "f1").to_dicts()[0]["recall"] == 0.5


@pytest.mark.blocking_allowed
async def test_qrels_load_with_their_questions(tmp_path: Path) -> None:
    (tmp_path / "a.qrels").write_text("q1 0 d1 2\nq1 0 d2 0\nq2 0 d3 1\n")
    (tmp_path / "b.tsv").write_text("q1\td 1\t1\n")
    (tmp_path / "q.jsonl").write_text('{"id": "q1", "text": "One?"}\n{"_id": "q2", "question": "Two?"}\n')
    first, second = load(tmp_path / "a.qrels", tenant="m", questions=tmp_path / "q.jsonl")
    assert (first.question, first.grades(), second.grades()) == ("One?", {"d1": 2}, {"d3": 1})
    assert load(tmp_path / "b.tsv", tenant="m", questions={"q1": "One?"})[0].grades() == {"d 1": 1}
    for arguments, message in (
        ({"tenant": "m"}, "pass questions="),
        ({"questions": {"q1": "?", "q2": "?"}}, "pass tenant="),
        ({"tenant": "m", "questions": {}}, "line 1: questions= has no text"),
    ):
        with pytest.raises(InvalidInput, match=message):
            load(tmp_path / "a.qrels", **arguments)
    (tmp_path / "a.qrels").write_text("q1 0 d1 relevant\n")
    with pytest.raises(InvalidInput, match="line 1"):
        load(tmp_path / "a.qrels", tenant="m", questions={"q1": "?"})
    with pytest.raises(InvalidInput, match="cannot read labels"):
        load(tmp_path / "missing.jsonl", tenant="m")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="ir_measures 0.4 uses ast.Num, which Python 3.14 has removed")
def test_the_measures_equal_those_of_ir_measures() -> None:
    """Compares recall, precision, reciprocal rank and nDCG at 5, with random grades and rankings."""
    ir_measures = pytest.importorskip("ir_measures")
    from ragcore.explore.evaluation import judged

    draw = random.Random(1)
    documents = [f"d{number}" for number in range(20)]
    for _ in range(50):
        graded = {document: draw.randint(0, 3) for document in draw.sample(documents, 8)}
        graded["d0"] = 1
        ranking = draw.sample(documents, 10)
        qrels = [ir_measures.Qrel("q", document, grade) for document, grade in graded.items()]
        run = [ir_measures.ScoredDoc("q", document, float(-rank)) for rank, document in enumerate(ranking)]
        measures = {name: ir_measures.parse_measure(name) for name in ("R@5", "P@5", "RR@5", "nDCG@5")}
        theirs = ir_measures.calc_aggregate(list(measures.values()), qrels, run)
        ours = judged(Labelled("q", graded, tenant="m"), ranking[:5], 5)
        found = (ours.recall, ours.precision, ours.mrr, ours.ndcg)
        assert found == pytest.approx(tuple(theirs[measure] for measure in measures.values()))


@pytest.mark.blocking_allowed
async def test_a_page_is_self_contained_and_escapes_its_texts(retriever: Retriever) -> None:
    hostile = [replace(label, question=label.question + " <script>", tags=("<b>",)) for label in LABELS]
    evaluation = await evaluate(retriever, hostile)
    for result in (await thresholds(retriever, hostile), evaluation, compare(evaluation, evaluation)):
        page = result.to_html()
        assert "<script" not in page
        assert "<svg" in page
        assert page.startswith("<!doctype html>")
        assert "prefers-color-scheme: dark" in page


@pytest.mark.blocking_allowed
async def test_a_page_has_its_charts_without_matplotlib(retriever: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert (await thresholds(retriever, LABELS)).to_html().count("<svg") == 3


@pytest.mark.blocking_allowed
async def test_progress_is_shown_on_request(retriever: Retriever, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    await thresholds(retriever, LABELS, progress=True)
    assert "searching" in capsys.readouterr().err
