"""The output of the commands."""

from __future__ import annotations

import pytest

from ragcore.cli.rendering import progress_lines


def test_progress_is_printed_whenever_the_count_has_grown_enough(capsys: pytest.CaptureFixture[str]) -> None:
    tell = progress_lines(every=5)
    for seconds in range(12):
        tell(seconds, f"[chunk]: {seconds} s")
    assert capsys.readouterr().err.splitlines() == ["[chunk]: 5 s", "[chunk]: 10 s"]
