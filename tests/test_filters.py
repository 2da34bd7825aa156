"""Filters as data."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import Filter, InvalidInput, Passage, meta

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
scalars = st.one_of(texts, st.integers(-5, 5), st.booleans(), st.floats(-5, 5, allow_nan=False))
keys = st.sampled_from(["a", "b", "c"])


def leaves() -> st.SearchStrategy[Filter]:
    ordered = st.one_of(texts, st.integers(-5, 5))
    return st.one_of(
        st.builds(lambda k, v: meta(k).eq(v), keys, scalars),
        st.builds(lambda k, v: meta(k).ne(v), keys, scalars),
        st.builds(lambda k, v: meta(k).lt(v), keys, ordered),
        st.builds(lambda k, v: meta(k).ge(v), keys, ordered),
        st.builds(lambda k, v: meta(k).in_(v), keys, st.lists(scalars, max_size=3)),
        st.builds(lambda k: meta(k).exists(), keys),
        st.builds(Filter.documents, st.lists(st.sampled_from(["d1", "d2"]), max_size=2)),
    )


filters = st.recursive(
    leaves(),
    lambda f: st.one_of(
        st.builds(lambda a, b: a & b, f, f), st.builds(lambda a, b: a | b, f, f), st.builds(lambda a: ~a, f)
    ),
    max_leaves=6,
)
passages = st.builds(
    lambda d, m: Passage("c", d, "t", metadata=m),
    st.sampled_from(["d1", "d2"]),
    st.dictionaries(keys, st.one_of(scalars, st.none(), st.lists(scalars, max_size=2))),
)


@given(filters)
def test_a_filter_survives_its_own_dict_and_pickling(condition: Filter) -> None:
    assert Filter.from_dict(condition.to_dict()) == condition
    assert pickle.loads(pickle.dumps(condition)) == condition


@given(filters, filters, passages)
def test_and_or_not_are_boolean_operations(a: Filter, b: Filter, passage: Passage) -> None:
    assert (a & b).matches(passage) == (a.matches(passage) and b.matches(passage))
    assert (a | b).matches(passage) == (a.matches(passage) or b.matches(passage))
    assert (~a).matches(passage) != a.matches(passage)


def test_a_missing_key_satisfies_ne_and_not() -> None:
    passage = Passage("c", "d", "t", metadata={"year": 2024})
    assert meta("plan").ne("gold").matches(passage)
    assert (~meta("plan").eq("gold")).matches(passage)
    assert not meta("plan").eq("gold").matches(passage)


def test_mixed_types_never_match() -> None:
    passage = Passage("c", "d", "t", metadata={"year": 2024, "flag": True, "none": None})
    for condition in (
        meta("year").eq("2024"),
        meta("year").ne("2024"),
        meta("year").ge("1"),
        meta("flag").eq(1),
        meta("none").eq(0),
        meta("flag").in_([1]),
    ):
        assert not condition.matches(passage)


def test_the_truth_value_of_a_filter_raises() -> None:
    with pytest.raises(InvalidInput, match="& | ~"):
        meta("a").eq(1) and meta("b").eq(2)
    with pytest.raises(InvalidInput):
        not meta("a").eq(1)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"and": 1},
        {"key": "a", "op": "like", "value": 1},
        {"key": "a", "op": "eq", "value": None},
        {"and": [], "or": []},
        [],
        {"key": "a", "op": "in", "value": "x"},
        {"documents": [1]},
    ],
)
def test_data_that_is_not_a_filter_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        Filter.from_dict(data)


def test_invalid_values_are_refused() -> None:
    values: list[object] = [None, float("nan"), [], "a\0"]
    for bad in values:
        with pytest.raises(InvalidInput):
            meta("a").eq(bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        meta("a").lt(True)
    with pytest.raises(InvalidInput):
        Filter.documents("d1")
