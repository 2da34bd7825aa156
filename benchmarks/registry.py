"""The scenarios by name. Each is a module in `benchmarks.scenarios` with a `run(*, quick, …) -> Figures`. The parameters of `run` are the options."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from ragcore.loadtest.figures import Figures

__all__ = ["SCENARIOS", "scenario"]

SCENARIOS = {
    "ladder": "1, 2, 3, 5, … 200 questions at once: the acceptance test of a service that must not hang",
    "load": "questions at a rate or from a number of users, for a given time: latency, first token, goodput",
    "sweep": "the highest rate that meets an objective",
    "peers": "the same job by hand, with threads, and with LangChain, LlamaIndex and Haystack: ratios",
    "faults": "every fault at every stage and concurrency: late, hung, wrong, leaked, unrecovered",
    "simulate": "thousands of simulated worlds drawn from seeds, with all invariants checked",
    "rollout": "simulated rollouts: bad candidates rolled back and equal ones promoted, by calls, and the longest wait of a member",
    "soak": "mixed traffic for 20 minutes with intermittent faults: memory, file descriptors, every request accounted for",
    "overload": "up to 50 times the model's capacity: good answers compared with the best possible, and how fast the rest is refused",
    "retrieval": "recall, nDCG, MRR and latency over squad; recall against queries a second; filters by selectivity",
    "answers": "quoted answers over squad: how many contain the right answer, are not found, or are false, by mode",
    "thresholds": "the sweep of thresholds over squad: seconds, and whether a recommendation holds for held-out questions",
    "readers": "text that readers find in 60 generated files of all formats: words, rows, pages, boilerplate; MB/s compared with other readers",
    "chunks": "embedding a chunk's text alone or with its title and headings: nDCG@10 over squad and three generated sets",
    "ingest": "documents, chunks and megabytes a second from text to table, by stage, and compared with COPY",
    "scale": "ingestion on Ray while workers are killed; the cost of a question with 1, 2 and 4 processes and two standbys; large collections",
    "overhead": "microseconds of the resilience core compared with other libraries, its memory, processor time of a question",
    "coalesce": "embedding requests that concurrent questions share, and how long a single question waits",
    "capacity": "size, build time, speed and recall of each kind of index by rows and dimension, and how well a model predicts them",
    "million": "searches and ingestion in a collection of a million chunks and 1,000 tenants, compared with 10,000 chunks",
    "imports": "milliseconds that `import ragcore` takes, compared with an empty interpreter",
}


def scenario(name: str) -> Callable[..., Figures]:
    """Import a scenario's module and return its `run`. Only this module is imported, because other scenarios may need packages that are not installed."""
    run: Callable[..., Figures] = importlib.import_module(f"benchmarks.scenarios.{name}").run
    return run
