"""Time limits grow while the machine is busy, up to a bound."""

from __future__ import annotations

import pytest

from tests import pace


def test_slowness_is_not_measured_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "slowness", lambda: 1 / 0)
    assert pace.in_time(0.5, 1.0)


def test_a_limit_grows_with_the_slowness_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "slowness", lambda: 7.0)
    assert pace.in_time(6.9, 1.0)
    assert not pace.in_time(7.1, 1.0)
    monkeypatch.setattr(pace, "slowness", lambda: 1e9)
    assert not pace.in_time(21.0, 1.0)


def test_slowness_is_at_least_1() -> None:
    assert pace.slowness() >= 1
