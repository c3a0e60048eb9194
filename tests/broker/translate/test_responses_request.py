"""Bodies of POST /v1/responses become hub requests, or are refused by the field at fault."""

from __future__ import annotations

from typing import Any

import pytest

from broker.errors import InferenceError
from broker.translate.responses_request import as_responses, parse_responses
from broker.translate.wire import Platform
from broker.translate.wire_responses import ResponsesRequest
from broker.v1 import content_pb2
from tests.broker.translate.hub import asked
from tests.broker.translate.response_mistakes import MISTAKES, TEXTS, encoded


@pytest.mark.parametrize(
    ("fields", "param", "code"), [pytest.param(*row, id=name) for name, row in MISTAKES.items()]
)
def test_a_mistake_is_told_with_its_place(
    fields: dict[str, Any], param: str, code: str | None
) -> None:
    with pytest.raises(InferenceError) as caught:
        parse_responses(encoded(fields))
    error = caught.value
    assert (error.reason, error.row.http) == ("invalid_request", 400)
    assert (error.param, error.code) == (param, code)
    assert error.message


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_no_object_is_told(text: bytes) -> None:
    with pytest.raises(InferenceError) as caught:
        parse_responses(text)
    assert caught.value.row.http == 400


def test_every_field_has_a_mistake() -> None:
    """But for texts that providers judge, and the platform's own, which chat's table has."""
    elsewhere = {"service_tier", "user", "safety_identifier", "context_management"}
    elsewhere |= {"prompt_cache_key", "prompt_cache_retention"}
    known = {*ResponsesRequest.__struct_fields__} - elsewhere - {*Platform.__struct_fields__}
    assert known <= {name for fields, _, _ in MISTAKES.values() for name in fields}


@pytest.mark.parametrize(
    "field",
    sorted(name for name in ResponsesRequest.__struct_fields__ if name not in {"model", "input"}),
)
def test_null_is_unset(field: str) -> None:
    assert asked(**{field: None}) == asked()


def test_an_unknown_model_is_a_400_here() -> None:
    error = as_responses(InferenceError("model_not_found", "no", param="model"))
    assert (error.row.http, error.param, error.code) == (400, "model", "model_not_found")


def test_what_an_assistant_said_in_one_turn_is_one_message() -> None:
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "x"}
    items = [{"role": "user", "content": "a"}, thought, call, output]
    items += [{"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    found = asked(input=items).generate.messages
    assert [message.role for message in found] == [
        content_pb2.ROLE_USER,
        content_pb2.ROLE_ASSISTANT,
        content_pb2.ROLE_TOOL,
        content_pb2.ROLE_ASSISTANT,
        content_pb2.ROLE_USER,
    ]
    assert [part.WhichOneof("kind") for part in found[1].parts] == ["reasoning", "tool_call"]


def test_images_and_files_come_by_address_inline_or_id() -> None:
    parts = [
        {"type": "input_image", "image_url": "https://a.b/c.png", "detail": "low"},
        {"type": "input_image", "image_url": "data:image/png;base64,aGk="},
        {"type": "input_image", "file_id": "file_1"},
        {"type": "input_file", "file_data": "data:application/pdf;base64,aGk=", "filename": "a"},
        {"type": "input_file", "file_data": "aGk="},
        {"type": "input_file", "file_url": "https://a.b/c.pdf"},
        {"type": "input_file", "file_id": "file_1"},
        {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
    ]
    found = asked(input=[{"role": "user", "content": parts}]).generate.messages[0].parts
    sources = [getattr(part, part.WhichOneof("kind") or "").WhichOneof("source") for part in found]
    assert sources == ["url", "inline", "file_id", "inline", "inline", "url", "file_id", "inline"]
    assert {part.image.inline.data for part in found[1:2]} == {b"hi"}
    assert (found[1].image.inline.media_type, found[3].file.filename) == ("image/png", "a")
