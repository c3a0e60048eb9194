"""Reads the JSON body of a request: into plain values, and checked against a type."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any, TypeVar

import msgspec

from broker.translate.json_bytes import read_json
from broker.translate.platform import PLATFORM
from broker.translate.refusals import invalid, json_text, not_json, refused, too_deep, too_large
from broker.v1 import generation_pb2

_Shape = TypeVar("_Shape", bound=msgspec.Struct)
_parse = msgspec.json.Decoder().decode
_parse_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read_body(body: bytes) -> Any:
    """The body's value; if it is an object, with `extra_body` merged into it."""
    try:
        source = _parse(body)
    except msgspec.ValidationError as exc:  # the only thing it checks is the size of numbers
        raise too_large(_where_too_large(body)) from exc
    except msgspec.DecodeError as exc:
        raise not_json(str(exc) if body.strip() else "it is empty") from exc
    except UnicodeDecodeError as exc:
        raise not_json("it is not valid UTF-8") from exc
    except RecursionError as exc:
        raise too_deep(None) from exc
    if isinstance(source, dict) and isinstance(source.get("extra_body"), dict):
        # The OpenAI SDK merges it before sending, its fields winning.
        source.update(source.pop("extra_body"))
    return source


def shaped(source: Any, shape: type[_Shape]) -> _Shape:
    """The value as a type. Raises `InferenceError` invalid_request with the field at fault."""
    try:
        return msgspec.convert(source, shape)
    except msgspec.ValidationError as exc:
        raise refused(exc, source) from exc


def write_rest(
    request: generation_pb2.Request,
    operation: Any,
    source: Mapping[str, Any],
    writers: Mapping[str, Callable[[Any, Any], None]],
    done: Container[str],
) -> None:
    """Write the fields that are set and not `done`: an operation's own, the platform's, the rest.

    What nobody knows goes into the operation's `extra`, as JSON.
    """
    for name, value in source.items():
        if value is None or name in done:
            continue
        if name in writers:
            writers[name](operation, value)
        elif name in PLATFORM:
            PLATFORM[name](request.platform, value)
        else:
            operation.extra[name] = json_text(value, name)


def as_it_is(name: str) -> Callable[[Any, Any], None]:
    """A writer of a field that has the same name and value in the hub."""

    def write(operation: Any, value: Any) -> None:
        setattr(operation, name, value)

    return write


def refuse_known(extra: Mapping[str, bytes], shape: type[msgspec.Struct]) -> None:
    """Refuse typed fields in `extra`, where they would get round the checks, and broken JSON."""
    for name, data in extra.items():
        if name in shape.__struct_fields__:
            raise invalid(name, f"'{name}' has a field of its own: it cannot stand in 'extra'.")
        read_json(data, name)


def _where_too_large(body: bytes) -> str | None:
    """The field with a number that does not fit; the parser itself does not tell."""
    try:
        fields = _parse_fields(body)
    except msgspec.ValidationError:
        return None
    for name, value in fields.items():
        try:
            _parse(value)
        except msgspec.ValidationError:
            return name
    return None
