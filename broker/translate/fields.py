"""Reads fields of plain JSON objects that no type describes, and says where one is wrong."""

from __future__ import annotations

from typing import Any

from broker.errors import InferenceError
from broker.translate.refusals import invalid, missing


def wrong(param: str, expected: str) -> InferenceError:
    """A 400 for a field of another type."""
    message = f"Invalid type for '{param}': expected {expected}."
    return invalid(param, message, "invalid_type")


def text(item: dict[str, Any], name: str, where: str, default: str | None = None) -> str:
    """A string; without a default it has to be there."""
    value = item.get(name)
    if value is None:
        if default is None:
            raise missing(f"{where}.{name}")
        return default
    if not isinstance(value, str):
        raise wrong(f"{where}.{name}", "a string")
    return value


def array(item: dict[str, Any], name: str, where: str) -> list[Any]:
    """An array; empty where there is none."""
    value = item.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(f"{where}.{name}", "an array")
    return value


def texts(item: dict[str, Any], name: str, where: str) -> list[str]:
    """An array of strings."""
    values = array(item, name, where)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise wrong(f"{where}.{name}[{index}]", "a string")
    return values


def count(item: dict[str, Any], name: str, where: str) -> int:
    """A whole number from 0; 0 where there is none."""
    value = item.get(name)
    if value is None:
        return 0
    if type(value) is not int or value < 0:
        raise wrong(f"{where}.{name}", "an integer >= 0")
    return value
