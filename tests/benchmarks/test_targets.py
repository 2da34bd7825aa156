"""The options for the target: exactly one target, with questions."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.targets.options import TargetOptions

URL = "https://example.test/chat"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": URL, "reference": True}, "choose one of --url and --reference"),
        ({"url": URL}, "no questions: pass --question"),
        ({"from_env": "amara"}, "no questions: pass --question"),
    ],
)
def test_invalid_options_are_refused_with_a_reason(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TargetOptions(**options)
