"""Rewrites JSON Schemas into the subset that Claude compiles for strict tools and answers; pure.

Source: `transform_schema` of the official SDK, and Anthropic's documented complexity limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

Schema = dict[str, Any]

_FORMATS = frozenset(
    {
        "date-time",
        "time",
        "date",
        "duration",
        "email",
        "hostname",
        "uri",
        "ipv4",
        "ipv6",
        "uuid",
    }
)
_COMBINATIONS = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
_KEPT = ("title", "description", "enum", "const", "required", "type", "$ref", "default")
_MAX_STRICT_TOOLS = 20
_MAX_OPTIONAL = 24
_MAX_UNIONS = 16


def strict_schema(schema: Any) -> Any:
    """The schema with closed objects, where constraints that Claude cannot enforce are described.

    A model may still follow what a description says; a refused request helps nobody.
    """
    if not isinstance(schema, dict):
        return schema
    result: Schema = {}
    rest = dict(schema)
    for name in ("$defs", "definitions"):
        if isinstance(group := rest.pop(name, None), dict):
            result[name] = {key: strict_schema(value) for key, value in group.items()}
    if "$ref" in rest:
        return result | {"$ref": rest["$ref"]}
    for name, becomes in _COMBINATIONS.items():
        if isinstance(variants := rest.pop(name, None), list):
            result[becomes] = [strict_schema(variant) for variant in variants]
    result |= {name: rest.pop(name) for name in _KEPT if name in rest}
    _nested(result, rest)
    rest.pop("$schema", None)
    if rest:
        told = ", ".join(f"{key}: {value}" for key, value in rest.items())
        before = f"{result['description']}\n\n" if result.get("description") else ""
        result["description"] = f"{before}{{{told}}}"
    return result


def _nested(result: Schema, rest: Schema) -> None:
    """Moves what belongs to objects, arrays and strings from `rest` to `result`."""
    types = result.get("type")
    types = set(types) if isinstance(types, list) else {types}
    if "object" in types or isinstance(rest.get("properties"), dict):
        properties = rest.pop("properties", None)
        properties = properties if isinstance(properties, dict) else {}
        result["properties"] = {key: strict_schema(value) for key, value in properties.items()}
        rest.pop("additionalProperties", None)
        result["additionalProperties"] = False
    if "items" in rest:
        result["items"] = strict_schema(rest.pop("items"))
    if rest.get("minItems") in (0, 1):
        result["minItems"] = rest.pop("minItems")
    if rest.get("format") in _FORMATS:
        result["format"] = rest.pop("format")


def fits_strict_limits(schemas: Iterable[Schema]) -> bool:
    """Whether all strict schemas of a request together compile."""
    schemas = list(schemas)
    optional = unions = 0
    for schema in schemas:
        for node in _objects(schema):
            required = node.get("required") or ()
            for name, value in node["properties"].items():
                optional += name not in required
                if isinstance(value, dict):
                    unions += "anyOf" in value or isinstance(value.get("type"), list)
    return (
        len(schemas) <= _MAX_STRICT_TOOLS
        and optional <= _MAX_OPTIONAL
        and unions <= _MAX_UNIONS
        and not any(_is_recursive(schema) for schema in schemas)
    )


def _objects(node: Any) -> Iterator[Schema]:
    """Every object schema that is reached without following a $ref."""
    if isinstance(node, list):
        for value in node:
            yield from _objects(value)
    elif isinstance(node, dict):
        if isinstance(node.get("properties"), dict):
            yield node
            yield from _objects(list(node["properties"].values()))
        for name in ("items", "anyOf", "allOf"):
            yield from _objects(node.get(name))


def _is_recursive(schema: Schema) -> bool:
    groups = ("$defs", "definitions")
    nodes: Schema = {
        f"#/{group}/{name}": node
        for group in groups
        for name, node in (schema.get(group) or {}).items()
    }
    nodes["#"] = {name: value for name, value in schema.items() if name not in groups}
    done: set[str] = set()

    def has_cycle(ref: str, above: tuple[str, ...]) -> bool:
        if ref in above:
            return True
        if ref in done or ref not in nodes:
            return False
        found = any(has_cycle(child, (*above, ref)) for child in _refs(nodes[ref]))
        done.add(ref)
        return found

    return has_cycle("#", ())


def _refs(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        ref = node.get("$ref")
        if isinstance(ref, str):
            yield ref
        for value in node.values():
            yield from _refs(value)
    elif isinstance(node, list):
        for value in node:
            yield from _refs(value)
