"""Translate filters to SQL conditions with bind parameters. `Filter.matches` defines their meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ragcore.errors import InvalidInput
from ragcore.filters import Filter

__all__ = ["Conditions"]

OPERATOR = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}


class Conditions:
    """The SQL condition of a filter, and the values of its parameters. In the statement, `taken` other parameters come before them.

    Each condition is true or false and never null, so NOT always inverts it.
    """

    sql: str

    def __init__(self, filter: Filter | None, *, taken: int) -> None:
        if filter is not None and not isinstance(filter, Filter):
            raise InvalidInput(
                f"filter must be a ragcore.Filter, not {type(filter).__name__}: build it with ragcore.meta(…)"
            )
        self.values: list[Any] = []
        self._taken = taken
        self.sql = "" if filter is None else f"and {self._condition(filter.to_dict())}"

    def _bind(self, value: object, type_: str) -> str:
        self.values.append(value)
        return f"${self._taken + len(self.values)}::{type_}"

    def _condition(self, node: Mapping[str, Any]) -> str:
        if "documents" in node:
            return f"document_id = any({self._bind(node['documents'], 'text[]')})"
        if "not" in node:
            return f"not {self._condition(node['not'])}"
        for word in ("and", "or"):
            if word in node:
                neutral = "true" if word == "and" else "false"
                return "(" + f" {word} ".join([neutral, *map(self._condition, node[word])]) + ")"
        return self._key(node["key"], node["op"], node["value"])

    def _key(self, key: str, op: str, value: Any) -> str:
        if op == "in" and not value:
            return "false"
        name = self._bind(key, "text")
        there = f"metadata ? {name}"
        if op == "exists":
            return f"({there})"
        if op == "in":
            return self._one_of(name, value)
        if op == "eq":
            return self._equal(name, value)
        if op == "ne":
            return f"(not {there} or ({self._same_type(name, value)} and not {self._equal(name, value)}))"
        # CASE checks the type before the cast; AND has no fixed order of evaluation.
        if isinstance(value, str):
            compared = f'(metadata ->> {name}) collate "C" {OPERATOR[op]} {self._bind(value, "text")}'
        else:
            compared = f"(metadata ->> {name})::numeric {OPERATOR[op]} {self._bind(str(value), 'text')}::numeric"
        return f"(case when {self._same_type(name, value)} then {compared} else false end)"

    def _one_of(self, name: str, values: Sequence[Any]) -> str:
        """Return a condition with one parameter for all values of a type."""
        words = [value for value in values if isinstance(value, str)]
        numbers = [str(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        alternatives = [self._equal(name, value) for value in (True, False) if any(one is value for one in values)]
        if words:
            among = f"metadata ->> {name} = any({self._bind(words, 'text[]')})"
            alternatives.append(f"(case when {self._same_type(name, '')} then {among} else false end)")
        if numbers:
            among = f"(metadata ->> {name})::numeric = any({self._bind(numbers, 'text[]')}::numeric[])"
            alternatives.append(f"(case when {self._same_type(name, 0)} then {among} else false end)")
        return "(" + " or ".join(alternatives) + ")"

    def _equal(self, name: str, value: Any) -> str:
        match value:
            case bool():
                written = f"to_jsonb({self._bind(value, 'boolean')})"
            case str():
                written = f"to_jsonb({self._bind(value, 'text')})"
            case _:
                written = f"to_jsonb({self._bind(str(value), 'text')}::numeric)"
        return f"coalesce(metadata -> {name} = {written}, false)"

    @staticmethod
    def _same_type(name: str, value: Any) -> str:
        kind = "boolean" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
        return f"coalesce(jsonb_typeof(metadata -> {name}) = '{kind}', false)"
