"""Filters: conditions on metadata and document ids, as data. A filter means the same in every store.

A missing key satisfies `ne` and `not`. A value never matches a value of another type.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn, Self, TypeAlias

from ragcore.errors import InvalidInput
from ragcore.types import Passage, Scalar
from ragcore.types.documents import check_text

__all__ = ["Filter", "MetaField", "meta"]

Node: TypeAlias = tuple[Any, ...]
ORDERED: Final = ("lt", "le", "gt", "ge")
MOST_CHILDREN: Final = 2_000
LARGEST: Final = 10**300  # both a float and PostgreSQL's numeric can represent this number
OPERATORS: Final = ("eq", "ne", *ORDERED, "in", "exists")


def meta(key: str, /) -> MetaField:
    """Return a metadata key from which to build a filter.

    Examples:
        >>> (meta("year").ge(2024) & ~meta("draft").eq(True)).to_dict()
        {'and': [{'key': 'year', 'op': 'ge', 'value': 2024}, {'not': {'key': 'draft', 'op': 'eq', 'value': True}}]}
    """
    return MetaField(key)


class MetaField:
    """A metadata key. Its methods return filters."""

    __slots__ = ("_key",)

    def __init__(self, key: str, /) -> None:
        self._key = check_text("a filter's key", key)

    def eq(self, value: Scalar, /) -> Filter:
        """Match if the key exists and its value equals `value`; 1 equals 1.0 but not True."""
        return Filter(("key", self._key, "eq", _scalar(value)))

    def ne(self, value: Scalar, /) -> Filter:
        """Match if the key is missing, or if its value has the same type and differs from `value`."""
        return Filter(("key", self._key, "ne", _scalar(value)))

    def lt(self, value: Scalar, /) -> Filter:
        """Match if the key's value is less than `value`, a number or a string. Strings are compared by code point."""
        return self._ordered("lt", value)

    def le(self, value: Scalar, /) -> Filter:
        """Match if the key's value is at most `value`, a number or a string. Strings are compared by code point."""
        return self._ordered("le", value)

    def gt(self, value: Scalar, /) -> Filter:
        """Match if the key's value is greater than `value`, a number or a string. Strings are compared by code point."""
        return self._ordered("gt", value)

    def ge(self, value: Scalar, /) -> Filter:
        """Match if the key's value is at least `value`, a number or a string. Strings are compared by code point."""
        return self._ordered("ge", value)

    def in_(self, values: Iterable[Scalar], /) -> Filter:
        """Match if the value equals one of `values`. Empty `values` match no passage."""
        return Filter(("key", self._key, "in", tuple(_scalar(value) for value in _several("in_", values))))

    def exists(self) -> Filter:
        """Match if the key exists, with any value, including null."""
        return Filter(("key", self._key, "exists", True))

    def _ordered(self, op: str, value: Scalar) -> Filter:
        if isinstance(value, bool):
            raise InvalidInput(f"{op} can't compare true and false: use eq")
        return Filter(("key", self._key, op, _scalar(value)))


class Filter:
    """A condition on passages. Join filters with `&`, `|` and `~`. `and`, `or` and `not` raise an error, because Python would ignore a part of the condition.

    Use `meta(...)`, `Filter.documents(...)` or `Filter.from_dict(...)` to make a filter. Filters are hashable, picklable and compared by value.
    """

    __slots__ = ("_node",)

    def __init__(self, node: Node, /) -> None:
        self._node = node

    @classmethod
    def documents(cls, document_ids: Iterable[str], /) -> Self:
        """Return a filter that matches only passages of these documents."""
        ids = _several("Filter.documents", document_ids)
        return cls(("documents", tuple(check_text("a document's id", document_id) for document_id in ids)))

    @classmethod
    def from_dict(cls, data: Mapping[str, object], /) -> Self:
        """Return the filter that `to_dict()` has written as `data`.

        Raises:
            InvalidInput: `data` does not have that form.
        """
        return cls(_parse(data, depth=0))

    def to_dict(self) -> dict[str, Any]:
        """Return {"key", "op", "value"} | {"documents": […]} | {"and": […]} | {"or": […]} | {"not": …}, which stores translate."""
        return _written(self._node)

    def matches(self, passage: Passage, /) -> bool:
        """Return whether a passage matches the filter. This method is the reference for all stores."""
        return _matches(self._node, passage)

    def __and__(self, other: Filter) -> Filter:
        return Filter(_joined("and", self._node, other._node))

    def __or__(self, other: Filter) -> Filter:
        return Filter(_joined("or", self._node, other._node))

    def __invert__(self) -> Filter:
        return Filter(self._node[1] if self._node[0] == "not" else ("not", self._node))

    def __bool__(self) -> NoReturn:
        raise InvalidInput("a filter is neither true nor false: join filters with & | ~, not with and, or, not")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and repr(self._node) == repr(other._node)  # repr shows 1 and True differently

    def __hash__(self) -> int:
        return hash(repr(self._node))

    def __repr__(self) -> str:
        return f"Filter.from_dict({self.to_dict()!r})"


