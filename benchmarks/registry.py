"""The scenarios by name. Each is a module in `benchmarks.scenarios` with a `run(*, quick, …) -> Figures`, whose options are the command's."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from ragcore.loadtest.figures import Figures

__all__ = ["SCENARIOS", "scenario"]

SCENARIOS = {
    "ladder": "1, 2, 3, 5, … 200 questions at once: the acceptance test of a service that must not hang",
    "load": "questions at a rate or from so many users, for so long: latency, first token, goodput",
    "sweep": "the highest rate that meets an objective",
    "peers": "the same job done by hand, by threads, by LangChain, LlamaIndex, Haystack: ratios",
    "faults": "every fault at every stage and concurrency: late, hung, wrong, leaked, unrecovered",
    "simulate": "thousands of simulated worlds drawn from seeds: what must hold, holds",
    "soak": "mixed traffic for 20 minutes, faults coming and going: memory, file descriptors, every request accounted for",
    "overload": "ten times what the model can answer: good answers beside their peak, and how soon the rest is told",
    "retrieval": "recall, nDCG, MRR and latency over squad; recall against queries a second; filters by selectivity",
    "thresholds": "the sweep of thresholds over squad: seconds, and whether a recommendation holds for questions it has not seen",
    "readers": "what readers find in 60 made files of all formats: words, rows, pages, boilerplate; MB/s beside other readers",
    "chunks": "what is embedded for a chunk, its text or its title and headings too: nDCG@10 over squad and three made sets",
    "ingest": "documents, chunks and megabytes a second from text to table, by stage, and COPY beside INSERT",
    "overhead": "microseconds of the resilience core beside other libraries, its memory, processor time of a question",
    "coalesce": "embedding requests that concurrent questions share, and what one alone waits",
    "imports": "milliseconds that `import ragcore` takes, beside an empty interpreter",
}


def scenario(name: str) -> Callable[..., Figures]:
    """The `run` of a scenario; its module is imported now, so that none needs what another one does."""
    run: Callable[..., Figures] = importlib.import_module(f"benchmarks.scenarios.{name}").run
    return run
