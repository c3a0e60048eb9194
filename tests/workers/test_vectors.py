"""Vectors are cut out of answers whatever the pieces they come in, and nothing is lost."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from workers.vectors import EVENT_BYTES, Cutter, Place, Said, VectorDecoder

FIELD = Place.value("embedding")
ARRAY = Place.array("float", "base64")
SIZES = (1, 2, 7, 64, 65, 4096)


def pieces(body: bytes, size: int) -> Iterable[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


def cut(place: Place, body: bytes, size: int) -> tuple[list[bytes], Any]:
    cutter = Cutter(place)
    values = [value for piece in pieces(body, size) for value in cutter.feed(piece)]
    return values, json.loads(cutter.close())


@pytest.mark.parametrize("size", SIZES)
def test_vectors_are_cut_out_of_a_body_in_pieces_of_any_size(size: int) -> None:
    body = (
        b'{"object": "list", "data": [{"object":"embedding","index":0,"embedding":[0.1, -2e-5]},'
        b'{"embedding" :\n "AAAA", "index": 1, "object": "embedding"}, {"embedding":[]}],'
        b'"model":"m", "note": "\\"embedding\\":[1]"}'
    )
    values, rest = cut(FIELD, body, size)
    assert values == [b"[0.1, -2e-5]", b"AAAA", b"[]"]
    assert [item["embedding"] for item in rest["data"]] == [0, 0, 0]
    assert [item.get("index") for item in rest["data"]] == [0, 1, None]
    assert rest["note"] == '"embedding":[1]'


@pytest.mark.parametrize("size", SIZES)
def test_an_array_of_vectors_is_taken_apart(size: int) -> None:
    body = b'{"id":"x","embeddings":{"float":[[1,2], [3,4] ,[5]],"int8":[]},"texts":["float"]}'
    values, rest = cut(ARRAY, body, size)
    assert values == [b"[1,2]", b"[3,4]", b"[5]"]
    assert rest == {"id": "x", "embeddings": {"float": [0, 0, 0], "int8": []}, "texts": ["float"]}


@pytest.mark.parametrize("size", SIZES)
def test_an_empty_array_holds_no_vectors(size: int) -> None:
    assert cut(ARRAY, b'{"float":[ ],"base64":["QQ=="]}', size)[0] == [b"QQ=="]


def decoder(inputs: int, place: Place = FIELD) -> VectorDecoder:
    request = generation_pb2.Request()
    request.embed.texts.extend(["four"] * inputs)
    return VectorDecoder(
        request, {"x-request-id": "r"}, place, lambda _rest, _headers: Said(7, "m")
    )


def answer(numbers: Iterable[int | None], value: bytes = b"[1]") -> bytes:
    items = [
        b'{"embedding":%b%b}' % (value, b"" if number is None else b',"index":%d' % number)
        for number in numbers
    ]
    return b'{"data":[%b]}' % b",".join(items)


def decoded(decoder: VectorDecoder, body: bytes, size: int) -> list[event_pb2.Event]:
    events = [event for piece in pieces(body, size) for event in decoder.feed(piece)]
    return [*events, *decoder.close()]


def numbered(events: list[event_pb2.Event]) -> list[int]:
    return [
        event.vectors.first + place
        for event in events
        if event.HasField("vectors")
        for place in range(len(event.vectors.values))
    ]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1], [None] * 4])
@pytest.mark.parametrize("value", [b"[1]", b'"%b"' % (b"A" * 100_000)], ids=["small", "large"])
def test_each_vector_belongs_to_the_input_that_the_provider_names(
    order: list[int | None], value: bytes
) -> None:
    events = decoded(decoder(4), answer(order, value), 60_000)
    assert numbered(events) == [place if n is None else n for place, n in enumerate(order)]
    assert events[0].HasField("started")
    assert events[-1].completed.usage.input_tokens == 7
    assert events[-1].completed.model == "m"


def test_events_come_while_the_answer_does_and_fit_a_frame() -> None:
    asked = decoder(100)
    body = answer(range(100), b'"%b"' % (b"A" * 20_000))
    first = list(asked.feed(body[:1_000_000]))
    assert numbered(first), "vectors are held back"
    events = [*first, *asked.feed(body[1_000_000:]), *asked.close()]
    assert numbered(events) == list(range(100))
    assert max(event.ByteSize() for event in events) < EVENT_BYTES + 40_000
    values = [value for event in events for value in event.vectors.values]
    assert set(values) == {b"A" * 20_000}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (answer([0, 1]), "upstream_error"),
        (answer([0, 1, 1]), "upstream_error"),
        (answer([0, 1, 3]), "upstream_error"),
        (answer([0, 1, 2, 3]), "upstream_error"),
        (answer([0, 1, 2])[:-1], "upstream_incomplete"),
        (answer([0, 1, 2])[:40], "upstream_incomplete"),
        (b"", "upstream_incomplete"),
        (b"<html>", "upstream_error"),
    ],
)
def test_too_few_too_many_and_half_answers_are_errors(body: bytes, reason: str) -> None:
    with pytest.raises(InferenceError) as raised:
        decoded(decoder(3), body, 16)
    assert raised.value.reason == reason
    assert raised.value.upstream_request_id == "r"


def test_usage_is_estimated_where_the_provider_does_not_count() -> None:
    request = generation_pb2.Request()
    request.embed.texts.extend(["four", "fives"])
    asked = VectorDecoder(request, {}, FIELD, lambda _rest, _headers: Said())
    usage = decoded(asked, answer([0, 1]), 100)[-1].completed.usage
    assert (usage.input_tokens, usage.estimated) == (3, True)


@pytest.mark.parametrize("form", ["BASE64", "FLOAT32"])
def test_numbers_are_packed_where_nobody_reads_them_as_text(form: str) -> None:
    asked = decoder(2)
    asked._embed.format = operations_pb2.VectorFormat.Value(f"VECTOR_FORMAT_{form}")
    vectors = decoded(asked, answer([0, 1], b"[1, -0.5]"), 100)[1].vectors
    assert vectors.format == operations_pb2.VECTOR_FORMAT_FLOAT32
    assert [struct.unpack("<2f", value) for value in vectors.values] == [(1.0, -0.5)] * 2


@pytest.mark.parametrize("value", [b'["a"]', b"[1e999]", b"[null]", b"[1,]"])
def test_what_is_no_vector_is_an_error(value: bytes) -> None:
    asked = decoder(1)
    asked._embed.format = operations_pb2.VECTOR_FORMAT_FLOAT32
    with pytest.raises(InferenceError, match="no vector"):
        decoded(asked, answer([0], value), 100)


def test_an_escaped_slash_of_base64_is_a_slash() -> None:
    events = decoded(decoder(1), answer([0], b'"AA\\/A"'), 100)
    vectors = events[1].vectors
    assert vectors.format == operations_pb2.VECTOR_FORMAT_BASE64
    assert list(vectors.values) == [b"AA/A"]
