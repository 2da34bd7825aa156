from __future__ import annotations

import pytest

from ragcore.loadtest.report.direction import better


@pytest.mark.parametrize(
    ("figure", "direction"),
    [
        ("p50_s", "lower"),
        ("success_rate", "higher"),
        ("goodput", "higher"),
        ("recall_at_10", "higher"),
        ("policy_call_us", "lower"),
        ("hung", "lower"),
        ("langchain.rps_ratio_50", "higher"),
        ("seconds", None),
        ("asked", None),
    ],
)
def test_the_name_of_a_figure_determines_its_better_direction(figure: str, direction: str | None) -> None:
    assert better(figure) == direction
