"""ragcore draws charts as SVG itself, without a plotting library and without scripts, in the colours of the page."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore.loadtest.figures import Chart, Line, Mark, Shade
from ragcore.loadtest.report.plots import draw

NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=32)


def drawn(chart: Chart) -> ET.Element:
    (svg,) = draw([chart])
    return ET.fromstring(svg)


def texts(svg: ET.Element) -> list[str]:
    return [str(element.text) for element in svg.iter("{http://www.w3.org/2000/svg}text")]


def test_a_chart_has_axes_legend_and_marks() -> None:
    chart = Chart(
        "a <title>",
        "seconds",
        "calls & answers",
        [Line("first", [0, 1, 2], [0.0, 0.5, 1.0]), Line("second", [0, 1, 2], [1.0, 0.5, math.nan])],
        shades=(Shade("fault", 0.5, 1.5),),
    )
    found = texts(drawn(chart))
    assert {"seconds", "calls & answers", "first", "second", "fault", "0", "0.5", "2"} <= set(found)
    marked = texts(drawn(Chart("t", "x", "y", chart.lines, marks=(Mark("recommended 1.00", 1.0),))))
    assert "recommended 1.00" in marked


def test_text_has_the_colour_of_the_page() -> None:
    (svg,) = draw([Chart("t", "x", "y", [Line("a", [1, 2], [1, 2])])])
    assert set(re.findall(r"<text[^>]* fill=\"([^\"]+)\"", svg)) == {"currentColor"}
    assert "var(--muted" in svg
    assert "<script" not in svg


def test_bars_have_an_edge_more_than_heights() -> None:
    svg = drawn(Chart("t", "x", "y", [Line("a", [0, 1, 2, 3], [5, 0, 2])], bars=True))
    heights = [float(one.get("height", 0)) for one in svg.iter("{http://www.w3.org/2000/svg}rect")]
    assert heights[0] > heights[2] > heights[1] == 0


def test_long_names_of_places_are_slanted_and_short_ones_are_not() -> None:
    def chart(names: list[str]) -> str:
        return draw([Chart("t", "", "y", [Line("a", range(len(names)), [0.5] * len(names))], ticks=names)])[0]

    assert "rotate(-35)" in chart(["citation precision", "figures grounded", "contains gold"] * 4)
    assert "rotate(-35)" not in chart(["1", "2", "3"])


def test_a_logarithmic_axis_is_labelled_with_few_values_or_powers_of_ten() -> None:
    few = texts(drawn(Chart("t", "x", "y", [Line("a", [1, 4, 64], [1, 10, 1000])], log="xy")))
    assert {"1", "4", "64", "10", "100", "1,000"} <= set(few)
    many = texts(drawn(Chart("t", "x", "y", [Line("a", range(1, 5000), range(1, 5000))], log="x")))
    assert {"1", "10", "100", "1,000"} <= set(many)


@given(
    points=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=20),
    log=st.sampled_from(["", "x", "y", "xy"]),
    single=st.booleans(),
)
def test_any_numbers_give_valid_svg_with_finite_places(
    points: list[tuple[float, float]], log: str, single: bool
) -> None:
    chart = Chart("t", "x", "y", [Line("a", [x for x, _ in points], [y for _, y in points])], points=single, log=log)  # type: ignore[arg-type]
    (svg,) = draw([chart])
    ET.fromstring(svg)
    assert not re.search(r'="-?(?:nan|inf)', svg)


@pytest.mark.parametrize("values", [[], [3.0], [2.0, 2.0]])
def test_a_chart_with_few_values_is_drawn(values: list[float]) -> None:
    for log in ("", "xy"):
        drawn(Chart("t", "x", "y", [Line("a", range(1, len(values) + 1), values)], log=log))
