"""The files of a run: requests.jsonl, summary.json, summary.csv, report.html."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ragcore.compat.distribution import version_of
from ragcore.errors import InvalidInput
from ragcore.loadtest.driving.outcome import Outcome
from ragcore.loadtest.figures import Figures
from ragcore.loadtest.report.page import page

__all__ = ["SCHEMA_VERSION", "Run", "machine", "new_folder", "read_outcomes", "read_runs", "read_summary", "write"]

SCHEMA_VERSION = 1
PACKAGES = ("ragcore", "anyio", "asyncpg", "httpx", "httpx2", "numpy", "openai", "pgvector", "uvloop")
RESULTS = Path("results")


def new_folder(scenario: str) -> Path:
    """Return a folder `results/<time>-<scenario>` that doesn't exist yet."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    folder = RESULTS / f"{stamp}-{scenario}"
    number = 2
    while folder.exists():
        folder = RESULTS / f"{stamp}-{scenario}-{number}"
        number += 1
    return folder


def machine() -> dict[str, Any]:
    """Describe the machine and the versions of packages. The result contains no name of the machine or of a user."""
    packages = {name: version for name in PACKAGES if (version := version_of(name)) is not None}
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_mb": _memory_mb(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": packages,
    }


def write(folder: Path, scenario: str, figures: Figures, *, commit: str | None = None) -> None:
    """Write the files of a run. Existing files are replaced.

    Args:
        commit: commit of the measured code; None: not known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "scenario": scenario,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "machine": machine(),
        "settings": figures.settings,
        "seed": figures.settings.get("seed"),
        "figures": figures.values,
        "criteria": [asdict(criterion) for criterion in figures.criteria],
        "failed": figures.failed,
        "invalid": figures.invalid,
        "notes": figures.notes,
        "tables": [{"title": table.title, "rows": list(table.rows)} for table in figures.tables],
        "samples": [asdict(sample) for sample in figures.samples],
    }
    text = json.dumps(_finite(summary), indent=1, ensure_ascii=False, default=str)
    (folder / "summary.json").write_text(text, encoding="utf-8", errors="backslashreplace")
    with (folder / "requests.jsonl").open("w", encoding="utf-8") as file:
        for outcome in figures.outcomes:
            file.write(json.dumps(asdict(outcome)) + "\n")  # in ASCII: an answer may contain half of a surrogate pair
    with (folder / "summary.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("figure", "value"))
        writer.writerows(figures.values.items())
    (folder / "report.html").write_text(page(summary, figures), encoding="utf-8", errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class Run:
    """A run as its folder stores it."""

    folder: Path
    summary: dict[str, Any]
    outcomes: list[Outcome]


def read_runs(folder: Path) -> list[Run]:
    """Read the run in a folder; if there is none, the runs in its subfolders, sorted by name.

    Raises:
        InvalidInput: there is no run, or a run has another schema version.
    """
    folders = [folder]
    if folder.is_dir() and not (folder / "summary.json").exists():
        folders = sorted(path.parent for path in folder.glob("*/summary.json")) or [folder]
    return [Run(one, read_summary(one), read_outcomes(one)) for one in folders]


def read_summary(folder: Path) -> dict[str, Any]:
    """Read the summary of a run.

    Raises:
        InvalidInput: there is no summary, or it has another schema version.
    """
    try:
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        schema = summary["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{folder} contains no summary.json of a run: {error}") from None
    if schema != SCHEMA_VERSION:
        raise InvalidInput(
            f"{folder} was written with schema version {schema}; this ragcore reads version {SCHEMA_VERSION}"
        )
    return summary


def read_outcomes(folder: Path) -> list[Outcome]:
    """Read the outcomes of a run."""
    path = folder / "requests.jsonl"
    if not path.exists():
        return []
    return [Outcome(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _finite(value: Any) -> Any:
    """Replace NaN and infinity by None, because JSON has neither."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(one) for key, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
    return value


def _memory_mb() -> int | None:
    if sys.platform == "linux":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1024 * 1024)
    return None
