"""Lines of an input: what is wrong with one is said, and what is right is taken."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.batch import lines

URL = "/v1/chat/completions"
GOOD: dict[str, Any] = {"custom_id": "a", "method": "POST", "url": URL, "body": {"model": "m"}}


def encode(**changes: Any) -> bytes:
    source = {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}
    return json.dumps(source).encode() + b"\n"


BAD: list[tuple[bytes, list[tuple[str, str]]]] = [
    (b"{", [("invalid_json_line", "")]),
    (b"[]", [("invalid_json_line", "")]),
    (b"\xff{}", [("invalid_json_line", "")]),
    (b"[" * 100_000, [("invalid_json_line", "")]),
    (encode(custom_id=...), [("missing_required_parameter", "custom_id")]),
    (encode(custom_id=""), [("missing_required_parameter", "custom_id")]),
    (encode(custom_id=7), [("invalid_type", "custom_id")]),
    (encode(custom_id="x" * 513), [("string_above_max_length", "custom_id")]),
    (encode(body={"model": "x" * 257}), [("string_above_max_length", "body.model")]),
    (encode(method="GET"), [("invalid_method", "method")]),
    (encode(url="/v1/embeddings"), [("url_mismatch", "url")]),
    (encode(body=None), [("missing_required_parameter", "body")]),
    (encode(body=[]), [("invalid_type", "body")]),
    (encode(body={}), [("missing_required_parameter", "body.model")]),
    (encode(body={"model": 1}), [("invalid_type", "body.model")]),
    (
        encode(custom_id=..., url="/x", body={"model": None}),
        [
            ("missing_required_parameter", "custom_id"),
            ("url_mismatch", "url"),
            ("missing_required_parameter", "body.model"),
        ],
    ),
]


@pytest.mark.parametrize(("line", "expected"), BAD)
def test_what_is_wrong_with_a_line_is_said(line: bytes, expected: list[tuple[str, str]]) -> None:
    with pytest.raises(lines.InvalidLineError) as refused:
        lines.check(line, 5, URL)
    assert [(m.code, m.param) for m in refused.value.mistakes] == expected
    assert {m.line for m in refused.value.mistakes} == {5}
    assert all(m.message for m in refused.value.mistakes)


def test_a_byte_order_mark_before_the_first_line_is_no_mistake() -> None:
    line, model = lines.check(lines.BOM + encode(), 1, URL)
    assert (line.custom_id, model) == ("a", "m")
    assert lines.custom_id(lines.BOM + encode()) == "a"
    with pytest.raises(lines.InvalidLineError):
        lines.check(lines.BOM + encode(), 2, URL)


@given(st.binary(max_size=60))
def test_no_line_is_too_strange_to_be_judged(data: bytes) -> None:
    with pytest.raises(lines.InvalidLineError):
        lines.check(data, 1, URL)


def test_bodies_that_ask_the_same_have_one_digest() -> None:
    first = lines.body_digest(b'{"model":"m","n":1,"x":{"a":1,"b":2}}')
    assert first == lines.body_digest(b'{ "x": {"b": 2, "a": 1}, "n": 1, "model": "m" }')
    assert first != lines.body_digest(b'{"model":"m","n":2,"x":{"a":1,"b":2}}')


def test_routing_fields_make_a_line_one_of_its_own() -> None:
    assert lines.decode_head(b'{"model":"m","messages":[]}').plain
    for field in ("provider", "models", "extra_body", "region"):
        assert not lines.decode_head(b'{"model":"m","%b":{}}' % field.encode()).plain


def test_names_of_the_greatest_length_are_taken() -> None:
    line, model = lines.check(encode(custom_id="é" * 512, body={"model": "x" * 256}), 1, URL)
    assert (len(line.custom_id), len(model)) == (512, 256)


@pytest.mark.parametrize(
    "body", [b'{"n":1e999}', b'{"n":' + b"9" * 5000 + b"}", b'{"n":"\xff"}', b"[" * 100_000]
)
def test_a_body_that_cannot_be_sorted_is_alike_only_to_itself(body: bytes) -> None:
    assert lines.body_digest(body) == lines.body_digest(body)
    assert lines.body_digest(body) != lines.body_digest(body + b" ")
