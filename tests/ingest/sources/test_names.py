"""The compact set of names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ragcore.ingest.sources.names import Names

words = st.lists(st.text(max_size=5), max_size=50)


@given(words, words)
def test_a_name_that_was_added_is_always_found(added: list[str], others: list[str]) -> None:
    names = Names()
    for name in added:
        names.add(name)
    assert all(names.has(name) for name in added)
    assert [names.has(name) for name in others] == [name in added for name in others]
    assert len(names) == len(added)
    for name in others:
        names.add(name, "second")
    assert all(names.has(name, "second") for name in others)
