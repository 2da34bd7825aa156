"""The choice of a target: one at a time, and no question that nobody said."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.targets.options import TargetOptions

URL = "https://example.test/chat"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": URL, "reference": True}, "choose one of --url and --reference"),
        ({"url": URL}, "say what to ask"),
        ({"from_env": "amara"}, "say what to ask"),
    ],
)
def test_options_that_can_not_be_are_refused_in_words(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TargetOptions(**options)
