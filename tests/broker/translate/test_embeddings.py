"""Embeddings in OpenAI's format: what is asked, what is refused on both fronts, what is answered."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.translate.check import check
from broker.translate.embeddings import EmbeddingsAnswer, parse_embeddings
from broker.translate.vectors import read_vectors
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from tests.broker.translate.mistakes import refused

JSON = operations_pb2.VECTOR_FORMAT_JSON
BASE64 = operations_pb2.VECTOR_FORMAT_BASE64
FLOAT32 = operations_pb2.VECTOR_FORMAT_FLOAT32


def parse(**fields: Any) -> generation_pb2.Request:
    body = {"model": "m", "input": "hi", **fields}
    return parse_embeddings(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("given", "texts", "tokens"),
    [
        ("hi", ["hi"], []),
        (["a", "b"], ["a", "b"], []),
        ([1, 2], [], [[1, 2]]),
        ([[1, 2], [3]], [], [[1, 2], [3]]),
    ],
)
def test_input_comes_in_four_forms(given: Any, texts: list[str], tokens: list[Any]) -> None:
    embed = parse(input=given).embed
    assert list(embed.texts) == texts
    assert [list(some.ids) for some in embed.tokens] == tokens


def test_every_field_has_its_place() -> None:
    request = parse(
        dimensions=256, encoding_format="base64", user="u", input_type="search_query", truncate="END",
        tags=["a"],
    )  # fmt: skip
    embed = request.embed
    assert (embed.model, embed.dimensions, embed.user) == ("m", 256, "u")
    assert (embed.format, embed.input_type) == (BASE64, "search_query")
    assert dict(embed.extra) == {"truncate": b'"END"'}
    assert list(request.platform.tags) == ["a"]
    assert parse(encoding_format=None, dimensions=None).embed.format == JSON


# Field, value, param and code.
MISTAKES: list[tuple[str, Any, str, str]] = [
    ("model", "", "model", "empty_string"),
    ("dimensions", 0, "dimensions", "integer_below_min_value"),
    ("input", "", "input", "empty_string"),
    ("input", [], "input", "empty_array"),
    ("input", ["a", ""], "input[1]", "empty_string"),
    ("input", ["a"] * 10_001, "input", "array_above_max_length"),
    ("input", [[1], []], "input[1]", "empty_array"),
    ("input", [[1]] * 10_001, "input", "array_above_max_length"),
    ("input", [[1, -1]], "input[0][1]", "integer_below_min_value"),
    ("tags", ["x" * 300], "tags[0]", "string_above_max_length"),
]
ONLY_JSON: list[tuple[str, Any, str, str]] = [
    ("input", None, "input", "missing_required_parameter"),
    ("input", 5, "input", "invalid_type"),
    ("input", ["a", 1], "input[1]", "invalid_type"),
    ("input", [1, "a"], "input[1]", "invalid_type"),
    ("input", [1, True], "input[1]", "invalid_type"),
    ("input", [[1], "a"], "input[1]", "invalid_type"),
    ("input", [None], "input[0]", "invalid_type"),
    ("input", [1.5], "input[0]", "invalid_type"),
    ("input", [2**31], "input[0]", "integer_above_max_value"),
    ("dimensions", "8", "dimensions", "invalid_type"),
    ("encoding_format", "hex", "encoding_format", "invalid_value"),
    ("user", 1, "user", "invalid_type"),
]


@pytest.mark.parametrize(("name", "value", "param", "code"), MISTAKES + ONLY_JSON)
def test_a_mistake_in_the_body_is_told(name: str, value: Any, param: str, code: str) -> None:
    with refused(param, code):
        parse(**{name: value})


@pytest.mark.parametrize(("name", "value", "param", "code"), MISTAKES)
def test_the_same_mistake_is_told_of_typed_messages(
    name: str, value: Any, param: str, code: str
) -> None:
    request = generation_pb2.Request()
    fields: dict[str, Any] = {"model": "m", "input": "hi", name: value}
    embed = request.embed
    given: Any = [fields["input"]] if isinstance(fields["input"], str) else fields["input"]
    if given and isinstance(given[0], list):
        for ids in given:
            embed.tokens.add().ids.extend(ids)
    else:
        embed.texts.extend(given)
    embed.model = fields["model"]
    if "dimensions" in fields:
        embed.dimensions = fields["dimensions"]
    request.platform.tags.extend(fields.get("tags", []))
    if (name, value) == ("input", ""):
        param = "input[0]"  # typed texts are always a list
    if name == "model":
        code = "missing_required_parameter"  # an unset field is an empty one
    with refused(param, code):
        check(request, streamed=False)


def test_texts_and_tokens_exclude_each_other() -> None:
    request = generation_pb2.Request()
    request.embed.model = "m"
    request.embed.texts.append("a")
    check(request, streamed=True)
    request.embed.tokens.add().ids.append(1)
    with pytest.raises(InferenceError) as raised:
        check(request, streamed=False)
    assert raised.value.param == "input"


@pytest.mark.parametrize(("name", "data"), [("dimensions", b"5"), ("other", b"{")])
def test_extra_fields_neither_hide_a_typed_one_nor_break_json(name: str, data: bytes) -> None:
    request = generation_pb2.Request()
    request.embed.model = "m"
    request.embed.texts.append("a")
    request.embed.extra[name] = data
    with pytest.raises(InferenceError) as raised:
        check(request, streamed=False)
    assert raised.value.param == name


FLOATS = [0.5, -1.25, 3.0]
AS = {
    JSON: b"[0.5, -1.25,3]",
    FLOAT32: struct.pack("<3f", *FLOATS),
    BASE64: base64.b64encode(struct.pack("<3f", *FLOATS)),
}


def events(form: Any, *groups: tuple[int, int]) -> list[event_pb2.Event]:
    """Groups are the first number and the count of vectors."""
    return [
        event_pb2.Event(started=event_pb2.Started(model="m-1")),
        *(
            event_pb2.Event(
                vectors=operations_pb2.Vectors(first=first, format=form, values=[AS[form]] * count)
            )
            for first, count in groups
        ),
        event_pb2.Event(
            completed=event_pb2.Completed(
                usage=event_pb2.Usage(input_tokens=3, cache_read_tokens=2)
            )
        ),
    ]


def render(wanted: str, form: Any, *groups: tuple[int, int]) -> bytes:
    answer = EmbeddingsAnswer("embed-1", 1, parse(encoding_format=wanted))
    for event in events(form, *groups):
        answer.feed([event])
    body = answer.render()
    return body if isinstance(body, bytes) else b"".join(body)


@pytest.mark.parametrize("form", AS)
@pytest.mark.parametrize("wanted", ["float", "base64"])
def test_the_answer_has_the_format_that_was_asked_for(wanted: str, form: Any) -> None:
    told = json.loads(render(wanted, form, (2, 1), (0, 2)))
    assert list(told) == ["object", "data", "model", "usage"]
    assert (told["object"], told["model"]) == ("list", "m-1")
    assert told["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert [item["index"] for item in told["data"]] == [0, 1, 2]
    for item in told["data"]:
        assert list(item) == ["object", "index", "embedding"]
        value = item["embedding"]
        if wanted == "base64":
            value = list(struct.unpack("<3f", base64.b64decode(value)))
        assert value == FLOATS


def test_vectors_that_have_the_format_are_not_touched() -> None:
    assert AS[JSON] in render("float", JSON, (0, 1))
    assert b'"' + AS[BASE64] + b'"' in render("base64", BASE64, (0, 1))


def test_an_estimate_is_called_one() -> None:
    answer = EmbeddingsAnswer("embed-1", 1, parse())
    usage = event_pb2.Usage(input_tokens=3, estimated=True)
    answer.feed([event_pb2.Event(completed=event_pb2.Completed(usage=usage))])
    body = answer.render()
    assert isinstance(body, bytes)
    told = json.loads(body)
    assert told["usage"] == {"prompt_tokens": 3, "total_tokens": 3, "estimated": True}
    assert told["data"] == []


@pytest.mark.parametrize("form", AS)
@pytest.mark.parametrize("wanted", [*AS, operations_pb2.VECTOR_FORMAT_UNSPECIFIED])
def test_typed_answers_are_converted_in_place(wanted: Any, form: Any) -> None:
    request = generation_pb2.Request(embed=operations_pb2.EmbedRequest(format=wanted))
    batch = events(form, (0, 2))
    read_vectors(request, batch)
    vectors = batch[1].vectors
    assert vectors.format == (wanted or form)
    expected = json.loads if vectors.format == JSON else bytes
    assert [expected(value) for value in vectors.values] == [expected(AS[vectors.format])] * 2


@pytest.mark.parametrize("broken", [b"[1,", b'["a"]', b"[1e400]"])
def test_what_is_no_vector_is_the_providers_error(broken: bytes) -> None:
    answer = EmbeddingsAnswer("embed-1", 1, parse(encoding_format="base64"))
    vectors = operations_pb2.Vectors(format=JSON, values=[broken])
    answer.feed([event_pb2.Event(vectors=vectors)])
    with pytest.raises(InferenceError) as raised:
        answer.render()
    assert raised.value.reason == "upstream_error"


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (JSON, b"[" + b",".join([b"0.5"] * 1000) + b"]"),
        (FLOAT32, struct.pack("<f", 0.5) * 1000),
    ],
    ids=["text", "packed"],
)
def test_a_large_answer_is_written_in_pieces_that_add_up_to_it(form: Any, value: bytes) -> None:
    groups = [
        operations_pb2.Vectors(first=first, format=form, values=[value] * 100)
        for first in range(0, 500, 100)
    ]
    answer = EmbeddingsAnswer("embed-1", 1, parse())
    answer.feed([event_pb2.Event(vectors=group) for group in reversed(groups)])
    body = answer.render()
    assert not isinstance(body, bytes)
    pieces = list(body)
    assert len(pieces) == len(groups) + 1
    told = json.loads(b"".join(pieces))
    assert [item["index"] for item in told["data"]] == list(range(500))
    assert {len(item["embedding"]) for item in told["data"]} == {1000}
