"""Sweeps thresholds over squad. Measures the time, checks the recommendation with held-out questions, and compares recall, MRR and nDCG with a reference."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import get_args

import anyio
import numpy as np
from numpy.typing import NDArray
from tests.support.squad import SQUAD, TENANT, Reference, ingested

from ragcore import Retriever, explore
from ragcore.explore.fetching import Fetched, fetch
from ragcore.explore.sweep import sweep
from ragcore.loadtest.figures import Chart, Figures, Line, say

SPLITS = 100
MOST_SECONDS = 60.0
LEAST_HELD = 90
# Exact brute force: see SOURCE.md next to the data.
REFERENCE = {"recall": 0.9172, "mrr": 0.7270, "ndcg": 0.7734}
CLOSE = 0.005


def run(*, quick: bool) -> Figures:
    """Use all 10,570 questions. With --quick: every tenth question; its measures are not compared with the reference."""
    return anyio.run(_run, 10 if quick else 1)


async def _run(step: int) -> Figures:
    figures = Figures()
    embedder = Reference()
    labels = explore.load(SQUAD / "qrels.tsv", tenant=TENANT, questions=SQUAD / "queries.jsonl.gz")[::step]
    async with ingested(reference=True) as squad:
        retriever = Retriever(embedder=embedder, store=squad.store, top_k=10)
        async with retriever:
            say(f"evaluating {len(labels):,} questions …")
            evaluation = await explore.evaluate(retriever, labels, k=10)
            say("fetching scores …")
            began = time.perf_counter()
            fetched = await fetch(retriever, labels, progress=False)
            figures.values["questions"] = len(labels)
            figures.values["fetch_s"] = time.perf_counter() - began
    for name, reference in REFERENCE.items():
        figures.values[f"{name}_at_10"] = found = evaluation.mean(name)
        if step == 1:
            figures.expect(abs(found - reference) <= CLOSE, f"{name}_at_10 within {CLOSE} of {reference}")
    steps = np.array([number / 100 for number in range(101)])
    for aim in get_args(explore.Aim):
        began = time.perf_counter()
        found_sweep = sweep(fetched, steps, aim)
        figures.values[f"{aim}.sweep_s"] = seconds = time.perf_counter() - began
        figures.values[f"{aim}.recommended"] = found_sweep.recommended
        figures.expect(seconds < MOST_SECONDS, f"{aim}.sweep_s < {MOST_SECONDS:g}")
        say(f"{aim}: {SPLITS} splits …")
        figures.values[f"{aim}.held_of_100"] = held = held_out(fetched, steps, aim, splits=SPLITS)
        figures.expect(held >= LEAST_HELD, f"{aim}.held_of_100 >= {LEAST_HELD}")
        if aim == "f1":
            rows = found_sweep.to_dicts()
            grid = [float(row["threshold"]) for row in rows]
            lines = [Line(name, grid, [float(row[name]) for row in rows]) for name in ("precision", "recall", "f1")]
            figures.charts.append(Chart("Measures by threshold", "score threshold", "mean over questions", lines))
    return figures


def held_out(fetched: Sequence[Fetched], steps: NDArray[np.float64], aim: explore.Aim, *, splits: int) -> int:
    """Count the random splits in which the interval of one half contains the recommendation of the other half."""
    draw = random.Random(7)
    held = 0
    for _ in range(splits):
        mixed = draw.sample(fetched, len(fetched))
        half = len(mixed) // 2
        low, high = sweep(mixed[:half], steps, aim).interval
        held += low <= sweep(mixed[half:], steps, aim).recommended <= high
    return held
