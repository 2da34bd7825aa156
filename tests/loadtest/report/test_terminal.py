"""The output of a run always fits in 80 columns."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ragcore.loadtest.figures import Figures, Table, Value
from ragcore.loadtest.report.terminal import draw_criteria, draw_table, draw_values


def drawn(figures: Figures, *, width: int = 80) -> list[str]:
    text = io.StringIO()
    console = Console(file=text, width=width, highlight=False)
    for table in figures.tables:
        draw_table(console, table)
    draw_values(console, figures.values)
    draw_criteria(console, figures)
    return text.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_wide_table_is_split_into_parts_that_repeat_the_first_column(width: int) -> None:
    row: dict[str, Value] = {"rate": 20.0, **{f"{kind}_s": 1.2345 for kind in ("first_token", "p50", "p95", "p99")}}
    row |= {"objective": "the driver's limit", "a_very_long_name_of_a_figure": 1}
    figures = Figures(tables=[Table("By rate", [row, row])])
    lines = drawn(figures, width=width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert all(
        part in text for part in ("first token s", "p99 s", "the driver's limit", "a very long name of a figure")
    )
    heads = [line for line in lines if line.startswith("rate")]
    assert len(heads) == text.count("20  ") / 2 == (1 if width == 200 else len(heads))


def test_each_criterion_shows_whether_it_was_met_and_wraps_in_its_own_column() -> None:
    figures = Figures()
    figures.expect(True, "success 100 % (more than 95 %)")
    figures.expect(False, f"no hang at 5 or more at once: {'very ' * 20}many of 42")
    lines = drawn(figures)
    assert lines[1] == "met      success 100 % (more than 95 %)"
    assert lines[2].startswith("NOT MET  no hang at 5 or more at once: very")
    assert lines[3].startswith(" " * 9 + "very")
    assert max(map(len, lines)) <= 80


def test_figures_are_shown_in_words() -> None:
    lines = drawn(Figures(values={"p95_s": 12.84, "success_rate": 1.0}))
    assert lines == ["p95      12.8 s", "success  100 %"]


def test_empty_columns_are_left_out() -> None:
    lines = drawn(Figures(tables=[Table("By concurrency", [{"at once": 5, "hung": 0, "late": None, "right": 5}])]))
    assert lines[1].split() == ["at", "once", "right"]
