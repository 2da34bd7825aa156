"""Limits of real time grow with how busy the machine is, and no further."""

from __future__ import annotations

import pytest

from tests import pace


def test_what_was_in_time_needs_no_look_at_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "slowness", lambda: 1 / 0)
    assert pace.in_time(0.5, 1.0)


def test_a_limit_grows_with_the_machines_slowness_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "slowness", lambda: 7.0)
    assert pace.in_time(6.9, 1.0)
    assert not pace.in_time(7.1, 1.0)
    monkeypatch.setattr(pace, "slowness", lambda: 1e9)
    assert not pace.in_time(21.0, 1.0)


def test_a_machine_is_never_quicker_than_a_quiet_one() -> None:
    assert pace.slowness() >= 1
