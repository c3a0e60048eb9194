"""Rewrites JSON Schemas into what Gemini takes: JSON Schema as it is read, or its OpenAPI subset.

An unknown keyword of the subset is a 400, and so is a type that is a list. What the subset cannot
say is told in the description: a model may still follow that, and a refused request helps nobody.

Source: `types.Schema` of the official SDK, and the API's documentation of responseJsonSchema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from broker.errors import InferenceError

Schema = dict[str, Any]

# Keywords that hold schemas: by name, as a list, alone.
_BY_NAME = ("properties", "$defs", "definitions", "patternProperties")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_ALONE = ("items", "additionalProperties")

_FORMATS = frozenset(
    {"date-time", "date", "time", "enum", "int32", "int64", "float", "double", "byte"}
)
_STRING_FORMATS = frozenset({"date-time", "enum"})
_DEFINITIONS = ("$defs", "definitions")
# Keywords that say nothing of values.
_SILENT = frozenset(
    {"$schema", "$id", "$comment", "$anchor", "additionalProperties", "examples", "deprecated"}
    | {"readOnly", "writeOnly", "strict", "discriminator", *_DEFINITIONS}
)
_KEPT = frozenset(
    {"title", "description", "nullable", "required", "minItems", "maxItems", "minProperties"}
    | {"maxProperties", "minimum", "maximum", "minLength", "maxLength", "pattern", "example"}
    | {"propertyOrdering", "default"}
)
# References may double a schema at every step; nobody means one of this many parts.
_MOST = 5000


def plain(schema: Any) -> Any:
    """JSON Schema without the keywords that are refused."""
    if not isinstance(schema, dict):
        return schema
    result = {name: value for name, value in schema.items() if name not in ("$schema", "const")}
    if "const" in schema:
        result["enum"] = [schema["const"]]
    _nested(result, plain)
    for name, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if name in result:
            _exclude(result, name, limit)
    if result.get("type") == "string" and result.get("format", "date") not in _FORMATS:
        _tell(result, {"format": result.pop("format")})
    return result


def lowered(schema: Schema, path: str) -> Schema:
    """The schema in the OpenAPI subset, references resolved.

    The subset has no recursion: where a schema comes back to itself, any object will do. Raises
    `InferenceError` with `path` for a schema that grows beyond all measure.
    """
    definitions = {
        f"#/{group}/{name}": value
        for group in _DEFINITIONS
        if isinstance(schema.get(group), dict)
        for name, value in schema[group].items()
    }
    return _Lowering({"#": schema} | definitions, path).lower(schema, ())


def _nested(schema: Schema, rewrite: Callable[[Any], Any]) -> None:
    for name in _BY_NAME:
        if isinstance(group := schema.get(name), dict):
            schema[name] = {key: rewrite(value) for key, value in group.items()}
    for name in _LISTS:
        if isinstance(variants := schema.get(name), list):
            schema[name] = [rewrite(variant) for variant in variants]
    for name in _ALONE:
        if name in schema:
            schema[name] = rewrite(schema[name])


def _exclude(schema: Schema, name: str, limit: str) -> None:
    """An excluded bound as the bound there is, and in words."""
    value = schema.pop(name)
    if isinstance(value, bool):  # draft 4, where it speaks of the other keyword
        if not value or limit not in schema:
            return
        value = schema[limit]
    schema.setdefault(limit, value)
    _tell(schema, {name: value})


def _tell(schema: Schema, said: Schema) -> None:
    told = ", ".join(f"{name}: {value}" for name, value in said.items())
    before = f"{schema['description']}\n\n" if schema.get("description") else ""
    schema["description"] = f"{before}{{{told}}}"


class _Lowering:
    """The lowering of one schema; `above` are the references that lead to where it is."""

    def __init__(self, known: Mapping[str, Any], path: str) -> None:
        self._known = known
        self._path = path
        self._parts = 0

    def lower(self, schema: Any, above: tuple[str, ...]) -> Schema:
        if not isinstance(schema, dict):
            return {}  # true: anything goes
        rest, above = self._resolved(schema, above)
        result = {name: rest.pop(name) for name in [*rest] if name in _KEPT}
        _type(result, rest)
        _values(result, rest)
        for name in ("exclusiveMinimum", "exclusiveMaximum"):
            if name in rest:
                result[name] = rest.pop(name)
                _exclude(result, name, name.removeprefix("exclusive").lower())
        if isinstance(properties := rest.pop("properties", None), dict) and properties:
            result["type"] = "object"
            result["properties"] = {
                key: self.lower(value, above) for key, value in properties.items()
            }
        if isinstance(items := rest.pop("items", rest.pop("prefixItems", None)), list):
            items = {"anyOf": items} if len(items) > 1 else (items or [{}])[0]
        if items is not None or result.get("type") == "array":
            result["items"] = self.lower(items, above) or {"type": "string"}
        if variants := _variants(rest):
            _choose(result, [self.lower(variant, above) for variant in variants])
        if said := {name: value for name, value in rest.items() if name not in _SILENT}:
            _tell(result, said)
        return result

    def _resolved(self, schema: Schema, above: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
        """The schema with what it refers to and the parts of allOf, and what leads there."""
        self._parts += 1
        if self._parts > _MOST:
            message = f"The schema has more than {_MOST} parts once its references are resolved."
            raise InferenceError("invalid_request", message, param=self._path)
        rest = dict(schema)
        ref = str(rest.pop("$ref", ""))
        target = self._known.get(ref)
        if isinstance(target, dict):
            if ref in above:
                return {"type": "object"} | rest, above
            found, above = self._resolved(target, (*above, ref))
            rest = found | rest
        parts = rest.pop("allOf", None)
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                found, above = self._resolved(part, above)
                rest = _merged(rest, found)
        return rest, above


def _merged(one: Schema, other: Schema) -> Schema:
    both = one | other
    if isinstance(one.get("properties"), dict) and isinstance(other.get("properties"), dict):
        both["properties"] = one["properties"] | other["properties"]
    if isinstance(one.get("required"), list) and isinstance(other.get("required"), list):
        both["required"] = [*dict.fromkeys([*one["required"], *other["required"]])]
    return both


def _type(result: Schema, rest: Schema) -> None:
    """One type: a list of them becomes variants, null among them `nullable`."""
    wanted = rest.pop("type", None)
    types = wanted if isinstance(wanted, list) else [wanted] if wanted else []
    if "null" in types:
        result["nullable"] = True
    types = [kind for kind in types if kind != "null"]
    if len(types) == 1:
        result["type"] = types[0]
    elif types:
        rest.setdefault("anyOf", [{"type": kind} for kind in types])


def _values(result: Schema, rest: Schema) -> None:
    """enum, const and format: enumerations are of strings."""
    values = rest.pop("enum", None)
    if "const" in rest:
        values = [rest.pop("const")]
    if isinstance(values, list):
        if None in values:
            result["nullable"] = True
        values = [value for value in values if value is not None]
        if values and all(isinstance(value, str) for value in values):
            result |= {"type": "string", "enum": values}
        elif values:
            _tell(result, {"one of": values})
            result.setdefault("type", _type_of(values[0]))
    known = _STRING_FORMATS if result.get("type") == "string" else _FORMATS
    if (form := rest.pop("format", None)) in known:
        result["format"] = form
    elif form is not None:
        _tell(result, {"format": form})


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "integer" if isinstance(value, int) else "number"


def _variants(rest: Schema) -> list[Any]:
    found = rest.pop("anyOf", None)
    others = rest.pop("oneOf", None)
    lists = (group for group in (found, others) if isinstance(group, list))
    return [variant for group in lists for variant in group]


def _choose(result: Schema, variants: list[Schema]) -> None:
    """anyOf, where a variant that is null says `nullable` and a lone one is the schema itself."""
    # A null variant comes lowered as one that is nullable and nothing else.
    if any(variant == {"nullable": True} for variant in variants):
        result["nullable"] = True
        variants = [variant for variant in variants if variant != {"nullable": True}]
    if len(variants) == 1:
        for name, value in variants[0].items():
            result.setdefault(name, value)
    elif variants:
        result["anyOf"] = variants
