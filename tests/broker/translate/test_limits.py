"""Every way a chat body can be wrong: what the caller is told, and never anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.translate.chat_request import parse_chat
from broker.translate.errors import error_body

HELLO = [{"role": "user", "content": "Hello!"}]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "openai/gpt-4o", "messages": HELLO, **fields}).encode()


def refusal(data: bytes) -> InferenceError:
    with pytest.raises(InferenceError) as raised:
        parse_chat(data)
    assert raised.value.reason == "invalid_request"
    assert raised.value.row.http == 400
    assert set(json.loads(error_body(raised.value))["error"]) == {
        "message",
        "type",
        "param",
        "code",
    }
    return raised.value


def a_tool(name: str = "f") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


# --- limits: the values just outside, and just inside ---

OUTSIDE: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
    ({"temperature": 2.01}, "temperature", "decimal_above_max_value"),
    ({"top_p": -0.01}, "top_p", "decimal_below_min_value"),
    ({"top_p": 1.01}, "top_p", "decimal_above_max_value"),
    ({"presence_penalty": -2.1}, "presence_penalty", "decimal_below_min_value"),
    ({"presence_penalty": 2.1}, "presence_penalty", "decimal_above_max_value"),
    ({"frequency_penalty": -2.1}, "frequency_penalty", "decimal_below_min_value"),
    ({"frequency_penalty": 2.1}, "frequency_penalty", "decimal_above_max_value"),
    ({"logit_bias": {"50256": -101}}, "logit_bias", "decimal_below_min_value"),
    ({"logit_bias": {"50256": 100.5}}, "logit_bias", "decimal_above_max_value"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "array_above_max_length"),
    ({"tools": [a_tool(f"f{i}") for i in range(129)]}, "tools", "array_above_max_length"),
    ({"functions": [{"name": f"f{i}"} for i in range(129)]}, "functions", "array_above_max_length"),
    ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "integer_below_min_value"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"top_logprobs": 2, "logprobs": False}, "top_logprobs", "invalid_value"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"stream": False, "stream_options": {}}, "stream_options", "invalid_value"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": 129}, "n", "integer_above_max_value"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": 2**53 + 1}, "max_tokens", "integer_above_max_value"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "integer_below_min_value"),
    ({"seed": 2**63}, "seed", "integer_above_max_value"),
    ({"seed": -(2**63) - 1}, "seed", "integer_below_min_value"),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"model": ""}, "model", "empty_string"),
]

INSIDE: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 2},
    {"top_p": 0},
    {"top_p": 1},
    {"presence_penalty": -2, "frequency_penalty": 2},
    {"logit_bias": {"1": -100, "2": 100}},
    {"stop": ["a", "b", "c", "d"]},
    {"stop": "a"},
    {"tools": [a_tool(f"f{i}") for i in range(128)]},
    {"logprobs": True, "top_logprobs": 0},
    {"logprobs": True, "top_logprobs": 20},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"n": 1},
    {"n": 128},
    {"max_tokens": 1, "max_completion_tokens": 1},
    {"seed": -(2**63)},
    {"seed": 2**63 - 1},
    *({"messages": [{"role": role, "content": "x"}]} for role in ("system", "developer", "user")),
]


@pytest.mark.parametrize(("fields", "param", "code"), OUTSIDE)
def test_a_value_outside_its_limit_is_refused_by_name(
    fields: dict[str, Any], param: str, code: str
) -> None:
    error = refusal(body(**fields))
    assert (error.param, error.code) == (param, code)
    assert param.rsplit(".", maxsplit=1)[-1] in error.message or "Supported values" in error.message


@pytest.mark.parametrize("fields", INSIDE)
def test_a_value_at_its_limit_passes(fields: dict[str, Any]) -> None:
    parse_chat(body(**fields))


def test_the_message_says_what_to_change() -> None:
    assert refusal(body(temperature=3)).message == (
        "Invalid 'temperature': decimal above maximum value. "
        "Expected a value <= 2, but got 3 instead."
    )
    assert refusal(body(stop=list("abcde"))).message == (
        "Invalid 'stop': array too long. Expected an array with maximum length 4, "
        "but got an array with length 5 instead."
    )
    assert refusal(body(temperature="hot")).message == (
        "Invalid type for 'temperature': expected a number, but got a string instead."
    )
    assert refusal(b"{}").message == "Missing required parameter: 'model'."
    assert "'developer'" in refusal(body(messages=[{"role": "x"}])).message


# --- missing fields and wrong types ---


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def assistant(**fields: Any) -> dict[str, Any]:
    return {"messages": [*HELLO, {"role": "assistant", **fields}]}


MISSING: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "system", "content": None}]}, "messages[0].content"),
    ({"messages": [*HELLO, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
    ({"messages": [*HELLO, {"role": "function", "content": "x"}]}, "messages[1].name"),
    (user({"text": "x"}), "messages[0].content[0].type"),
    (user({"type": "text"}), "messages[0].content[0].text"),
    (user({"type": "image_url"}), "messages[0].content[0].image_url"),
    (user({"type": "image_url", "image_url": {}}), "messages[0].content[0].image_url.url"),
    (user({"type": "input_audio"}), "messages[0].content[0].input_audio"),
    (
        user({"type": "input_audio", "input_audio": {"data": "AAAA"}}),
        "messages[0].content[0].input_audio.format",
    ),
    (user({"type": "file"}), "messages[0].content[0].file"),
    (user({"type": "file", "file": {}}), "messages[0].content[0].file.file_data"),
    (assistant(content=[{"type": "refusal"}]), "messages[1].content[0].refusal"),
    (assistant(tool_calls=[{"function": {"name": "f"}}]), "messages[1].tool_calls[0].id"),
    (assistant(tool_calls=[{"id": "c"}]), "messages[1].tool_calls[0].function"),
    (
        assistant(tool_calls=[{"id": "c", "type": "function", "function": {}}]),
        "messages[1].tool_calls[0].function.name",
    ),
    (
        assistant(tool_calls=[{"id": "c", "type": "custom"}]),
        "messages[1].tool_calls[0].custom",
    ),
    (assistant(function_call={"arguments": ""}), "messages[1].function_call.name"),
    (assistant(audio={}), "messages[1].audio.id"),
    (
        assistant(thinking_blocks=[{"type": "thinking"}]),
        "messages[1].thinking_blocks[0].thinking",
    ),
    (
        assistant(reasoning_details=[{"type": "reasoning", "blobs": [{"issuer": "x"}]}]),
        "messages[1].reasoning_details[0].blobs[0].kind",
    ),
    ({"tools": [{}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [a_tool(), {"type": "function", "function": {}}]}, "tools[1].function.name"),
    ({"tools": [{"type": "custom"}]}, "tools[0].custom"),
    ({"functions": [{}]}, "functions[0].name"),
    ({"tool_choice": {}}, "tool_choice.type"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({"tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name"),
    ({"tool_choice": {"type": "custom", "custom": {}}}, "tool_choice.custom.name"),
    ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
    (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}},
        "tool_choice.allowed_tools.tools",
    ),
    ({"response_format": {}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"audio": {"voice": "alloy"}}, "audio.format"),
]


@pytest.mark.parametrize(("fields", "param"), MISSING)
def test_a_missing_field_is_named_by_its_path(fields: dict[str, Any], param: str) -> None:
    error = refusal(body(**fields))
    assert (error.param, error.code) == (param, "missing_required_parameter")
    assert f"'{param}'" in error.message


WRONG_TYPE: list[tuple[dict[str, Any], str]] = [
    ({"model": 5}, "model"),
    ({"messages": "hello"}, "messages"),
    ({"messages": ["hello"]}, "messages[0]"),
    ({"messages": [None]}, "messages[0]"),
    ({"messages": [{"role": 5, "content": "x"}]}, "messages[0].role"),
    ({"messages": [*HELLO, *HELLO, *HELLO, {"role": "user", "content": 5}]}, "messages[3].content"),
    ({"messages": [{"role": "user", "content": {"a": 1}}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
    (user({"type": "text", "text": 5}), "messages[0].content[0].text"),
    (user({"type": 5}), "messages[0].content[0].type"),
    (user({"type": "image_url", "image_url": 5}), "messages[0].content[0].image_url"),
    (assistant(tool_calls={}), "messages[1].tool_calls"),
    (
        assistant(tool_calls=[{"id": "c", "function": {"name": "f", "arguments": {}}}]),
        "messages[1].tool_calls[0].function.arguments",
    ),
    (assistant(reasoning_content=5), "messages[1].reasoning_content"),
    (assistant(reasoning_details="x"), "messages[1].reasoning_details"),
    (
        assistant(reasoning_details=[{"type": "reasoning", "text": 5}]),
        "messages[1].reasoning_details[0].text",
    ),
    (
        assistant(reasoning_details=[{"type": "reasoning", "after_text": -1}]),
        "messages[1].reasoning_details[0].after_text",
    ),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"n": "2"}, "n"),
    ({"n": 1.5}, "n"),
    ({"max_tokens": 1.0}, "max_tokens"),
    ({"stream": "yes"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream": True, "stream_options": []}, "stream_options"),
    ({"stop": 5}, "stop"),
    ({"stop": [5]}, "stop[0]"),
    ({"stop": [None]}, "stop[0]"),
    ({"logit_bias": []}, "logit_bias"),
    ({"logit_bias": {"1": "x"}}, "logit_bias"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"tools": {}}, "tools"),
    ({"tools": [5]}, "tools[0]"),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": "{}"}}]},
        "tools[0].function.parameters",
    ),
    ({"tool_choice": 5}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": 5}}}, "tool_choice.function.name"),
    ({"response_format": "json"}, "response_format"),
    ({"modalities": "text"}, "modalities"),
    ({"user": 5}, "user"),
    ({"provider": "openai"}, "provider"),
    ({"models": "m"}, "models"),
    ({"tags": 5}, "tags"),
    ({"extra_headers": {"X": 5}}, "extra_headers"),
    ({"drop_params": "no"}, "drop_params"),
    ({"extra_body": 5}, "extra_body"),
    ({"extra_body": {"temperature": "hot"}}, "temperature"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG_TYPE)
def test_a_wrong_type_is_named_by_its_path(fields: dict[str, Any], param: str) -> None:
    error = refusal(body(**fields))
    assert (error.param, error.code) == (param, "invalid_type")


WRONG_VALUE: list[tuple[dict[str, Any], str, str]] = [
    ({"tool_choice": "maybe"}, "tool_choice", "invalid_value"),
    ({"function_call": "required"}, "function_call", "invalid_value"),
    ({"tools": [a_tool()], "functions": [{"name": "f"}]}, "functions", "invalid_value"),
    ({"tool_choice": "auto", "function_call": "auto"}, "function_call", "invalid_value"),
    ({"tools": [a_tool("")]}, "tools[0].function.name", "empty_string"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "empty_array"),
    (
        user({"type": "image_url", "image_url": {"url": ""}}),
        "messages[0].content[0].image_url.url",
        "invalid_image_url",
    ),
    (
        user({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}),
        "messages[0].content[0].image_url.url",
        "invalid_base64",
    ),
    (
        user({"type": "image_url", "image_url": {"url": "data:image/png;base64"}}),
        "messages[0].content[0].image_url.url",
        "invalid_value",
    ),
    (
        user({"type": "input_audio", "input_audio": {"data": "ä", "format": "wav"}}),
        "messages[0].content[0].input_audio.data",
        "invalid_base64",
    ),
    (
        user({"type": "file", "file": {"file_data": "AAAAA"}}),
        "messages[0].content[0].file.file_data",
        "invalid_base64",
    ),
    (
        assistant(tool_calls=[{"id": "c", "type": "magic"}]),
        "messages[1].tool_calls[0].type",
        "invalid_value",
    ),
    (
        assistant(thinking_blocks=[{"type": "dreaming"}]),
        "messages[1].thinking_blocks[0].type",
        "invalid_value",
    ),
    ({"extra_headers": {"X-A": "a\r\nauthorization: b"}}, "extra_headers", "invalid_value"),
    ({"extra_headers": {"a b": "c"}}, "extra_headers", "invalid_value"),
    (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "any", "tools": []}}},
        "tool_choice.allowed_tools.mode",
        "invalid_value",
    ),
]


@pytest.mark.parametrize(("fields", "param", "code"), WRONG_VALUE)
def test_a_wrong_value_is_named_by_its_path(fields: dict[str, Any], param: str, code: str) -> None:
    error = refusal(body(**fields))
    assert (error.param, error.code) == (param, code)


# --- bodies that are hardly JSON ---


def with_raw(name: str, value: bytes) -> bytes:
    return b'{"model":"m","messages":[{"role":"user","content":"x"}],"%b":%b}' % (
        name.encode(),
        value,
    )


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


UNREADABLE: list[tuple[str, bytes, str | None]] = [
    ("empty", b"", None),
    ("blank", b"  \n", None),
    ("not JSON", b"hello", None),
    ("cut", b'{"model":"m","mess', None),
    ("two values", b"{} {}", None),
    ("trailing comma", b'{"model":"m",}', None),
    ("an array", b"[]", None),
    ("a string", b'"m"', None),
    ("null", b"null", None),
    ("bad UTF-8 in a value", b'{"model":"\xff"}', None),
    ("bad UTF-8 in a name", b'{"\xff":1}', None),
    ("bad UTF-8 outside", b"\xff\xfe{}", None),
    ("UTF-16", '{"model":"m"}'.encode("utf-16"), None),
    ("half a surrogate pair", b'{"model":"\\ud800"}', None),
    ("a control character", b'{"model":"a\x00b"}', None),
    ("NaN", with_raw("temperature", b"NaN"), None),
    ("Infinity", with_raw("temperature", b"-Infinity"), None),
    ("a float too large", with_raw("temperature", b"1e400"), "temperature"),
    ("an unknown float too large", with_raw("top_k", b"1e400"), "top_k"),
    ("an integer of 5,000 digits", with_raw("n", b"9" * 5000), "n"),
    ("an unknown integer of 400 digits", with_raw("top_k", b"9" * 400), "top_k"),
    ("1,000 levels", with_raw("x", nested(1_000)), None),
    ("100,000 levels", with_raw("x", nested(100_000)), None),
    ("100,000 levels unclosed", b"[" * 100_000, None),
    ("100,000 levels of objects", b'{"a":' * 100_000, None),
    ("300 levels in an unknown field", with_raw("x", nested(300)), "x"),
    ("900 levels in an unknown field", with_raw("x", nested(900)), "x"),
    ("900 levels in a known field", with_raw("temperature", nested(900)), "temperature"),
]


@pytest.mark.parametrize(
    ("data", "param"), [row[1:] for row in UNREADABLE], ids=[row[0] for row in UNREADABLE]
)
def test_an_unreadable_body_is_the_callers_error(data: bytes, param: str | None) -> None:
    error = refusal(data)
    assert error.param == param
    assert len(error.message) < 400


def test_no_depth_slips_between_the_parsers() -> None:
    """Parsing and writing again give up at slightly different depths of the stack."""
    for levels in range(200, 1100):
        value = nested(levels)
        data = b'{"model":"m","messages":[{"role":"user","content":"x","y":%b}]}' % value
        if levels <= 254:
            assert parse_chat(data).generate.messages[0].extra["y"] == value
        else:
            assert refusal(data).param in ("messages[0].y", None)


def test_deep_schemas_are_refused_where_they_stand() -> None:
    schema: dict[str, Any] = {}
    for _ in range(300):
        schema = {"properties": {"a": schema}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert refusal(body(tools=[tool])).param == "tools[0].function.parameters"


def test_of_a_field_named_twice_the_last_one_counts() -> None:
    request = parse_chat(with_raw("model", b'"second"'))
    assert request.generate.model == "second"
    assert refusal(with_raw("messages", b"[]")).param == "messages"


def test_integers_of_any_length_survive_in_unknown_fields() -> None:
    request = parse_chat(with_raw("top_k", b"123456789012345678901234567890"))
    assert request.generate.extra["top_k"] == b"123456789012345678901234567890"
