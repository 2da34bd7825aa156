"""Schemas of structured answers, and the replies of models."""

from __future__ import annotations

import contextlib
import gc
import json
import weakref
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, create_model
from typing_extensions import TypedDict

from ragcore import InvalidInput, Prompt
from ragcore.generation import render
from ragcore.generation.structure import MOST_KNOWN, Mismatch, Structure, read_reply, reply_schema, strict_schema


class Line(BaseModel):
    name: str
    price: float


class Invoice(BaseModel):
    number: int
    due: date
    lines: list[Line]


@dataclass
class Point:
    x: int
    y: int = 0


class Plan(TypedDict):
    deductible: int
    covered: list[str]


class Tree(BaseModel):
    children: list[Tree] = []


PLAN = {
    "type": "object",
    "properties": {
        "deductible": {"type": "integer", "minimum": 1},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
    },
    "required": ["deductible"],
    "$defs": {"item": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
}


def test_each_kind_of_schema_gives_its_own_kind_of_value() -> None:
    invoice = Structure.of(Invoice).value_of({"number": 7, "due": "2026-01-31", "lines": [{"name": "a", "price": 1}]})
    assert invoice == Invoice(number=7, due=date(2026, 1, 31), lines=[Line(name="a", price=1.0)])
    assert Structure.of(Point).value_of({"x": 1}) == Point(1)
    assert Structure.of(Plan).value_of({"deductible": 5, "covered": []}) == {"deductible": 5, "covered": []}
    assert Structure.of(PLAN).value_of({"deductible": 5}) == {"deductible": 5}
    assert Structure.of(list[int]).value_of([1]) == [1]
    assert Structure.of(Invoice) is Structure.of(Invoice)


@pytest.mark.parametrize(
    ("schema", "data", "places"),
    [
        (Invoice, {"number": "secret", "lines": [{"name": "a"}]}, ("data.number", "data.due", "data.lines[0].price")),
        (PLAN, {"deductible": 0, "items": [{}]}, ("data.deductible", "data.items[0]")),
        (Plan, [1], ("data",)),
    ],
)
def test_a_mismatch_names_the_places_and_not_the_models_words(schema: Any, data: Any, places: tuple[str, ...]) -> None:
    with pytest.raises(Mismatch) as caught:
        Structure.of(schema).value_of(data)
    assert all(place in caught.value.places for place in places)
    assert "secret" not in caught.value.places


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (Tree, "recursive"),
        ({"$ref": "#"}, "recursive"),
        ({"properties": {"a": {"$ref": "#/properties/b"}, "b": {"$ref": "#/properties/a"}}}, "recursive"),
        ({"$ref": "#/$defs/missing"}, "can't be resolved"),
        ({"$ref": "https://example.com/schema.json"}, "can't be resolved"),
        ({"$dynamicRef": "#x"}, "not supported"),
        ({"type": "text"}, "not a valid JSON schema"),
        ({"type": "object", "properties": {"a": {"minimum": "x"}}}, "not a valid JSON schema"),
        ({"const": float("nan")}, "can't be written as JSON"),
        ({"const": object()}, "can't be written as JSON"),
        ({"enum": ["x" * 20_000]}, "20,0"),
        (nested(40), "levels deep"),
        (nested(100_000), "levels deep"),
        (7, "must be a pydantic model"),
        (lambda: None, "must be a pydantic model"),
        (type("Plain", (), {}), "must be a pydantic model"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Structure.of(schema)


def test_classes_that_are_made_while_the_program_runs_are_not_kept_for_ever() -> None:
    first = create_model("Made", number=(int, ...))
    assert Structure.of(first) is Structure.of(first)
    kept = weakref.ref(first)
    del first
    for _ in range(MOST_KNOWN):
        Structure.of(create_model("Made", number=(int, ...)))
    gc.collect()
    assert kept() is None


def test_data_may_be_named_like_a_keyword_of_json_schema() -> None:
    schema = {"type": "object", "properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}}}
    assert Structure.of(schema).value_of({"$ref": "x"}) == {"$ref": "x"}
    assert Structure.of({"enum": [{"$ref": "x"}]}).value_of({"$ref": "x"})


def test_references_still_resolve_in_the_schema_of_the_reply() -> None:
    import jsonschema_rs

    schema = {**PLAN, "properties": {**PLAN["properties"], "again": {"$ref": "#/properties/deductible"}}}  # type: ignore[dict-item]
    check = jsonschema_rs.validator_for(reply_schema(schema)).is_valid
    assert check({"answer": "x [1]", "data": {"deductible": 1, "again": 2, "items": [{"name": "a"}]}})
    assert check({"answer": "NOT_FOUND", "data": None})
    assert not check({"answer": "x", "data": {"deductible": 1, "again": 0}})
    assert not check({"answer": "x", "data": {"deductible": 1, "items": [{}]}})
    assert not check({"answer": "x"})


def test_strict_mode_is_used_only_if_the_schema_requires_each_property() -> None:
    strict = strict_schema(reply_schema(Structure.of(Plan).schema))
    assert strict is not None
    assert strict["properties"]["data"]["anyOf"][0]["additionalProperties"] is False
    assert strict_schema(reply_schema(Structure.of(Point).schema)) is None  # y is optional
    assert strict_schema({"type": "object", "oneOf": []}) is None
    assert strict_schema({"type": "object", "additionalProperties": {"type": "string"}}) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"answer": "It is $5 [1].", "data": {"a": 1}}',
        'Here it is:\n```json\n{"answer": "It is $5 [1].", "data": {"a": 1}}\n```\nI hope this helps {you}.',
        'I think {so}. {"x": 1} {"answer": "It is $5 [1].", "data": {"a": 1}}',
    ],
)
def test_fences_and_text_around_the_reply_are_ignored(text: str) -> None:
    reply = read_reply(text)
    assert (reply.answer, reply.data) == ("It is $5 [1].", {"a": 1})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It is $5.",
        "[1]",
        '{"answer": "x"',
        '{"a": 1}',
        '{"answer": 5, "data": {}}',
        '{"answer": "", "data": {}}',
        '{"answer": "x", "data": NaN}',
        '{"answer": "x", "data": {"a": 1e999}}',
        r'{"answer": "half of \ud83d", "data": {}}',
        r'{"answer": "x", "data": {"a": "\ud83d"}}',
        '{"answer": "x", "data": ' + "[" * 5_000 + "]" * 5_000 + "}",
        '{"answer": "x", "data": ' + "[" * 100_000,
        "{" * 100_000,
    ],
)
def test_any_other_reply_is_a_mismatch(text: str) -> None:
    with pytest.raises(Mismatch):
        read_reply(text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["```json" + "\n" * 100_000, "```" + " \n" * 50_000, "```\n" * 50_000])
def test_long_runs_of_white_space_take_linear_time(text: str) -> None:
    """Some models write blank lines until their token limit. If the time were quadratic, each of these texts would take minutes."""
    with pytest.raises(Mismatch):
        read_reply(text)


@given(st.text(alphabet='{}[]":,ab1 \n`', max_size=200))
def test_no_text_raises_another_error(text: str) -> None:
    with contextlib.suppress(Mismatch):
        read_reply(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_data_survives_the_way_through_a_reply(data: Any) -> None:
    reply = read_reply("Well:\n" + json.dumps({"answer": "x", "data": data}))
    assert reply.data == data


def test_the_prompt_has_the_schema_and_the_rejected_reply() -> None:
    prompt = Prompt("How much?", schema=PLAN, rejected=('{"data": 1}', "data: not an object"))
    messages = render(prompt)
    assert '"deductible"' in messages[0]["content"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert "data: not an object" in messages[-1]["content"]
    assert "JSON" not in render(Prompt("How much?"))[0]["content"]
