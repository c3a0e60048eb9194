"""Checks JSON that stands as bytes in a typed message, before anybody builds on it."""

from __future__ import annotations

from typing import Any

import orjson

from broker.errors import InferenceError
from broker.translate.refusals import invalid, json_text


def read_json(data: bytes, param: str) -> Any:
    """The value of JSON text; refuses what is none, and what peers could not read."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise invalid(param, f"Invalid '{param}': not JSON: {exc}.") from exc
    json_text(value, param)
    return value


def read_object(data: bytes, param: str) -> dict[str, Any]:
    """The same for what has to be an object."""
    value = read_json(data, param)
    if not isinstance(value, dict):
        raise _wrong_type(param, "an object")
    return value


def read_array(data: bytes, param: str) -> list[Any]:
    """The same for what has to be an array."""
    value = read_json(data, param)
    if not isinstance(value, list):
        raise _wrong_type(param, "an array")
    return value


def read_text(data: bytes, param: str) -> str:
    """Text that stands as bytes, since it may be broken JSON."""
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise invalid(param, f"Invalid '{param}': not valid UTF-8.") from exc


def _wrong_type(param: str, expected: str) -> InferenceError:
    message = f"Invalid type for '{param}': expected {expected}."
    return invalid(param, message, "invalid_type")
