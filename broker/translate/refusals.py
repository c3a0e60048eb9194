"""Says what is wrong with a request body in OpenAI's words: message, dotted path, code.

The codes and phrases are those of api.openai.com, which callers' programs already match on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import msgspec
import orjson

from broker.errors import InferenceError
from broker.translate import wire

_TYPES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def invalid(param: str | None, message: str, code: str | None = "invalid_value") -> InferenceError:
    """A 400 for the field at `param`."""
    return InferenceError("invalid_request", message, param=param, code=code)


def missing(param: str) -> InferenceError:
    """A 400 for a field that has to be there."""
    return invalid(param, f"Missing required parameter: '{param}'.", "missing_required_parameter")


def not_json(detail: str) -> InferenceError:
    """A 400 for a body that cannot be read at all."""
    message = f"We could not parse the JSON body of your request: {detail}."
    return invalid(None, message, None)


def too_deep(param: str | None) -> InferenceError:
    """A 400 for JSON that no parser on the way would take."""
    where = f"'{param}'" if param else "body"
    return invalid(param, f"Invalid {where}: JSON nested too deeply; at most 250 levels.")


def too_large(param: str | None) -> InferenceError:
    """A 400 for a number that no provider's parser could hold."""
    where = f"'{param}'" if param else "body"
    return invalid(param, f"Invalid {where}: it has a number that is out of range.")


def json_text(value: Any, param: str) -> bytes:
    """JSON text of a value that came out of a JSON parser; refuses what peers could not read."""
    try:
        return orjson.dumps(value)
    except TypeError:  # over 254 levels, or an integer over 64 bits
        pass
    try:
        text: bytes = msgspec.json.encode(value)
        # Peers read long integers as floats, so that what still fails here is the depth.
        orjson.dumps(orjson.loads(text))
    except orjson.JSONDecodeError as exc:
        raise too_large(param) from exc
    except (TypeError, RecursionError) as exc:
        raise too_deep(param) from exc
    return text


class _Found(NamedTuple):
    """One complaint of the checker: its words, the field, the value there.

    `inside` is true where the complaint is about some entry of the map at `param`, whose key the
    checker does not tell; `value` is None then.
    """

    words: re.Match[str]
    param: str
    value: Any
    inside: bool


def _shown(value: Any) -> str:
    """How a value is quoted in a message; never long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _wrong_type(found: _Found) -> InferenceError:
    expected = [word for word in found.words["expected"].split(" | ") if word != "null"]
    got = found.words["got"]
    if not found.param:
        message = f"The body must be a JSON object, but it is {_TYPES.get(got, got)}."
        return invalid(None, message, "invalid_type")
    if got == "null" and not found.param.endswith("]"):
        return missing(found.param)
    wanted = " or ".join(_TYPES.get(word, word) for word in expected)
    each = "each value to be " if found.inside else ""
    message = (
        f"Invalid type for '{found.param}': expected {each}{wanted}, "
        f"but got {_TYPES.get(got, got)} instead."
    )
    return invalid(found.param, message, "invalid_type")


def _missing_field(found: _Found) -> InferenceError:
    name = found.words["field"]
    return missing(f"{found.param}.{name}" if found.param else name)


def _out_of_range(found: _Found) -> InferenceError:
    kind = "integer" if found.words["kind"] == "int" else "decimal"
    below = found.words["sign"] == ">="
    side = "below minimum" if below else "above maximum"
    limit = found.words["limit"].removesuffix(".0")
    got = "" if found.value is None else f", but got {_shown(found.value)} instead"
    return invalid(
        found.param,
        f"Invalid '{found.param}': {kind} {side} value. "
        f"Expected a value {found.words['sign']} {limit}{got}.",
        f"{kind}_{side.replace(' minimum', '_min').replace(' maximum', '_max')}_value",
    )


def _wrong_length(found: _Found) -> InferenceError:
    param, limit = found.param, int(found.words["limit"])
    short = found.words["sign"] == ">="
    if found.words["kind"] == "str" and not short:
        message = f"Invalid '{param}': string too long. Expected at most {limit} characters."
        return invalid(param, message, "string_above_max_length")
    if found.words["kind"] == "str":
        return invalid(param, f"Invalid '{param}': empty string.", "empty_string")
    if short:
        message = f"Invalid '{param}': empty array. Expected at least {limit} element."
        return invalid(param, message, "empty_array")
    return invalid(
        param,
        f"Invalid '{param}': array too long. Expected an array with maximum length {limit}, "
        f"but got an array with length {len(found.value)} instead.",
        "array_above_max_length",
    )


def _unknown_word(found: _Found) -> InferenceError:
    known = ", ".join(f"'{word}'" for word in get_args(wire.Role))
    message = f"Invalid value: {_shown(found.value)}. Supported values are: {known}."
    return invalid(found.param, message)


def _too_large(found: _Found) -> InferenceError:
    return too_large(found.param)


# msgspec's messages, which are its only account of what is wrong (the tests pin them).
_MESSAGES: tuple[tuple[re.Pattern[str], Callable[[_Found], InferenceError]], ...] = (
    (re.compile(r"Object missing required field `(?P<field>[^`]+)`"), _missing_field),
    (re.compile(r"Expected `(?P<expected>[^`]+)`, got `(?P<got>[^`]+)`"), _wrong_type),
    (
        re.compile(r"Expected `(?P<kind>int|float)` (?P<sign>[<>]=) (?P<limit>\S+)"),
        _out_of_range,
    ),
    (
        re.compile(r"Expected `(?P<kind>str|array)` of length (?P<sign>[<>]=) (?P<limit>\d+)"),
        _wrong_length,
    ),
    (re.compile(r"Invalid enum value"), _unknown_word),
    (re.compile(r"Number out of range"), _too_large),
)
_PLACE = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.?([^.\[\]]+)")


def _at(body: Any, path: str) -> Any:
    value = body
    for step in _STEP.findall(path):
        value = value[int(step)] if isinstance(value, list) else value.get(step)
    return value


def refused(exc: msgspec.ValidationError, body: Any) -> InferenceError:
    """The 400 for a body that does not have the shape of `wire.ChatRequest`."""
    text = str(exc)
    place = _PLACE.search(text)
    param, some_key, _ = (place["path"] if place else "").partition("[...]")
    value = None if some_key else _at(body, param)
    for pattern, explain in _MESSAGES:
        words = pattern.match(text)
        if words:
            return explain(_Found(words, param, value, bool(some_key)))
    return invalid(param or None, f"Invalid request: {text}.")
