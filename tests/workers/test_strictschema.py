from __future__ import annotations

from typing import Any

import pytest
from anthropic import transform_schema

from workers.strictschema import fits_strict_limits, strict_schema

SHAPE: dict[str, Any] = {
    "type": "object",
    "title": "Shape",
    "properties": {
        "name": {"type": "string", "minLength": 2, "description": "What it is called"},
        "when": {"type": "string", "format": "date-time"},
        "host": {"type": "string", "format": "idn-hostname"},
        "sides": {"type": "integer", "minimum": 3, "maximum": 9},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 4},
        "many": {"type": "array", "items": {"$ref": "#/$defs/Point"}, "minItems": 2},
        "either": {"oneOf": [{"type": "null"}, {"$ref": "#/$defs/Point"}]},
    },
    "required": ["name"],
    "$defs": {
        "Point": {
            "type": "object",
            "properties": {"x": {"type": "number"}},
            "additionalProperties": True,
        }
    },
}


def test_a_schema_is_rewritten_as_the_official_sdk_does() -> None:
    assert strict_schema(SHAPE) == transform_schema(SHAPE)


@pytest.mark.parametrize(
    ("schema", "rewritten"),
    [
        (
            {"type": ["object", "null"], "properties": {}},
            {"type": ["object", "null"], "properties": {}, "additionalProperties": False},
        ),
        (
            {"properties": {"a": {"enum": ["b"], "type": "string"}}},
            {
                "properties": {"a": {"enum": ["b"], "type": "string"}},
                "additionalProperties": False,
            },
        ),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "null"}}},) * 2,
        (
            {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "null"},
            {"type": "null"},
        ),
        ({"type": "string", "default": "x"}, {"type": "string", "default": "x"}),
        (True, True),
    ],
)
def test_what_openai_takes_and_the_sdk_does_not_is_rewritten_too(
    schema: Any, rewritten: Any
) -> None:
    assert strict_schema(schema) == rewritten


def _object(count: int, value: Any, *, required: bool) -> dict[str, Any]:
    names = [f"p{i}" for i in range(count)]
    return {
        "type": "object",
        "properties": dict.fromkeys(names, value),
        "required": names if required else [],
    }


TEXT: dict[str, Any] = {"type": "string"}
MAYBE: dict[str, Any] = {"type": ["string", "null"]}
NODE: dict[str, Any] = {
    "$ref": "#/$defs/Node",
    "$defs": {"Node": {"properties": {"next": {"$ref": "#/$defs/Node"}}, "required": ["next"]}},
}


@pytest.mark.parametrize(
    ("schemas", "fits"),
    [
        ([_object(1, TEXT, required=True)] * 20, True),
        ([_object(1, TEXT, required=True)] * 21, False),
        ([_object(100, TEXT, required=True)], True),
        ([_object(24, TEXT, required=False)], True),
        ([_object(25, TEXT, required=False)], False),
        ([_object(12, TEXT, required=False), _object(13, TEXT, required=False)], False),
        ([_object(16, MAYBE, required=True)], True),
        ([_object(17, MAYBE, required=True)], False),
        ([_object(1, {"items": _object(17, MAYBE, required=True)}, required=True)], False),
        ([_object(1, {"anyOf": [_object(25, TEXT, required=False)]}, required=True)], False),
        ([NODE], False),
        ([{"$ref": "#/$defs/A", "$defs": {"A": TEXT}}], True),
        ([], True),
    ],
)
def test_schemas_are_strict_only_where_they_compile(
    schemas: list[dict[str, Any]], fits: bool
) -> None:
    assert fits_strict_limits(schemas) is fits