def _joined(op: str, one: Node, other: Node) -> Node:
    """Join two nodes. A child with the same operator is merged, so that a long chain of filters does not nest."""
    children = tuple(child for node in (one, other) for child in (node[1] if node[0] == op else (node,)))
    if len(children) > MOST_CHILDREN:
        raise InvalidInput(f"more than {MOST_CHILDREN:,} conditions are joined by {op}: use in_ or Filter.documents")
    return (op, children)


def _several(what: str, values: object) -> tuple[Any, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidInput(f"{what} needs a list of values, not a single {type(values).__name__}: put it into a list")
    return tuple(values)


def _scalar(value: object) -> Scalar:
    if isinstance(value, str):
        return check_text("a filter's value", value)
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) < LARGEST):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise InvalidInput(f"a filter's value must be a str, a finite number or a bool, not {value!r}")


def _written(node: Node) -> dict[str, Any]:
    match node:
        case ("key", key, op, value):
            return {"key": key, "op": op, "value": list(value) if isinstance(value, tuple) else value}
        case ("documents", ids):
            return {"documents": list(ids)}
        case ("not", child):
            return {"not": _written(child)}
        case (op, children):
            return {op: [_written(child) for child in children]}
    raise AssertionError(node)


def _parse(data: object, *, depth: int) -> Node:
    if depth > 50:
        raise InvalidInput("a filter is nested more than 50 levels deep: join conditions in one list")
    if isinstance(data, Mapping):
        if set(data) == {"key", "op", "value"}:
            return _parse_key(data["key"], data["op"], data["value"])
        match dict(data):
            case {"documents": list() as ids, **rest} if not rest:
                return Filter.documents(ids)._node
            case {"and": list() as children, **rest} if not rest:
                return ("and", tuple(_parse(child, depth=depth + 1) for child in children))
            case {"or": list() as children, **rest} if not rest:
                return ("or", tuple(_parse(child, depth=depth + 1) for child in children))
            case {"not": child, **rest} if not rest:
                return ("not", _parse(child, depth=depth + 1))
    raise InvalidInput(f"not a filter: {data!r:.200}; use the form that Filter.to_dict() returns")


def _parse_key(key: object, op: object, value: Any) -> Node:
    if not isinstance(key, str) or op not in OPERATORS:
        raise InvalidInput(f"not a filter: key {key!r:.100}, op {op!r:.100}; the operators are {', '.join(OPERATORS)}")
    if op == "exists":
        return meta(key).exists()._node
    if op == "in":
        return meta(key).in_(value)._node
    node: Node = getattr(meta(key), str(op))(value)._node
    return node


def _matches(node: Node, passage: Passage) -> bool:
    match node:
        case ("key", key, op, value):
            return _key_matches(passage.metadata, key, op, value)
        case ("documents", ids):
            return passage.document_id in ids
        case ("not", child):
            return not _matches(child, passage)
        case ("and", children):
            return all(_matches(child, passage) for child in children)
        case ("or", children):
            return any(_matches(child, passage) for child in children)
    raise AssertionError(node)


def _key_matches(metadata: Mapping[str, Any], key: str, op: str, wanted: Any) -> bool:
    if key not in metadata:
        return op == "ne"
    if op == "exists":
        return True
    value = metadata[key]
    if op == "in":
        return any(_type(value) == _type(one) and value == one for one in wanted)
    if _type(value) != _type(wanted):
        return False
    match op:
        case "eq":
            return bool(value == wanted)
        case "ne":
            return bool(value != wanted)
        case "lt":
            return bool(value < wanted)
        case "le":
            return bool(value <= wanted)
        case "gt":
            return bool(value > wanted)
        case _:
            return bool(value >= wanted)


def _type(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "other"
