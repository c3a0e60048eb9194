"""A chat body becomes a hub request that holds everything the caller said."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.translate.chat_request import parse_chat
from broker.v1 import generation_pb2

HELLO = {"role": "user", "content": "Hello!"}


def parse(**fields: Any) -> generation_pb2.Request:
    return parse_chat(json.dumps({"model": "m", "messages": [HELLO], **fields}).encode())


def expected(text: str, *, platform: str = "") -> generation_pb2.Request:
    """The request of `parse()` with these fields more, in protobuf text format."""
    base = 'model: "m" surface: SURFACE_CHAT messages { role: ROLE_USER parts { text { text: "Hello!" } } }'
    request = generation_pb2.Request()
    text_format.Parse(f"generate {{ {base} {text} }} {platform}", request)
    return request


ROWS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"stream": True}, "stream: true"),
    ({"stream": False}, "stream: false"),
    ({"stream": True, "stream_options": {}}, "stream: true stream_options {}"),
    (
        {
            "stream": True,
            "stream_options": {"include_usage": True, "include_obfuscation": False, "x": 1},
        },
        (
            "stream: true stream_options { include_usage: true include_obfuscation: false }"
            ' extra { key: "stream_options.x" value: "1" }'
        ),
    ),
    ({"temperature": 0}, "temperature: 0"),
    ({"temperature": 0.7, "top_p": 1}, "temperature: 0.7 top_p: 1"),
    (
        {"presence_penalty": -1, "frequency_penalty": 1.5},
        "presence_penalty: -1 frequency_penalty: 1.5",
    ),
    ({"seed": -5}, "seed: -5"),
    (
        {"logit_bias": {"50256": -100, "1": None}},
        'logit_bias { key: "50256" value: -100 }',
    ),
    ({"logprobs": True, "top_logprobs": 0}, "logprobs: true top_logprobs: 0"),
    ({"n": 3}, "n: 3"),
    ({"stop": "END"}, 'stop: "END"'),
    ({"stop": ["a", "b"]}, 'stop: "a" stop: "b"'),
    (
        {"max_tokens": 5, "max_completion_tokens": 7},
        "max_tokens: 5 max_output_tokens: 7",
    ),
    ({"parallel_tool_calls": False}, "parallel_tool_calls: false"),
    ({"reasoning_effort": "none"}, 'reasoning { effort: "none" }'),
    ({"verbosity": "low"}, 'verbosity: "low"'),
    (
        {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
        'modalities: "text" modalities: "audio" audio { format: "wav" voice: "alloy" }',
    ),
    (
        {"audio": {"voice": {"id": "voice_1"}, "format": "mp3", "speed": 2}},
        (
            'audio { format: "mp3" voice: "{\\"id\\":\\"voice_1\\"}" }'
            ' extra { key: "audio.speed" value: "2" }'
        ),
    ),
    (
        {"prediction": {"type": "content", "content": "x"}},
        'prediction: "{\\"type\\":\\"content\\",\\"content\\":\\"x\\"}"',
    ),
    ({"web_search_options": {}}, 'web_search_options: "{}"'),
    (
        {"service_tier": "flex", "user": "u", "safety_identifier": "s", "store": False},
        'service_tier: "flex" user: "u" safety_identifier: "s" store: false',
    ),
    (
        {"prompt_cache_key": "k", "prompt_cache_retention": "24h"},
        'prompt_cache_key: "k" prompt_cache_retention: "24h"',
    ),
    ({"metadata": {"a": "b", "c": None}}, 'metadata { key: "a" value: "b" }'),
    ({"response_format": {"type": "text"}}, "response_format { kind: KIND_TEXT }"),
    (
        {"response_format": {"type": "json_object"}},
        "response_format { kind: KIND_JSON_OBJECT }",
    ),
    (
        {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
        'response_format { kind: KIND_JSON_OBJECT schema: "{\\"type\\":\\"object\\"}" }',
    ),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "city",
                    "description": "d",
                    "strict": True,
                    "schema": {"b": 1, "a": None},
                    "hint": "h",
                },
            }
        },
        (
            'response_format { kind: KIND_JSON_SCHEMA name: "city" description: "d" strict: true'
            ' schema: "{\\"b\\":1,\\"a\\":null}" }'
            ' extra { key: "response_format.json_schema.hint" value: "\\"h\\"" }'
        ),
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        'response_format { kind: KIND_JSON_SCHEMA schema: "{}" }',
    ),
    (
        {"response_format": {"type": "grammar", "grammar": "root ::= x"}},
        (
            "response_format { kind: KIND_OTHER"
            ' json: "{\\"type\\":\\"grammar\\",\\"grammar\\":\\"root ::= x\\"}" }'
        ),
    ),
    (
        {"top_k": 5, "thinking": {"type": "enabled"}, "gone": None, "é": [None, 1.0]},
        (
            'extra { key: "top_k" value: "5" }'
            ' extra { key: "thinking" value: "{\\"type\\":\\"enabled\\"}" }'
            ' extra { key: "é" value: "[null,1.0]" }'
        ),
    ),
    (
        {"temperature": 1, "extra_body": {"temperature": 0.5, "top_k": 5}},
        'temperature: 0.5 extra { key: "top_k" value: "5" }',
    ),
]


@pytest.mark.parametrize(("fields", "text"), ROWS)
def test_every_field_has_its_place_in_the_hub(fields: dict[str, Any], text: str) -> None:
    assert parse(**fields) == expected(text)


PLATFORM: list[tuple[dict[str, Any], str]] = [
    ({"tags": "a, b,,c"}, 'tags: "a" tags: "b" tags: "c"'),
    ({"tags": ["a", "b c"]}, 'tags: "a" tags: "b c"'),
    ({"signature": "python"}, 'signature: "python"'),
    ({"log_query_body": False}, "log_query_body: false"),
    ({"log_response_body": False}, "log_response_body: false"),
    ({"region": "eu-west-1"}, 'region: "eu-west-1"'),
    ({"use_custom_keys": True}, "use_custom_keys: true"),
    ({"drop_params": False}, "drop_params: false"),
    ({"provider": {"sort": "price"}}, 'provider: "{\\"sort\\":\\"price\\"}"'),
    ({"models": ["b", "c"]}, 'models: "b" models: "c"'),
    (
        {"extra_headers": {"X-Custom-Header": "value", "X-No": None}},
        'extra_headers { key: "X-Custom-Header" value: "value" }',
    ),
]


@pytest.mark.parametrize(("fields", "text"), PLATFORM)
def test_platform_arguments_stay_apart_from_what_providers_see(
    fields: dict[str, Any], text: str
) -> None:
    assert parse(**fields) == expected("", platform=f"platform {{ {text} }}")


def test_without_platform_arguments_there_is_no_platform_message() -> None:
    assert not parse(temperature=1).HasField("platform")


EVERYTHING: dict[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "n": 2,
    "stop": ["a"],
    "logit_bias": {"1": 2},
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
    "tools": [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}},
        {"type": "custom", "custom": {"name": "c"}},
    ],
    "tool_choice": "auto",
    "audio": {"voice": "alloy", "format": "wav"},
    "top_k": 3,
    "tags": "a",
    "model": "m",
    "messages": [
        {"role": "system", "content": "s"},
        {
            "role": "user",
            "name": "u",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                {"type": "file", "file": {"file_id": "f1"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            ],
        },
        {
            "role": "assistant",
            "content": "I will",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "done"},
        {"role": "function", "name": "f", "content": "done"},
    ],
}

# Every optional field of every object, by the path of the object.
OPTIONAL: dict[tuple[str | int, ...], str] = {
    (): "stream_options temperature top_p presence_penalty frequency_penalty seed logit_bias "
    "logprobs top_logprobs n stop max_tokens max_completion_tokens tools tool_choice functions "
    "function_call parallel_tool_calls response_format reasoning_effort verbosity modalities audio "
    "prediction web_search_options service_tier user safety_identifier prompt_cache_key "
    "prompt_cache_retention store metadata tags signature log_query_body log_response_body region "
    "use_custom_keys drop_params provider models extra_headers extra_body unknown",
    ("stream_options",): "include_usage include_obfuscation unknown",
    ("response_format",): "unknown",
    ("response_format", "json_schema"): "description strict unknown",
    ("tools", 0): "cache_control custom unknown",
    ("tools", 0, "function"): "strict unknown",
    ("tools", 1): "cache_control function unknown",
    ("tools", 1, "custom"): "description format unknown",
    ("audio",): "unknown",
    ("messages", 0): "name tool_calls function_call audio refusal unknown",
    ("messages", 1): "cache_control tool_calls",
    ("messages", 1, "content", 0): "cache_control image_url unknown",
    ("messages", 1, "content", 1): "text cache_control unknown",
    ("messages", 1, "content", 1, "image_url"): "detail unknown",
    ("messages", 1, "content", 2, "file"): "file_data filename unknown",
    ("messages", 1, "content", 3, "input_audio"): "unknown",
    ("messages", 2): "name function_call audio refusal annotations reasoning reasoning_details "
    "thinking_blocks cache_control unknown",
    ("messages", 2, "tool_calls", 0): "custom unknown",
    ("messages", 2, "tool_calls", 0, "function"): "unknown",
    ("messages", 3): "name cache_control unknown",
    ("messages", 4): "tool_call_id",
}
NULLABLE = [(path, name) for path, names in OPTIONAL.items() for name in names.split()]


def object_at(body: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any] | None:
    """The object at a path; None where a null (or nothing) stands on the way."""
    value: Any = body
    for step in path:
        value = value[step] if isinstance(step, int) else value.get(step)
        if value is None:
            return None
    found: dict[str, Any] = value
    return found


@given(chosen=st.sets(st.sampled_from(NULLABLE)))
@settings(
    max_examples=100,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_null_is_as_good_as_unset_everywhere(
    chosen: set[tuple[tuple[str | int, ...], str]],
) -> None:
    unset, nulled = deepcopy(EVERYTHING), deepcopy(EVERYTHING)
    for path, name in chosen:
        target = object_at(nulled, path)
        if target is not None:
            target[name] = None
        target = object_at(unset, path)
        if target is not None:
            target.pop(name, None)
    assert parse(**nulled) == parse(**unset)


UNKNOWN_AT: list[tuple[tuple[str | int, ...], str]] = [
    ((), "generate.extra[unknown]"),
    (("stream_options",), "generate.extra[stream_options.unknown]"),
    (("response_format",), "generate.extra[response_format.unknown]"),
    (("response_format", "json_schema"), "generate.extra[response_format.json_schema.unknown]"),
    (("audio",), "generate.extra[audio.unknown]"),
    (("tools", 0), "generate.tools[0].extra[unknown]"),
    (("tools", 0, "function"), "generate.tools[0].extra[function.unknown]"),
    (("tools", 1, "custom"), "generate.tools[1].extra[custom.unknown]"),
    (("messages", 0), "generate.messages[0].extra[unknown]"),
    (("messages", 1), "generate.messages[1].extra[unknown]"),
    (("messages", 1, "content", 0), "generate.messages[1].parts[0].extra[unknown]"),
    (
        ("messages", 1, "content", 1, "image_url"),
        "generate.messages[1].parts[1].extra[image_url.unknown]",
    ),
    (("messages", 1, "content", 2, "file"), "generate.messages[1].parts[2].extra[file.unknown]"),
    (
        ("messages", 1, "content", 3, "input_audio"),
        "generate.messages[1].parts[3].extra[input_audio.unknown]",
    ),
    (("messages", 2), "generate.messages[2].extra[unknown]"),
    (("messages", 2, "tool_calls", 0), "generate.messages[2].parts[2].extra[unknown]"),
    (
        ("messages", 2, "tool_calls", 0, "function"),
        "generate.messages[2].parts[2].extra[function.unknown]",
    ),
    (("messages", 3), "generate.messages[3].extra[unknown]"),
    (("messages", 4), "generate.messages[4].extra[unknown]"),
]


@pytest.mark.parametrize(("path", "place"), UNKNOWN_AT)
def test_an_unknown_field_stays_where_it_stood(path: tuple[str | int, ...], place: str) -> None:
    body = deepcopy(EVERYTHING)
    before = parse(**body)
    target = object_at(body, path)
    assert target is not None
    target["unknown"] = {"deep": [1, None, "ü"]}
    request = parse(**body)

    owner, _, key = place.removesuffix("]").partition(".extra[")
    message: Any = request
    for step in owner.replace("[", ".").replace("]", "").split("."):
        message = message[int(step)] if step.isdigit() else getattr(message, step)
    assert json.loads(message.extra[key]) == {"deep": [1, None, "ü"]}
    del message.extra[key]
    assert request == before


def test_a_body_is_not_changed_by_a_field_named_like_a_hub_field() -> None:
    """Names of the hub that are not OpenAI's are unknown fields like any other."""
    request = parse(max_output_tokens=5, surface="grpc", legacy_functions=True)
    assert not request.generate.HasField("max_output_tokens")
    assert not request.generate.legacy_functions
    assert set(request.generate.extra) == {"max_output_tokens", "surface", "legacy_functions"}
