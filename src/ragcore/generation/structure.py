"""Structured answers: the schema of a call, the form of the model's reply, and its check.

The reply is one JSON object with two fields: "answer" is the answer as text, with its citations, and "data" is a value of the caller's schema. So a structured
answer has the same text, the same citations and the same sign for "not found" as any other.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, get_origin

from ragcore.compat.extras import require
from ragcore.errors import ConfigurationError, InvalidInput

__all__ = ["Mismatch", "Reply", "Structure", "read_reply", "reply_schema", "strict_schema"]

# The schema is a part of each prompt.
MOST_SCHEMA_CHARACTERS: Final = 20_000
MOST_SCHEMA_DEPTH: Final = 32
# JSON that is nested more deeply is refused, before code that calls itself for each level reads it.
MOST_DEPTH: Final = 100
# A reply may have other text before its JSON object. At most this many "{" are tried as the object's beginning.
MOST_STARTS: Final = 20
# The largest number of mistakes that are sent back to the model.
MOST_MISTAKES: Final = 5
# The largest number of classes whose structure is kept.
MOST_KNOWN: Final = 100
# Keywords for references whose target depends on the place at which they are evaluated.
DYNAMIC: Final = ("$dynamicRef", "$recursiveRef", "$dynamicAnchor", "$recursiveAnchor", "$anchor", "$id")
# Keywords whose values are data or names, not schemas.
NOT_SCHEMAS: Final = frozenset(
    {"enum", "const", "default", "examples", "example", "required", "type", "format", "pattern", "description", "title"}
)
# The keywords that strict mode accepts. Source: OpenAI, "Structured model outputs", supported schemas.
STRICT: Final = frozenset(
    """
    type properties required additionalProperties items enum const anyOf $ref $defs title description pattern format
    minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minItems maxItems
    """.split()
)
# Each part before the line end matches in one way only. Otherwise a run of blank lines would take quadratic time.
FENCE: Final = re.compile(r"```[a-zA-Z0-9]*+[^\S\n]*+\n(.*?)```", re.DOTALL)


class Mismatch(Exception):
    """A reply that does not have the form that was asked for.

    Attributes:
        places: where the mistakes are, without the model's words; may be shown in an error.
        mistakes: the mistakes in words, for the model.
    """

    def __init__(self, places: str, mistakes: str = "") -> None:
        super().__init__(places)
        self.places = places
        self.mistakes: str = mistakes or places


class Structure:
    """A checked schema, with a function that makes the caller's value from JSON.

    Attributes:
        schema: the JSON schema of the data.
        value_of: returns the value for decoded JSON, or raises `Mismatch`.
    """

    __slots__ = ("__weakref__", "schema", "value_of")

    schema: Mapping[str, Any]
    value_of: Callable[[object], Any]

    def __init__(self, schema: Mapping[str, Any], value_of: Callable[[object], Any]) -> None:
        self.schema = schema
        self.value_of = value_of

    @classmethod
    def of(cls, schema: object, /) -> Structure:
        """Return the structure for a class (a pydantic model, a dataclass, a TypedDict) or for a JSON schema as a mapping.

        Raises:
            InvalidInput: the schema is neither, is invalid, too large or recursive, or has a reference that can't be resolved.
            ConfigurationError: the package that checks the data is missing.
        """
        if isinstance(schema, Mapping):
            return _of_json_schema(schema)
        if not isinstance(schema, type):
            return _of_type(schema)
        try:
            hash(schema)
        except TypeError:  # a class with an unhashable metaclass
            return _of_type(schema)
        return _of_class(schema)


def _of_json_schema(schema: Mapping[Any, Any]) -> Structure:
    checked = _checked(schema)
    validators = require("jsonschema_rs", extra="schema", purpose="a JSON schema in schema=")
    try:
        validator = validators.validator_for(checked)
    except Exception as error:  # the package's own error, and ValueError
        line = str(error).partition("\n")[0]
        raise InvalidInput(f"schema is not a valid JSON schema: {line[:200]}") from None

    def value_of(data: object) -> object:
        found = []
        for error in validator.iter_errors(data):
            found.append((_path(error.instance_path), str(error.message)))
            if len(found) == MOST_MISTAKES:
                break
        _raise_mistakes(found)
        return data

    return Structure(checked, value_of)


@lru_cache(maxsize=MOST_KNOWN)
def _of_class(kind: type) -> Structure:
    """Return the structure of a class. It refers to the class, so a weak dictionary would keep each class until the process ends."""
    return _of_type(kind)


def _of_type(kind: Any) -> Structure:
    if (
        not isinstance(kind, type) and get_origin(kind) is None
    ):  # pydantic would also accept a function, and make a schema from its arguments
        raise InvalidInput(
            f"schema is a {type(kind).__name__}: it must be a pydantic model, a dataclass, a TypedDict or a JSON schema"
        )
    try:
        import pydantic
    except ImportError as error:
        raise ConfigurationError(
            f"schema={getattr(kind, '__name__', kind)!r} needs the package 'pydantic', which can't be imported ({error}); "
            "install it, or pass a JSON schema"
        ) from error
    try:
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(kind)
        schema = adapter.json_schema()
    except Exception as error:  # pydantic raises several errors, and a class's own code may raise any
        line = str(error).partition("\n")[0]
        name = getattr(kind, "__name__", type(kind).__name__)
        raise InvalidInput(
            f"schema={name} can't be used: it must be a pydantic model, a dataclass, a TypedDict or a JSON schema: {line[:200]}"
        ) from None

    def value_of(data: object) -> object:
        try:
            # Validate JSON and not Python values, because in JSON a date is a string.
            return adapter.validate_json(json.dumps(data))
        except pydantic.ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            _raise_mistakes([(_path(one["loc"]), one["msg"]) for one in errors[:MOST_MISTAKES]])
            raise

    return Structure(_checked(schema), value_of)


def _checked(schema: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a copy of a JSON schema that can be put into a prompt.

    Raises:
        InvalidInput: it is too large, too deeply nested or recursive, or has a reference that can't be resolved.
    """
    if _depth(schema, most=MOST_SCHEMA_DEPTH) > MOST_SCHEMA_DEPTH:
        raise InvalidInput(f"schema is nested more than {MOST_SCHEMA_DEPTH} levels deep: make it flatter")
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"schema can't be written as JSON: {error}") from None
    if len(text) > MOST_SCHEMA_CHARACTERS:
        raise InvalidInput(
            f"schema has {len(text):,} characters as JSON (limit {MOST_SCHEMA_CHARACTERS:,}): it is a part of each prompt, so ask for less at once"
        )
    plain: dict[str, Any] = json.loads(text)
    _follow(plain, plain, ())
    return plain


