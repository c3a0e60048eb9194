"""Puts JSON text of the hub into a body, checked: a caller must not write other fields with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from broker.errors import InferenceError

_check_json = msgspec.json.Decoder(msgspec.Raw).decode


def fragment(value: bytes, param: str) -> orjson.Fragment:
    """JSON text as a value of the body; `InferenceError` naming `param` for what is none."""
    try:
        _check_json(value)
    except msgspec.DecodeError as exc:
        raise InferenceError("invalid_request", f"{param} is not JSON: {exc}", param=param) from exc
    return orjson.Fragment(value)


def merge(target: dict[str, Any], extra: Mapping[str, bytes], where: str = "") -> dict[str, Any]:
    """Adds fields that the hub does not know; what it does know wins.

    A dotted name such as `image_url.max_pixels` belongs into an object that is there.
    """
    for name, value in extra.items():
        owner, field = target, name
        while "." in field:
            head, rest = field.split(".", 1)
            inner = owner.get(head)
            if not isinstance(inner, dict):
                break
            owner, field = inner, rest
        if field not in owner:
            owner[field] = fragment(value, where + name)
    return target
