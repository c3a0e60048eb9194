"""Turns vectors into the format that the caller reads; those that have it stay as they came."""

from __future__ import annotations

import sys
from array import array
from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Callable, Iterable
from typing import TypeAlias

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2, operations_pb2

JSON = operations_pb2.VECTOR_FORMAT_JSON
BASE64 = operations_pb2.VECTOR_FORMAT_BASE64
FLOAT32 = operations_pb2.VECTOR_FORMAT_FLOAT32

_Format: TypeAlias = "operations_pb2.VectorFormat.ValueType"


def _floats_of_json(value: bytes) -> bytes:
    return _little(array("f", orjson.loads(value))).tobytes()


def _json_of_floats(value: bytes) -> bytes:
    return orjson.dumps(_little(array("f", value)).tolist())


def _base64_of_floats(value: bytes) -> bytes:
    return b2a_base64(value, newline=False)


def _little(floats: array[float]) -> array[float]:
    """Little-endian, as it travels; swapped where the machine is big-endian."""
    if sys.byteorder == "big":
        floats.byteswap()
    return floats


_CONVERSIONS: dict[tuple[_Format, _Format], Callable[[bytes], bytes]] = {
    (JSON, FLOAT32): _floats_of_json,
    (JSON, BASE64): lambda value: _base64_of_floats(_floats_of_json(value)),
    (BASE64, FLOAT32): a2b_base64,
    (BASE64, JSON): lambda value: _json_of_floats(a2b_base64(value)),
    (FLOAT32, JSON): _json_of_floats,
    (FLOAT32, BASE64): _base64_of_floats,
}


def values_as(vectors: operations_pb2.Vectors, wanted: _Format) -> list[bytes]:
    """The values in the format that is wanted; UNSPECIFIED takes them as they came.

    Raises `InferenceError` upstream_error for what is no vector in the format it came in.
    """
    if wanted in (vectors.format, operations_pb2.VECTOR_FORMAT_UNSPECIFIED):
        return list(vectors.values)
    try:
        return list(map(_CONVERSIONS[vectors.format, wanted], vectors.values))
    except (KeyError, ValueError, TypeError, OverflowError, Error) as exc:
        raise InferenceError(
            "upstream_error", "the provider sent something that is no vector"
        ) from exc


def read_vectors(request: generation_pb2.Request, events: Iterable[event_pb2.Event]) -> None:
    """Put the vectors among the events into the format that the request asks for."""
    if not request.HasField("embed") or not request.embed.format:
        return
    for event in events:
        if event.HasField("vectors") and event.vectors.format != request.embed.format:
            values = values_as(event.vectors, request.embed.format)
            event.vectors.ClearField("values")
            event.vectors.values.extend(values)
            event.vectors.format = request.embed.format
