from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from google.protobuf import text_format

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers import registry
from workers.dialects.openai_chat.parameters import CHAT, USAGE_ALWAYS
from workers.provider import Call, Provider

OPENAI = registry.provider("openai")
COMPATIBLE = registry.provider("openai_compatible")


def _request(generate: str, platform: str = "") -> generation_pb2.Request:
    """A hub request in protobuf's text format."""
    request = generation_pb2.Request()
    text_format.Parse(generate, request.generate)
    text_format.Parse(platform, request.platform)
    return request


def _call(
    generate: str, *, model: str = "gpt-4o", provider: Provider = OPENAI, platform: str = ""
) -> Call:
    return provider.dialect.call(_request(generate, platform), model, provider)


def _body(
    generate: str, *, model: str = "gpt-4o", provider: Provider = OPENAI, platform: str = ""
) -> dict[str, Any]:
    body = json.loads(_call(generate, model=model, provider=provider, platform=platform).body)
    assert isinstance(body, dict)
    return body


USER = "messages { role: ROLE_USER parts { text { text: 'hi' } } }"

FIELDS = [
    pytest.param("temperature: 0", {"temperature": 0}, id="zero is not absent"),
    pytest.param("top_p: 0.5", {"top_p": 0.5}, id="top_p"),
    pytest.param("presence_penalty: -1", {"presence_penalty": -1}, id="presence_penalty"),
    pytest.param("frequency_penalty: 1", {"frequency_penalty": 1}, id="frequency_penalty"),
    pytest.param("seed: 9007199254740993", {"seed": 9007199254740993}, id="seed above 2^53"),
    pytest.param("logprobs: true top_logprobs: 0", {"logprobs": True, "top_logprobs": 0}, id="logprobs"),
    pytest.param("n: 2", {"n": 2}, id="n"),
    pytest.param("stop: 'a' stop: 'b'", {"stop": ["a", "b"]}, id="stop"),
    pytest.param("max_tokens: 5", {"max_tokens": 5}, id="max_tokens"),
    pytest.param("max_output_tokens: 5", {"max_completion_tokens": 5}, id="max_completion_tokens"),
    pytest.param("logit_bias { key: '7' value: -100 } logit_bias { key: '8' value: 0.5 }", {"logit_bias": {"7": -100, "8": 0.5}}, id="logit_bias"),
    pytest.param("parallel_tool_calls: false", {"parallel_tool_calls": False}, id="parallel_tool_calls false"),
    pytest.param("service_tier: 'flex'", {"service_tier": "flex"}, id="service_tier"),
    pytest.param("user: 'u' safety_identifier: 's'", {"user": "u", "safety_identifier": "s"}, id="user"),
    pytest.param("prompt_cache_key: 'k' prompt_cache_retention: '24h'", {"prompt_cache_key": "k", "prompt_cache_retention": "24h"}, id="prompt cache"),
    pytest.param("store: false", {"store": False}, id="store false"),
    pytest.param("metadata { key: 'a' value: 'b' }", {"metadata": {"a": "b"}}, id="metadata"),
    pytest.param("modalities: 'text' modalities: 'audio'", {"modalities": ["text", "audio"]}, id="modalities"),
    pytest.param("audio { format: 'wav' voice: 'alloy' }", {"audio": {"format": "wav", "voice": "alloy"}}, id="audio"),
    pytest.param("audio { format: 'wav' voice: '{\"id\":\"v\"}' }", {"audio": {"format": "wav", "voice": {"id": "v"}}}, id="audio with a custom voice"),
    pytest.param("prediction: '{\"type\":\"content\",\"content\":\"x\"}'", {"prediction": {"type": "content", "content": "x"}}, id="prediction"),
    pytest.param("web_search_options: '{}'", {"web_search_options": {}}, id="web_search_options"),
    pytest.param("response_format { kind: KIND_TEXT }", {"response_format": {"type": "text"}}, id="text"),
    pytest.param("response_format { kind: KIND_JSON_OBJECT }", {"response_format": {"type": "json_object"}}, id="json_object"),
    pytest.param("response_format { kind: KIND_JSON_OBJECT schema: '{}' }", {"response_format": {"type": "json_object", "schema": {}}}, id="json_object with a schema"),
    pytest.param("response_format { kind: KIND_JSON_SCHEMA name: 'n' description: 'd' schema: '{\"type\":\"object\"}' strict: true }", {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema": {"type": "object"}, "strict": True}}}, id="json_schema"),
    pytest.param("response_format { kind: KIND_OTHER json: '{\"type\":\"grammar\"}' }", {"response_format": {"type": "grammar"}}, id="another form"),
    pytest.param("tools { function { name: 'f' } }", {"tools": [{"type": "function", "function": {"name": "f"}}]}, id="a bare function"),
    pytest.param("tools { function { name: 'f' description: '' parameters: '{\"type\":\"object\"}' strict: false } }", {"tools": [{"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}, "strict": False}}]}, id="a full function"),
    pytest.param("tools { function { name: 'f' } extra { key: 'function.x' value: '1' } extra { key: 'y' value: '2' } }", {"tools": [{"type": "function", "function": {"name": "f", "x": 1}, "y": 2}]}, id="unknown fields of a tool"),
    pytest.param("tools { custom { name: 'c' description: 'd' format: '{\"type\":\"text\"}' } }", {"tools": [{"type": "custom", "custom": {"name": "c", "description": "d", "format": {"type": "text"}}}]}, id="a custom tool"),
    pytest.param("tools { hosted { type: 'browser' json: '{\"type\":\"browser\",\"x\":1}' } }", {"tools": [{"type": "browser", "x": 1}]}, id="a hosted tool"),
    pytest.param("tool_choice { mode: MODE_AUTO }", {"tool_choice": "auto"}, id="tool choice auto"),
    pytest.param("tool_choice { mode: MODE_NONE }", {"tool_choice": "none"}, id="tool choice none"),
    pytest.param("tool_choice { mode: MODE_REQUIRED }", {"tool_choice": "required"}, id="tool choice required"),
    pytest.param("tool_choice { mode: MODE_NAMED names: 'f' kind: TOOL_KIND_FUNCTION }", {"tool_choice": {"type": "function", "function": {"name": "f"}}}, id="a named function"),
    pytest.param("tool_choice { mode: MODE_NAMED names: 'c' kind: TOOL_KIND_CUSTOM }", {"tool_choice": {"type": "custom", "custom": {"name": "c"}}}, id="a named custom tool"),
    pytest.param("tool_choice { mode: MODE_ALLOWED names: 'f' names: 'g' required: true }", {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "g"}}]}}}, id="allowed tools"),
    pytest.param("tool_choice { mode: MODE_HOSTED hosted: '{\"type\":\"web_search\"}' }", {"tool_choice": {"type": "web_search"}}, id="a hosted tool choice"),
    pytest.param("legacy_functions: true tools { function { name: 'f' parameters: '{}' } extra { key: 'function.x' value: '1' } } tool_choice { mode: MODE_NAMED names: 'f' }", {"functions": [{"name": "f", "parameters": {}, "x": 1}], "function_call": {"name": "f"}}, id="legacy functions"),
    pytest.param("legacy_functions: true tool_choice { mode: MODE_NONE }", {"function_call": "none"}, id="legacy function_call none"),
    pytest.param("legacy_functions: true tool_choice { mode: MODE_AUTO }", {"function_call": "auto"}, id="legacy function_call auto"),
    pytest.param("stream: true", {"stream": True, "stream_options": {"include_usage": True}}, id="a stream asks for usage"),
    pytest.param("stream: true stream_options { include_usage: false include_obfuscation: false }", {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}}, id="also when the caller does not want it"),
    pytest.param("stream: false", {}, id="no stream"),
    pytest.param("extra { key: 'top_k' value: '40' } extra { key: 'thinking' value: '{\"type\":\"enabled\"}' }", {"top_k": 40, "thinking": {"type": "enabled"}}, id="unknown fields go on"),
    pytest.param("extra { key: 'model' value: '\"other\"' } temperature: 1 extra { key: 'temperature' value: '0' }", {"temperature": 1}, id="an unknown field never replaces a known one"),
    pytest.param("stream: true extra { key: 'stream_options.x' value: '1' }", {"stream": True, "stream_options": {"include_usage": True, "x": 1}}, id="an unknown field of an object"),
    pytest.param("extra { key: 'a.b' value: '1' }", {"a.b": 1}, id="a dot in a name of its own"),
]  # fmt: skip


