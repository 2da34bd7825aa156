"""Each figure of the README and the manual has a source, and equals the value of the source."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from benchmarks.published import FIGURE, pages, publish, rendered, runs

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_each_figure_is_that_of_a_published_run(page: Path) -> None:
    text = page.read_text()
    assert rendered(text, runs()) == text, "run: python -m benchmarks readme"


def test_a_figure_of_the_readme_without_a_source_fails() -> None:
    rows = re.findall(r"^\| (.*) \| (.*) \| `(\w+)` \|$", README.read_text(), re.MULTILINE)
    assert len(rows) > 10
    for what, figure, scenario in rows:
        sources = {run for run, *_ in FIGURE.findall(figure)}
        assert sources == {scenario}, what
        # Without the marked figures, the cell contains units and words, but no number.
        assert not re.search(r"\d", FIGURE.sub("", figure)), what


def test_every_published_run_is_whole_and_tells_its_machine_and_date() -> None:
    assert runs()
    for run in runs().values():
        assert run["time"]
        assert run["commit"]
        assert run["machine"]["cores"]
        assert run["machine"]["packages"]
        assert not run["settings"].get("quick")


def test_an_invalid_or_quick_run_is_not_published(tmp_path: Path) -> None:
    for number, (settings, invalid) in enumerate([({"quick": True}, []), ({}, ["the driver was late"])]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps({"scenario": "x", "settings": settings, "invalid": invalid}))
        with pytest.raises(ValueError, match="quick|invalid"):
            publish([folder])
    with pytest.raises(ValueError, match="no summary"):
        publish([tmp_path])


def test_a_value_is_written_in_its_format() -> None:
    machine = {"cores": 2, "architecture": "x86_64", "python": "CPython 3.11.7", "packages": {"anyio": "4.16.0"}}
    published = {"peers": {"time": "2026-11-27T03:39:08", "machine": machine, "figures": {"a.b": 1.4781, "c": None}}}
    text = "<!--f peers.a.b|.1f-->9<!--/f--> and <!--f peers.c|.1f-->9<!--/f-->. <!--runs--><!--/runs-->"
    written = rendered(text, published)
    assert "-->1.5<!--/f--> and <!--f peers.c|.1f-->–<!--" in written
    assert "Measured 2026-11-27 on 2 cores (x86_64) with CPython 3.11.7, anyio 4.16.0." in written
    with pytest.raises(KeyError):
        rendered("<!--f gone.a|.1f-->9<!--/f-->", published)
