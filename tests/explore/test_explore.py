"""Labels, sweeps, evaluations."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from ragcore import Document, Ingestor, InvalidInput, MemoryStore, Retriever, Unsupported
from ragcore.explore import Comparison, Evaluation, Labelled, Sweep, compare, evaluate, load, thresholds
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
async def test_labels_from_files_frames_and_mappings(tmp_path: Path) -> None:
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
    sweep = await thresholds(retriever, LABELS, grid=[step / 20 for step in range(21)])
    rows = sweep.to_dicts()
    assert rows[0]["recall"] == 1.0
    assert [row["recall"] for row in rows] == sorted((row["recall"] for row in rows), reverse=True)
    assert rows[-1]["nothing_found"] == 1.0
    best = max(rows, key=lambda row: row["f1"])
    assert sweep.recommended == best["threshold"]
    low, high = sweep.interval
    assert low <= sweep.recommended <= high
    assert "recommended" in repr(sweep)
    for aim in ("recall", "found"):
        assert (await thresholds(retriever, LABELS, aim=aim)).aim == aim


async def test_evaluating_and_comparing(retriever: Retriever) -> None:
    evaluation = await evaluate(retriever, LABELS, k=3)
    assert (evaluation.mean("recall"), evaluation.mean("mrr"), evaluation.mean("ndcg")) == (1.0, 1.0, 1.0)
    assert evaluation.mean("precision") == pytest.approx(1 / 3)
    wrong = [Labelled(label.question, ["nothing"], tenant="m") for label in LABELS]
    worse = await evaluate(retriever, wrong, k=3)
    comparison = compare(evaluation, worse)
    assert comparison.difference == -1.0
    assert comparison.p_value < 0.05
    assert compare(evaluation, evaluation).p_value == 1.0
    with pytest.raises(InvalidInput):
        compare(evaluation, await evaluate(retriever, LABELS, k=2))


async def test_ndcg_is_the_textbooks() -> None:
    from ragcore.explore.evaluation import _judge

    judged = _judge(Labelled("q", {"a": 3, "b": 2, "c": 1}, tenant="m"), ["b", "x", "a"], 3)
    ideal = 3 + 2 / np.log2(3) + 1 / 2
    assert judged.ndcg == pytest.approx((2 + 3 / 2) / ideal)
    assert judged.recall == pytest.approx(2 / 3)
    assert judged.mrr == 1.0


@pytest.mark.blocking_allowed
async def test_results_show_themselves_and_survive_saving(retriever: Retriever, tmp_path: Path) -> None:
    sweep = await thresholds(retriever, LABELS, grid=[0.1, 0.5])
    evaluation = await evaluate(retriever, LABELS)
    comparison = compare(evaluation, evaluation)
    for result, kind in ((sweep, Sweep), (evaluation, Evaluation), (comparison, Comparison)):
        result.save(tmp_path / "r.json")
        assert kind.load(tmp_path / "r.json") == result
        assert "<table>" in result._repr_html_()
        pytest.importorskip("pandas")
        assert len(result.to_frame()) == len(result.to_dicts())
        assert result.plot().figure is not None
    evil = Evaluation(1, (evaluation.questions[0].__class__("<script>", 0, 0, 0, 0),))
    assert "<script>" not in evil._repr_html_()


async def test_what_makes_no_sense_is_said(retriever: Retriever) -> None:
    for call in (
        thresholds(retriever, []),
        evaluate(retriever, []),
        thresholds(retriever, [Labelled("q", [], tenant="m")]),
        thresholds(retriever, LABELS, grid=[]),
    ):
        with pytest.raises(InvalidInput):
            await call
    async with Retriever(store=MemoryStore(), mode="text") as text_only:
        with pytest.raises(Unsupported):
            await thresholds(text_only, LABELS)
