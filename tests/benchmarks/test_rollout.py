"""The scenario `rollout`: it reports its figures, and its candidates behave as their names say."""

from __future__ import annotations

import pytest
from benchmarks.scenarios import rollout

pytestmark = pytest.mark.system


@pytest.mark.parametrize("name", ["hang", "figures"])
def test_a_bad_candidate_is_rolled_back_for_its_fault(name: str) -> None:
    result = rollout._roll_out(rollout.WORLDS[name], 7, share=0.05, most=rollout.MOST_BAD)
    assert result.status == "rolled_back"
    assert name in result.reason
    assert result.calls <= rollout.MOST_BAD
    assert result.worst <= rollout.TIMEOUT


def test_equal_seeds_give_equal_runs() -> None:
    runs = [rollout._roll_out(rollout.WORLDS["errors"], 3, share=0.25, most=60) for _ in range(2)]
    assert runs[0] == runs[1]