def _follow(node: Any, root: Mapping[str, Any], within: tuple[str, ...]) -> None:
    """Follow each reference of a schema.

    Raises:
        InvalidInput: a reference leads to nothing, out of the schema, or back to itself.
    """
    for part in _schemas(node):
        if named := next((name for name in DYNAMIC if name in part), None):
            raise InvalidInput(
                f"schema contains {named!r}, which is not supported: write '$ref' with a path such as '#/$defs/item'"
            )
        if (reference := part.get("$ref")) is None:
            continue
        if reference in within:
            raise InvalidInput(
                f"schema is recursive at {reference!r}: a model could answer without end; limit the levels"
            )
        _follow(_at(reference, root), root, (*within, reference))


def _at(reference: object, root: Mapping[str, Any]) -> Any:
    found: Any = root
    if isinstance(reference, str) and reference.startswith("#"):
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdigit() and int(name) < len(found):
                found = found[int(name)]
            else:
                break
        else:
            return found
    raise InvalidInput(f"schema has the reference {str(reference)[:100]!r}, which can't be resolved within it")


def _schemas(node: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and the schemas within it, without following references."""
    if isinstance(node, list):
        for item in node:
            yield from _schemas(item)
        return
    if not isinstance(node, dict):
        return
    yield node
    for keyword, value in node.items():
        if keyword in ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas"):
            for inner in value.values() if isinstance(value, dict) else ():
                yield from _schemas(inner)
        elif keyword not in NOT_SCHEMAS:
            yield from _schemas(value)


def reply_schema(schema: Mapping[str, Any], /) -> dict[str, Any]:
    """Return the JSON schema of the whole reply: "answer" is a text; "data" is a value of `schema`, or null if the passages don't answer the question.

    Definitions move to the root, where all servers find them.
    """
    inner = {name: value for name, value in schema.items() if name not in ("$schema", "$defs", "definitions")}
    moved = json.loads(json.dumps(inner))
    for part in _schemas(moved):
        reference = part.get("$ref")
        if isinstance(reference, str) and not reference.startswith(("#/$defs/", "#/definitions/")):
            part["$ref"] = f"#/properties/data/anyOf/0{reference[1:]}"
    return {
        "type": "object",
        "properties": {"answer": {"type": "string"}, "data": {"anyOf": [moved, {"type": "null"}]}},
        "required": ["answer", "data"],
        "additionalProperties": False,
        **{name: schema[name] for name in ("$defs", "definitions") if name in schema},
    }


def strict_schema(schema: Mapping[str, Any], /) -> dict[str, Any] | None:
    """Return the schema for strict mode; None if strict mode does not accept it.

    Strict mode requires each property of an object, and forbids others. A schema with optional properties is not changed to require them, since a model would
    then invent values.
    """
    strict: dict[str, Any] = json.loads(json.dumps(schema))
    for part in _schemas(strict):
        if not part.keys() <= STRICT:
            return None
        if part.get("type") == "object" or "properties" in part:
            if part.setdefault("additionalProperties", False) is not False:
                return None
            if set(part.get("required", ())) != set(part.get("properties", {})):
                return None
    return strict


class Reply:
    """A model's reply: the answer as text, and the decoded data; None if the passages don't answer the question."""

    __slots__ = ("answer", "data")

    def __init__(self, answer: str, data: object) -> None:
        self.answer = answer
        self.data = data


def read_reply(text: str, /) -> Reply:
    """Return the reply in a model's text. Fences of Markdown and other text around the object are ignored.

    Raises:
        Mismatch: the text contains no such object.
    """
    fenced = [match[1] for match in FENCE.finditer(text)]
    for candidate in (text, *fenced):
        for found in _objects(candidate):
            if "data" not in found:
                continue
            answer = found.get("answer", "")
            if not isinstance(answer, str):
                raise Mismatch("'answer' is not a text")
            if found["data"] is not None and not answer.strip():
                raise Mismatch("'answer' is empty")
            return Reply(answer, found["data"])
    raise Mismatch("it is not one JSON object with the fields 'answer' and 'data'")


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in a text. An object within another one is not yielded."""
    decoder = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
    at = text.find("{")
    for _ in range(MOST_STARTS):
        if at < 0:
            return
        try:
            found, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        if _depth(found, most=MOST_DEPTH) > MOST_DEPTH:
            raise Mismatch(f"it is nested more than {MOST_DEPTH} levels deep")
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # an escape such as "\\ud83d" alone
            raise Mismatch("it contains half of a surrogate pair, which is not valid Unicode") from None
        yield found
        at = text.find("{", end)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    """Return a number. One that is too large for a float, such as 1e999, would become infinity, which JSON does not have."""
    if math.isinf(found := float(number)):
        raise ValueError(f"{number[:40]} is too large")
    return found


def _depth(value: object, *, most: int) -> float:
    """Return the number of levels of a value; infinity if there are more than `most`. Does not use recursion, because the value may have very many levels."""
    level: list[object] = [value]
    for depth in range(most + 1):
        level = [
            inner
            for one in level
            if isinstance(one, Mapping | list | tuple)
            for inner in (one.values() if isinstance(one, Mapping) else one)
        ]
        if not level:
            return depth
    return math.inf


def _path(steps: object) -> str:
    """Return a place in the data, such as "data.items[2].price"."""
    path = "data"
    for step in steps if isinstance(steps, list | tuple) else ():
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path[:200]


def _raise_mistakes(found: list[tuple[str, str]]) -> None:
    if found:
        raise Mismatch(
            f"the schema is not fulfilled at {', '.join(dict.fromkeys(path for path, _ in found))}",
            "; ".join(f"{path}: {message}" for path, message in found)[:2_000],
        )
