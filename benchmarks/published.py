"""Figures that the README and the manual state, each with the run that it comes from.

A page marks a figure with its run, its name and its format, and `python -m benchmarks readme` writes the value:

    <!--f peers.rps_ratio_50|.1f-->1.5<!--/f-->

The runs lie in `benchmarks/published/`, one file for each scenario, without the samples. A test fails if a page states another value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["FIGURE", "PUBLISHED", "pages", "publish", "rendered", "runs"]

ROOT = Path(__file__).parents[1]
PUBLISHED = Path(__file__).parent / "published"
# The groups are the run's name, the figure's name, the format and the value.
FIGURE = re.compile(r"<!--f ([\w-]+)\.([^|>]+)\|([^>]+?)-->(.*?)<!--/f-->")
ABOUT = re.compile(r"<!--runs-->.*?<!--/runs-->", re.DOTALL)
KEPT = ("scenario", "time", "commit", "machine", "settings", "seed", "figures", "failed")


def pages() -> list[Path]:
    """Return the pages that may state figures."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def runs() -> dict[str, dict[str, Any]]:
    """Return the published runs by name. The name is the scenario's name, with the option if an option changes what is measured."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(PUBLISHED.glob("*.json"))}


def publish(folders: Iterable[Path]) -> list[str]:
    """Copy runs into `benchmarks/published/`, and return their names.

    Raises:
        ValueError: a folder has no run, or a run that is invalid or quick.
    """
    names = []
    for folder in folders:
        try:
            run = json.loads((folder / "summary.json").read_text())
        except OSError:
            raise ValueError(f"{folder} contains no summary.json") from None
        if run["invalid"]:
            raise ValueError(f"{folder} is an invalid run: {run['invalid'][0]}")
        if run["settings"].get("quick"):
            raise ValueError(f"{folder} is a quick run; publish a full one")
        name = run["scenario"] + "".join(f"-{option}" for option in ("edge", "trio") if _has(run["settings"], option))
        PUBLISHED.mkdir(exist_ok=True)
        kept = {key: run.get(key) for key in KEPT}
        (PUBLISHED / f"{name}.json").write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
        names.append(name)
    return names


def rendered(text: str, published: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a page with the values of the published runs.

    Raises:
        KeyError: a figure has no source.
    """

    def value(found: re.Match[str]) -> str:
        run, figure, form, _ = found.groups()
        measured = published[run]["figures"][figure]
        stated = "–" if measured is None else format(measured, form)
        return f"<!--f {run}.{figure}|{form}-->{stated}<!--/f-->"

    return ABOUT.sub(lambda _: f"<!--runs-->{_about(list(published.values()))}<!--/runs-->", FIGURE.sub(value, text))


def _has(settings: Mapping[str, Any], option: str) -> bool:
    return settings.get(option) is True or option in settings.values()


def _about(published: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence that says when, where and with which versions the published runs were measured."""
    days = sorted(run["time"][:10] for run in published)
    machines = {
        (run["machine"]["cores"], run["machine"]["architecture"], run["machine"]["python"]) for run in published
    }
    where = " and ".join(f"{cores} cores ({kind}) with {python}" for cores, kind, python in sorted(machines))
    versions: dict[str, set[str]] = {}
    for run in published:
        for name, version in run["machine"]["packages"].items():
            if name != "ragcore":
                versions.setdefault(name, set()).add(version)
    packages = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in versions.items())
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    return f"Measured {when} on {where}, {packages}."
