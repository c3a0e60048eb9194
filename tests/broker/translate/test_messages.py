"""Messages become hub messages: roles, parts, and what comes back from earlier answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf import text_format

from broker.errors import InferenceError
from broker.translate.chat_request import parse_chat
from broker.translate.media import read_base64, read_data_url
from broker.v1 import content_pb2


def message(**fields: Any) -> content_pb2.Message:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}, fields]}
    return parse_chat(json.dumps(body).encode()).generate.messages[1]


def expected(text: str) -> content_pb2.Message:
    return text_format.Parse(text, content_pb2.Message())


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":'}}
PNG = base64.b64encode(b"\x89PNG").decode()

ROWS: list[tuple[dict[str, Any], str]] = [
    ({"role": "system", "content": "s"}, 'role: ROLE_SYSTEM parts { text { text: "s" } }'),
    ({"role": "developer", "content": "s"}, 'role: ROLE_DEVELOPER parts { text { text: "s" } }'),
    ({"role": "user", "content": ""}, "role: ROLE_USER parts { text { } }"),
    (
        {"role": "user", "content": "x", "name": "ann"},
        'role: ROLE_USER name: "ann" parts { text { text: "x" } }',
    ),
    (
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "x"},
                {"type": "text", "text": "y", "cache_control": {"type": "ephemeral"}},
            ],
        },
        (
            'role: ROLE_USER parts { text { text: "x" } }'
            ' parts { text { text: "y" } cache_control: "{\\"type\\":\\"ephemeral\\"}" }'
        ),
    ),
    (
        {"role": "user", "content": "x", "cache_control": {"type": "ephemeral"}},
        'role: ROLE_USER parts { text { text: "x" } cache_control: "{\\"type\\":\\"ephemeral\\"}" }',
    ),
    (
        {
            "role": "user",
            "content": [
                {
                    "type": "image_url",
                    "image_url": {"url": f"data:image/PNG;base64,{PNG}", "detail": "low"},
                },
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                {"type": "image_url", "image_url": "https://x/z.png"},
            ],
        },
        (
            'role: ROLE_USER parts { image { inline { media_type: "image/png" data: "\\x89PNG" }'
            ' detail: "low" } } parts { image { url: "https://x/y.png" } }'
            ' parts { image { url: "https://x/z.png" } }'
        ),
    ),
    (
        {
            "role": "user",
            "content": [{"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}}],
        },
        'role: ROLE_USER parts { audio { inline { data: "\\x89PNG" } format: "wav" } }',
    ),
    (
        {
            "role": "user",
            "content": [
                {"type": "file", "file": {"file_id": "file-1"}},
                {"type": "file", "file": {"file_data": PNG, "filename": "a.pdf"}},
                {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PNG}"}},
                {"type": "file", "file": {"file_data": "https://x/a.pdf"}},
            ],
        },
        (
            'role: ROLE_USER parts { file { file_id: "file-1" } }'
            ' parts { file { inline { data: "\\x89PNG" } filename: "a.pdf" } }'
            ' parts { file { inline { media_type: "application/pdf" data: "\\x89PNG" } } }'
            ' parts { file { url: "https://x/a.pdf" } }'
        ),
    ),
    (
        {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "u"}}]},
        (
            'role: ROLE_USER parts { opaque { type: "video_url" issuer: "openai_chat"'
            ' json: "{\\"type\\":\\"video_url\\",\\"video_url\\":{\\"url\\":\\"u\\"}}" } }'
        ),
    ),
    # tools' results
    (
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        'role: ROLE_TOOL parts { tool_result { call_id: "c1" parts { text { text: "42" } } } }',
    ),
    (
        {"role": "tool", "tool_call_id": "c1", "name": "f", "content": None},
        'role: ROLE_TOOL parts { tool_result { call_id: "c1" name: "f" parts { text { } } } }',
    ),
    (
        {"role": "tool", "tool_call_id": "c1", "content": []},
        'role: ROLE_TOOL parts { tool_result { call_id: "c1" } }',
    ),
    (
        {
            "role": "tool",
            "tool_call_id": "c1",
            "content": [
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
            ],
            "cache_control": {"type": "ephemeral"},
        },
        (
            'role: ROLE_TOOL parts { tool_result { call_id: "c1" parts { text { text: "a" } }'
            ' parts { image { url: "https://x/y.png" } } }'
            ' cache_control: "{\\"type\\":\\"ephemeral\\"}" }'
        ),
    ),
    (
        {"role": "function", "name": "f", "content": "42"},
        (
            'role: ROLE_TOOL parts { tool_result { name: "f" legacy_function: true'
            ' kind: TOOL_KIND_FUNCTION parts { text { text: "42" } } } }'
        ),
    ),
    # earlier answers
    ({"role": "assistant", "content": "x"}, 'role: ROLE_ASSISTANT parts { text { text: "x" } }'),
    ({"role": "assistant"}, "role: ROLE_ASSISTANT"),
    ({"role": "assistant", "content": ""}, "role: ROLE_ASSISTANT parts { text { } }"),
    (
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        (
            'role: ROLE_ASSISTANT parts { tool_call { call_id: "c1" name: "f" arguments: "{\\"a\\":"'
            " kind: TOOL_KIND_FUNCTION } }"
        ),
    ),
    (
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "c1", "function": {"name": "f"}},
                {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "free"}},
            ],
        },
        (
            'role: ROLE_ASSISTANT parts { tool_call { call_id: "c1" name: "f"'
            ' kind: TOOL_KIND_FUNCTION } } parts { tool_call { call_id: "c2" name: "g"'
            ' arguments: "free" kind: TOOL_KIND_CUSTOM } }'
        ),
    ),
    (
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "f", "arguments": "{}"},
        },
        (
            'role: ROLE_ASSISTANT parts { tool_call { name: "f" arguments: "{}"'
            " kind: TOOL_KIND_FUNCTION legacy_function: true } }"
        ),
    ),
    (
        {"role": "assistant", "content": None, "refusal": "No."},
        'role: ROLE_ASSISTANT parts { refusal { text: "No." } }',
    ),
    (
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "x"}, {"type": "refusal", "refusal": "No."}],
        },
        'role: ROLE_ASSISTANT parts { text { text: "x" } } parts { refusal { text: "No." } }',
    ),
    (
        {
            "role": "assistant",
            "content": None,
            "audio": {"id": "audio_1", "data": "AAAA", "expires_at": 5, "transcript": "hi"},
        },
        'role: ROLE_ASSISTANT parts { audio { id: "audio_1" transcript: "hi" } }',
    ),
    (
        {"role": "assistant", "content": "x", "annotations": [{"type": "url_citation"}]},
        (
            'role: ROLE_ASSISTANT parts { text { text: "x"'
            ' annotations: "[{\\"type\\":\\"url_citation\\"}]" } }'
        ),
    ),
    (
        {"role": "assistant", "content": "x", "annotations": []},
        'role: ROLE_ASSISTANT parts { text { text: "x" } }',
    ),
    (
        {"role": "assistant", "content": "x", "reasoning_content": "hm"},
        'role: ROLE_ASSISTANT parts { reasoning { text: "hm" } } parts { text { text: "x" } }',
    ),
    (
        {"role": "assistant", "content": "x", "reasoning": "hm", "reasoning_content": "hm"},
        'role: ROLE_ASSISTANT parts { reasoning { text: "hm" } } parts { text { text: "x" } }',
    ),
    (
        {"role": "assistant", "content": "x", "reasoning": "a", "reasoning_content": "b"},
        (
            'role: ROLE_ASSISTANT parts { reasoning { text: "b" } } parts { text { text: "x" } }'
            ' extra { key: "reasoning" value: "\\"a\\"" }'
        ),
    ),
    (
        {"role": "assistant", "content": "x", "reasoning": "hm"},
        'role: ROLE_ASSISTANT parts { reasoning { text: "hm" } } parts { text { text: "x" } }',
    ),
    (
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig=="},
                {"type": "redacted_thinking", "data": "xyz"},
                {"type": "text", "text": "x"},
            ],
            "reasoning_content": "hm",
        },
        (
            'role: ROLE_ASSISTANT parts { reasoning { text: "hm" blobs { issuer: "anthropic_messages"'
            ' kind: "signature" data: "sig==" } } } parts { reasoning { blobs {'
            ' issuer: "anthropic_messages" kind: "redacted_thinking" data: "xyz" } } }'
            ' parts { text { text: "x" } }'
        ),
    ),
    (
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}],
        },
        'role: ROLE_ASSISTANT parts { reasoning { text: "hm" } }',
    ),
    (
        {
            "role": "assistant",
            "content": "x",
            "reasoning_content": "hm",
            "thinking_blocks": [
                {"type": "thinking", "thinking": "hm", "signature": "sig=="},
                {"type": "redacted_thinking", "data": "xyz"},
            ],
            "tool_calls": [CALL],
        },
        (
            'role: ROLE_ASSISTANT parts { reasoning { text: "hm" blobs { issuer: "anthropic_messages"'
            ' kind: "signature" data: "sig==" } } } parts { reasoning { blobs {'
            ' issuer: "anthropic_messages" kind: "redacted_thinking" data: "xyz" } } }'
            ' parts { text { text: "x" } } parts { tool_call { call_id: "c1" name: "f"'
            ' arguments: "{\\"a\\":" kind: TOOL_KIND_FUNCTION } }'
        ),
    ),
    (
        {
            "role": "assistant",
            "content": "x",
            "reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": "s"}],
        },
        (
            'role: ROLE_ASSISTANT parts { reasoning { text: "hm" blobs { issuer: "openai_chat"'
            ' kind: "reasoning_details"'
            ' data: "{\\"type\\":\\"reasoning.text\\",\\"text\\":\\"hm\\",\\"signature\\":\\"s\\"}" } } }'
            ' parts { text { text: "x" } }'
        ),
    ),
    # fields that belong to another role are not lost either
    (
        {"role": "user", "content": "x", "tool_call_id": "c1", "reasoning_content": "hm"},
        (
            'role: ROLE_USER parts { text { text: "x" } } extra { key: "tool_call_id"'
            ' value: "\\"c1\\"" } extra { key: "reasoning_content" value: "\\"hm\\"" }'
        ),
    ),
]


@pytest.mark.parametrize(("fields", "text"), ROWS)
def test_a_message_becomes_its_hub_message(fields: dict[str, Any], text: str) -> None:
    assert message(**fields) == expected(text)


def test_the_kind_of_a_part_is_set_even_when_its_text_is_empty() -> None:
    assert message(role="user", content="").parts[0].WhichOneof("kind") == "text"
    assert message(role="assistant", content="").parts[0].WhichOneof("kind") == "text"


SPELLINGS = [
    "////+w==",
    "////+w",
    "____-w==",
    "____-w",
    "////\n+w==\r\n",
    " ////+w ==",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_base64_is_read_in_every_spelling(text: str) -> None:
    assert read_base64(text, "x") == b"\xff\xff\xff\xfb"


DATA_URLS = [
    ("data:image/png;base64,AAEC", "image/png", b"\x00\x01\x02"),
    ("DATA:image/png;charset=x;BASE64,AAEC", "image/png", b"\x00\x01\x02"),
    ("data:;base64,AAEC", "", b"\x00\x01\x02"),
    ("data:text/plain,a%20b", "text/plain", b"a b"),
    ("data:,%", "", b"%"),
]


@pytest.mark.parametrize(("url", "media_type", "data"), DATA_URLS)
def test_data_urls_are_read_as_rfc_2397_says(url: str, media_type: str, data: bytes) -> None:
    inline = content_pb2.InlineData()
    read_data_url(inline, url, "x")
    assert (inline.media_type, inline.data) == (media_type, data)


def test_a_data_url_without_a_comma_is_refused() -> None:
    with pytest.raises(InferenceError) as raised:
        read_data_url(content_pb2.InlineData(), "data:image/png;base64" + "A" * 10_000, "x.y")
    assert raised.value.param == "x.y"
    assert len(raised.value.message) < 200


def test_large_images_pass_byte_for_byte() -> None:
    data = bytes(range(256)) * 4096
    url = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    part = {"type": "image_url", "image_url": {"url": url}}
    assert message(role="user", content=[part]).parts[0].image.inline.data == data