@pytest.mark.parametrize(("generate", "fields"), FIELDS)
def test_a_field_of_the_hub_is_this_field_of_the_body(
    generate: str, fields: dict[str, Any]
) -> None:
    assert _body(f"{USER} {generate}") == {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "hi"}],
        **fields,
    }


def test_the_call_goes_to_chat_completions_under_the_base_url() -> None:
    call = _call(USER)
    assert (call.method, call.path) == ("POST", "/chat/completions")
    assert OPENAI.base_url.endswith("/v1")


def test_platform_arguments_stay_here() -> None:
    platform = """tags: 't' signature: 's' log_query_body: false region: 'eu' use_custom_keys: true
      provider: '{}' models: 'm' drop_params: true extra_headers { key: 'x-a' value: 'b' }"""
    assert _body(USER, platform=platform).keys() == {"model", "messages"}


def _image(data: str) -> str:
    return f"image {{ inline {{ media_type: 'image/png' data: '{data}' }} }}"


MESSAGES = [
    pytest.param("role: ROLE_SYSTEM parts { text { text: 's' } }", [{"role": "system", "content": "s"}], id="system"),
    pytest.param("role: ROLE_DEVELOPER parts { text { text: 's' } }", [{"role": "developer", "content": "s"}], id="developer"),
    pytest.param("role: ROLE_USER parts { text { } }", [{"role": "user", "content": ""}], id="an empty text"),
    pytest.param("role: ROLE_USER name: 'bob' parts { text { text: 'a' } }", [{"role": "user", "content": "a", "name": "bob"}], id="a name"),
    pytest.param("role: ROLE_USER parts { text { text: 'a' } } parts { text { text: 'b' } }", [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], id="two texts stay two"),
    pytest.param("role: ROLE_USER parts { text { text: 'a' } } extra { key: 'x' value: '[1]' }", [{"role": "user", "content": "a", "x": [1]}], id="unknown fields of a message"),
    pytest.param("role: ROLE_USER parts { text { text: 'a' } extra { key: 'x' value: '1' } }", [{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}], id="unknown fields of a part"),
    pytest.param("role: ROLE_USER parts { text { text: 'a' } cache_control: '{}' }", [{"role": "user", "content": "a"}], id="cache marks are not for everyone"),
    pytest.param("role: ROLE_USER parts { image { url: 'https://x/y.png' detail: 'low' } }", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}]}], id="an image by address"),
    pytest.param(f"role: ROLE_USER parts {{ {_image('abc')} }}", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,YWJj"}}]}], id="an inline image"),
    pytest.param("role: ROLE_USER parts { image { url: 'u' } extra { key: 'image_url.max' value: '1' } }", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u", "max": 1}}]}], id="unknown fields of an image"),
    pytest.param("role: ROLE_USER parts { audio { inline { data: 'abc' } format: 'wav' } }", [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "YWJj", "format": "wav"}}]}], id="audio"),
    pytest.param("role: ROLE_USER parts { file { inline { media_type: 'application/pdf' data: 'abc' } filename: 'f.pdf' } }", [{"role": "user", "content": [{"type": "file", "file": {"file_data": "data:application/pdf;base64,YWJj", "filename": "f.pdf"}}]}], id="an inline file"),
    pytest.param("role: ROLE_USER parts { file { inline { data: 'abc' } } }", [{"role": "user", "content": [{"type": "file", "file": {"file_data": "YWJj"}}]}], id="an inline file of unknown type"),
    pytest.param("role: ROLE_USER parts { file { file_id: 'file-1' } }", [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}], id="a file by id"),
    pytest.param("role: ROLE_USER parts { opaque { issuer: 'openai_chat' type: 'video_url' json: '{\"type\":\"video_url\",\"x\":1}' } }", [{"role": "user", "content": [{"type": "video_url", "x": 1}]}], id="a part only this format knows"),
    pytest.param("role: ROLE_USER parts { text { text: 'a' } } parts { opaque { issuer: 'other' type: 'x' json: '{}' } }", [{"role": "user", "content": "a"}], id="a part of another format"),
    pytest.param("role: ROLE_ASSISTANT parts { text { text: 'a' } }", [{"role": "assistant", "content": "a"}], id="assistant"),
    pytest.param("role: ROLE_ASSISTANT parts { text { } }", [{"role": "assistant", "content": ""}], id="an empty answer"),
    pytest.param("role: ROLE_ASSISTANT parts { tool_call { call_id: 'c' name: 'f' arguments: '{broken' } }", [{"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{broken"}}]}], id="a tool call with its arguments untouched"),
    pytest.param("role: ROLE_ASSISTANT parts { text { text: 'a' } } parts { tool_call { call_id: 'c' name: 'f' arguments: '{}' } extra { key: 'function.x' value: '1' } }", [{"role": "assistant", "content": "a", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}", "x": 1}}]}], id="text and a tool call"),
    pytest.param("role: ROLE_ASSISTANT parts { tool_call { call_id: 'c' name: 't' arguments: 'free' kind: TOOL_KIND_CUSTOM } }", [{"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "t", "input": "free"}}]}], id="a custom tool call"),
    pytest.param("role: ROLE_ASSISTANT parts { tool_call { name: 'f' arguments: '{}' legacy_function: true } }", [{"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}], id="a legacy function call"),
    pytest.param("role: ROLE_ASSISTANT parts { refusal { text: 'no' } }", [{"role": "assistant", "content": None, "refusal": "no"}], id="a refusal"),
    pytest.param("role: ROLE_ASSISTANT parts { audio { id: 'audio_1' transcript: 't' } }", [{"role": "assistant", "content": None, "audio": {"id": "audio_1"}}], id="an audio answer goes back by id"),
    pytest.param("role: ROLE_ASSISTANT parts { reasoning { text: 'hm' blobs { issuer: 'x' kind: 'signature' data: 's' } } } parts { text { text: 'a' } }", [{"role": "assistant", "content": "a"}], id="reasoning is refused by OpenAI"),
    pytest.param("role: ROLE_TOOL parts { tool_result { call_id: 'c' parts { text { text: 'r' } } } }", [{"role": "tool", "tool_call_id": "c", "content": "r"}], id="a tool result"),
    pytest.param("role: ROLE_TOOL parts { tool_result { call_id: 'c' name: 'f' } }", [{"role": "tool", "tool_call_id": "c", "content": "", "name": "f"}], id="an empty tool result with a name"),
    pytest.param("role: ROLE_TOOL parts { tool_result { name: 'f' legacy_function: true parts { text { text: 'r' } } } }", [{"role": "function", "name": "f", "content": "r"}], id="a legacy function result"),
    pytest.param("role: ROLE_USER parts { tool_result { call_id: 'a' parts { text { text: '1' } } } } parts { tool_result { call_id: 'b' parts { text { text: '2' } } } } parts { text { text: 'go on' } }", [{"role": "tool", "tool_call_id": "a", "content": "1"}, {"role": "tool", "tool_call_id": "b", "content": "2"}, {"role": "user", "content": "go on"}], id="several results and a text in one turn"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "written"), MESSAGES)
def test_a_message_of_the_hub_is_these_chat_messages(
    message: str, written: list[dict[str, Any]]
) -> None:
    assert _body(f"messages {{ {message} }}")["messages"] == written


def test_images_of_tool_results_follow_behind_the_last_result() -> None:
    result = (
        "messages {{ role: ROLE_TOOL parts {{ tool_result {{ call_id: '{}' parts {{ {} }} }} }} }}"
    )
    body = _body(
        result.format("a", _image("abc")) + result.format("b", "text { text: 'r' }") + USER
    )
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,YWJj"}}
    assert body["messages"] == [
        {"role": "tool", "tool_call_id": "a", "content": ""},
        {"role": "tool", "tool_call_id": "b", "content": "r"},
        {"role": "user", "content": [image]},
        {"role": "user", "content": "hi"},
    ]


def test_instructions_of_a_responses_request_come_first() -> None:
    body = _body(USER + "responses { instructions: 'be brief' }")
    assert body["messages"][0] == {"role": "system", "content": "be brief"}


def _with_quirk(name: str, value: str) -> Provider:
    return dataclasses.replace(OPENAI, quirks={name: value})


def test_reasoning_goes_back_where_the_provider_has_a_field_for_it() -> None:
    message = "messages { role: ROLE_ASSISTANT parts { reasoning { text: 'hm' } } parts { text { text: 'a' } } }"
    body = _body(message, provider=_with_quirk("reasoning_field", "reasoning_content"))
    assert body["messages"] == [{"role": "assistant", "content": "a", "reasoning_content": "hm"}]


def test_the_body_is_said_to_be_json() -> None:
    assert _call(USER).headers == {"content-type": "application/json"}


def test_usage_is_not_asked_for_where_it_always_comes() -> None:
    provider = dataclasses.replace(OPENAI, parameters=CHAT.but(USAGE_ALWAYS))
    body = _body(USER + "stream: true", provider=provider)
    assert body["stream"] is True
    assert "stream_options" not in body


def test_a_compatible_server_gets_what_every_server_understands() -> None:
    body = _body(
        """messages { role: ROLE_DEVELOPER parts { text { text: 's' } cache_control: '{"type":"ephemeral"}' } }
        max_output_tokens: 7""",
        model="o3",
        provider=COMPATIBLE,
    )
    text = {"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}
    assert body["messages"] == [{"role": "system", "content": [text]}]
    assert (body["max_tokens"], "max_completion_tokens" in body) == (7, False)


SAMPLED = """temperature: 0.5 top_p: 0.5 presence_penalty: 1 frequency_penalty: 1 logprobs: true
  top_logprobs: 1 logit_bias { key: '1' value: 1 } stop: 's' verbosity: 'low' max_tokens: 9"""
SAMPLING = {"temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs"}  # fmt: skip

FAMILIES = [
    pytest.param("gpt-4o-2024-08-06", "", {"verbosity"}, id="gpt-4o takes all sampling"),
    pytest.param("gpt-4.1-nano", "high", {"verbosity", "reasoning_effort"}, id="gpt-4.1 does not reason"),
    pytest.param("gpt-5-chat-latest", "", {"verbosity"}, id="gpt-5-chat does not reason"),
    pytest.param("o3", "", {*SAMPLING, "stop", "verbosity"}, id="o3"),
    pytest.param("o3-mini", "low", {*SAMPLING, "verbosity"}, id="o3-mini takes stop"),
    pytest.param("gpt-5-mini", "", {*SAMPLING, "stop"}, id="gpt-5-mini"),
    pytest.param("gpt-5.1", "", set(), id="gpt-5.1 does not reason unless asked"),
    pytest.param("gpt-5.1", "none", set(), id="gpt-5.1 with reasoning off"),
    pytest.param("gpt-5.2", "low", {*SAMPLING, "stop"}, id="gpt-5.2 with reasoning on"),
    pytest.param("gpt-5.3-chat-latest", "none", {*SAMPLING, "stop"}, id="gpt-5.3-chat always reasons"),
    pytest.param("gpt-5.6-sol", "", {*SAMPLING, "stop"}, id="gpt-5.6 reasons by default"),
    pytest.param("gpt-5.6-sol", "none", set(), id="gpt-5.6 with reasoning off"),
    pytest.param("gpt-6-astra", "none", {*SAMPLING, "stop"}, id="gpt-6-astra always reasons"),
    pytest.param("ft:gpt-4o:org::id", "", {"verbosity"}, id="a fine-tuned model"),
    pytest.param("some-future-model", "high", set(), id="an unknown model takes everything"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "effort", "dropped"), FAMILIES)
def test_what_a_family_of_models_refuses_is_dropped_and_reported(
    model: str, effort: str, dropped: set[str]
) -> None:
    asked = SAMPLED + (f" reasoning {{ effort: '{effort}' }}" if effort else "")
    call = _call(f"{USER} {asked}", model=model)
    assert set(call.dropped) == dropped
    assert len(call.dropped) == len(dropped)
    body = json.loads(call.body)
    everything = {*SAMPLING, "stop", "verbosity", *(["reasoning_effort"] if effort else [])}
    assert everything & body.keys() == everything - dropped


@pytest.mark.parametrize(
    ("model", "field"),
    [("gpt-4o", "max_tokens"), ("o3", "max_completion_tokens"), ("gpt-5.1", "max_completion_tokens")],
)  # fmt: skip
def test_reasoning_models_get_max_tokens_under_its_new_name(model: str, field: str) -> None:
    body = _body(f"{USER} max_tokens: 9", model=model)
    assert {name: value for name, value in body.items() if "tokens" in name} == {field: 9}


def test_the_new_field_wins_over_the_deprecated_one() -> None:
    body = _body(f"{USER} max_tokens: 9 max_output_tokens: 5", model="o3")
    assert {name: value for name, value in body.items() if "tokens" in name} == {
        "max_completion_tokens": 5
    }


def test_values_that_change_nothing_are_not_reported_as_dropped() -> None:
    defaults = "temperature: 1 top_p: 1 presence_penalty: 0 frequency_penalty: 0 logprobs: false"
    call = _call(f"{USER} {defaults}", model="gpt-5")
    assert call.dropped == ()
    assert json.loads(call.body).keys() == {"model", "messages", "temperature", "top_p"}


def test_what_chat_has_no_field_for_is_reported() -> None:
    call = _call(f"{USER} max_tool_calls: 2 reasoning {{ summary: 'auto' }}")
    assert set(call.dropped) == {"reasoning.summary", "max_tool_calls"}


def test_nothing_is_dropped_for_a_caller_who_forbids_it() -> None:
    with pytest.raises(InferenceError) as caught:
        _call(f"{USER} temperature: 0.5 top_p: 0.5", model="o3", platform="drop_params: false")
    assert (caught.value.reason, caught.value.param) == ("unsupported_parameter", "temperature")
    assert "temperature, top_p" in caught.value.message


@pytest.mark.parametrize(
    ("generate", "param"),
    [
        ("extra { key: 'x' value: '1,\"model\":\"other\"' }", "x"),
        ("prediction: '{' ", "prediction"),
        ("tools { function { name: 'f' parameters: 'nope' } }", "tools[0].function.parameters"),
        ("tools { hosted { json: '' } }", "tools[0]"),
        ("messages { parts { text { text: 'a' } } extra { key: 'x' value: '}' } }", "messages[1].x"),
        ("messages { parts { opaque { issuer: 'openai_chat' json: '[' } } }", "messages[1].content[0]"),
    ],
)  # fmt: skip
def test_bytes_that_are_not_json_never_reach_the_body(generate: str, param: str) -> None:
    with pytest.raises(InferenceError) as caught:
        _call(f"{USER} {generate}")
    assert (caught.value.reason, caught.value.param) == ("invalid_request", param)
