"""Questions to label differ from each other, and their documents come from several searches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import Document, InvalidInput, MemoryStore, Retriever
from ragcore.explore import Labelled, Pool, load, to_label
from ragcore.explore.labelling import _farthest_first
from ragcore.testing import fake_rag

pytestmark = pytest.mark.anyio

DOCUMENTS = [
    Document("plan", "Your deductible is $1,500 per calendar year.", title="=cmd"),
    Document("ambulance", "An ambulance ride costs a copay of $150."),
    Document("dental", "Two dental cleanings a year are covered in full."),
]
QUESTIONS = [
    "What is my deductible?",
    "What is my deductible?",
    "What is the deductible?",
    "What is my deductible then?",
    "What does an ambulance cost?",
    "Are dental cleanings covered?",
]


async def made() -> Pool:
    async with fake_rag() as rag:
        await rag.add(DOCUMENTS, tenant="m")
        return await to_label(rag, QUESTIONS, tenant="m", count=3)


async def test_the_chosen_questions_differ() -> None:
    chosen = (await made()).questions
    assert len(chosen) == 3
    assert {"What does an ambulance cost?", "Are dental cleanings covered?"} < set(chosen)
    async with Retriever(store=MemoryStore(), mode="text") as by_words:
        without = await to_label(by_words, QUESTIONS, tenant="m", count=3)
    assert without.rows == ()  # no documents, so there is nothing to label


async def test_the_results_of_all_modes_are_pooled_and_each_document_stands_once() -> None:
    pool = await made()
    found = [(row.question, row.document_id) for row in pool.rows]
    assert len(found) == len(set(found))
    row = next(
        row for row in pool.rows if (row.question, row.document_id) == ("What does an ambulance cost?", "ambulance")
    )
    assert row.found_by == ("vector 1", "text 1", "hybrid 1")
    assert row.text == DOCUMENTS[1].text


async def test_the_searches_may_be_chosen() -> None:
    async with fake_rag() as rag:
        await rag.add(DOCUMENTS, tenant="m")
        pool = await to_label(
            rag.retriever, QUESTIONS, tenant="m", count=1, pool=[{"mode": "vector", "relative_threshold": 1.0}]
        )
        with pytest.raises(InvalidInput):
            await to_label(rag, [], tenant="m")
        with pytest.raises(InvalidInput):
            await to_label(rag, QUESTIONS, tenant="m", count=0)
        with pytest.raises(InvalidInput, match="draw a sample"):
            await to_label(rag, map(str, range(20_001)), tenant="m")
    assert [row.found_by for row in pool.rows] == [("vector relative_threshold=1.0 1",)]


@pytest.mark.blocking_allowed
async def test_a_labelled_table_becomes_labels(tmp_path: Path) -> None:
    pool = await made()
    pool.to_csv(tmp_path / "pool.csv")
    text = (tmp_path / "pool.csv").read_text(encoding="utf-8-sig")
    assert ",'=cmd," in text  # no formula
    assert load(tmp_path / "pool.csv") == []  # no one has labelled anything yet
    rows = pool.to_dicts()
    for row in rows:
        if row["question"] == "What does an ambulance cost?":
            row["relevant"] = "1" if row["document_id"] == "ambulance" else "0"
            row["answer"] = "$150"
        if row["question"] == "Are dental cleanings covered?":
            row["relevant"] = "0"
    wanted = {
        Labelled("What does an ambulance cost?", ("ambulance",), tenant="m", answer="$150"),
        Labelled("Are dental cleanings covered?", (), tenant="m", unanswerable=True),
    }
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    for source in (rows, pandas.DataFrame(rows), polars.DataFrame(rows)):
        assert set(pool.labels(source)) == set(load(source)) == wanted


async def test_a_notebook_labels_by_the_numbers_of_the_rows() -> None:
    pool = await made()
    question = "What does an ambulance cost?"
    rows = [row.document_id for row in pool.rows if row.question == question]
    number = rows.index("ambulance") + 1
    assert pool.labels({question: [number]}) == [Labelled(question, ("ambulance",), tenant="m")]
    assert pool.labels({question: []}) == [Labelled(question, (), tenant="m", unanswerable=True)]
    shown = pool._repr_html_()
    assert f"<td>{number}</td>" in shown
    for wrong in ({question: [99]}, {"another": [1]}):
        with pytest.raises(InvalidInput):
            pool.labels(wrong)


@pytest.mark.blocking_allowed
async def test_a_pool_is_saved_and_loaded_and_escapes_its_texts(tmp_path: Path) -> None:
    async with fake_rag() as rag:
        await rag.add([Document("a", "<script>alert(1)</script> deductible")], tenant="m")
        pool = await to_label(rag, ["<script>?", "deductible?"], tenant="m")
    pool.save(tmp_path / "pool.json")
    assert Pool.load(tmp_path / "pool.json") == pool
    assert "<script" not in pool._repr_html_() + pool.to_html()


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_farthest_first_chooses_different_places(count: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(12, 3))
    chosen = _farthest_first(vectors, count)
    assert len(set(chosen)) == count
    zeros = _farthest_first(np.zeros((12, 3)), count)
    assert len(set(zeros)) == count
