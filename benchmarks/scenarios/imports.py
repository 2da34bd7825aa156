"""Measures `import ragcore`, each time in a new interpreter."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.timing import interleaved, timed
from ragcore.loadtest.figures import Figures

MOST_MS = 80.0


def run(*, quick: bool) -> Figures:
    """Compare the start of an interpreter with and without the import. The difference is the time of the import."""
    figures = Figures()
    figures.values.update(milliseconds(5 if quick else 20))
    figures.expect(float(figures.values["import_ms"] or 0) < MOST_MS, f"import_ms < {MOST_MS:g}")
    return figures


def milliseconds(rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each program. The programs are measured in turn, once in each round."""

    def start(statement: str) -> float:
        return timed(lambda: subprocess.run([sys.executable, "-c", statement], check=True))

    medians = interleaved(
        rounds,
        empty=lambda: start("pass"),
        ragcore=lambda: start("import ragcore"),
        client=lambda: start("import ragcore; ragcore.RAG"),
    )
    return {
        "import_ms": 1000 * (medians["ragcore"] - medians["empty"]),
        "import_with_client_ms": 1000 * (medians["client"] - medians["empty"]),
    }
