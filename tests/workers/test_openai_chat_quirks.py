"""What servers that are nearly like OpenAI's are sent instead of what they would refuse."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from google.protobuf import text_format

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers import registry
from workers.standins import CALL_A_TOOL

USER = "messages { role: ROLE_USER parts { text { text: 'hi' } } }"


def _body(provider: str, generate: str, model: str = "m") -> dict[str, Any]:
    request = generation_pb2.Request()
    text_format.Parse(generate, request.generate)
    declared = registry.provider(provider)
    body = json.loads(declared.dialect.call(request, model, declared).body)
    assert isinstance(body, dict)
    return body


def _says(role: str, text: str, more: str = "") -> str:
    return f"messages {{ role: ROLE_{role} parts {{ text {{ text: '{text}' }} }} {more} }}"


def _calls(call_id: str, legacy: str = "false", name: str = "f") -> str:
    call = f"call_id: '{call_id}' name: '{name}' arguments: '{{}}' legacy_function: {legacy}"
    return f"messages {{ role: ROLE_ASSISTANT parts {{ tool_call {{ {call} }} }} }}"


def _result(call_id: str, legacy: str = "false", name: str = "f") -> str:
    result = f"call_id: '{call_id}' name: '{name}' legacy_function: {legacy}"
    text = "parts { text { text: 'r' } }"
    return f"messages {{ role: ROLE_TOOL parts {{ tool_result {{ {result} {text} }} }} }}"


@pytest.mark.parametrize("provider", ["vllm", "perplexity"])
def test_system_messages_become_one_at_the_beginning(provider: str) -> None:
    body = _body(provider, _says("USER", "q") + _says("SYSTEM", "a") + _says("DEVELOPER", "b"))
    assert body["messages"] == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "user", "content": "q"},
    ]


def test_neighbours_of_one_speaker_become_one_turn() -> None:
    said = _says("USER", "a") + _says("USER", "b") + _says("ASSISTANT", "c") + _says("USER", "d")
    turns = [(m["role"], m["content"]) for m in _body("perplexity", said)["messages"]]
    assert turns == [("user", "a\n\nb"), ("assistant", "c"), ("user", "d")]
    assert len(_body("vllm", said)["messages"]) == 4


def test_call_ids_of_others_are_made_to_fit_and_still_belong_together() -> None:
    said = USER + _calls("toolu_01ABC") + _result("toolu_01ABC") + _calls("abcDEF123")
    messages = _body("mistral", said)["messages"]
    made = messages[1]["tool_calls"][0]["id"]
    assert re.fullmatch("[a-zA-Z0-9]{9}", made)
    assert messages[2]["tool_call_id"] == made
    assert messages[3]["tool_calls"][0]["id"] == "abcDEF123"


def test_a_strict_server_gets_no_null_and_no_field_of_openais_own() -> None:
    refused = "parts { refusal { text: 'no' } }"
    noted = "parts { text { text: 'a' annotations: '[]' } }"
    said = f"{USER} {_calls('abcDEF123')} {_result('abcDEF123')}"
    said += (
        f"messages {{ role: ROLE_ASSISTANT {refused} }} messages {{ role: ROLE_ASSISTANT {noted} }}"
    )
    messages = _body("mistral", said)["messages"]
    assert messages[1]["content"] == ""
    assert "name" not in messages[2]
    assert messages[3] == {"role": "assistant", "content": "no"}
    assert messages[4] == {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("provider", "written"),
    [
        ("mistral", {"function": {"name": "f"}}),
        ("groq", {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_a_tool_without_a_type_gets_one_where_it_needs_it(
    provider: str, written: dict[str, Any]
) -> None:
    untyped = "tools { function { name: 'f' } extra { key: 'type' value: 'null' } }"
    assert _body(provider, USER + untyped)["tools"] == [written]
    typed = _body(provider, USER + "tools { function { name: 'f' } }")["tools"]
    assert typed == [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize("provider", ["groq", "mistral", "together_ai", "perplexity", "ollama"])
def test_who_of_several_users_speaks_stands_before_the_text(provider: str) -> None:
    body = _body(provider, _says("USER", "hi", "name: 'Ann'"))
    assert body["messages"] == [{"role": "user", "content": "Ann: hi"}]


LEGACY = """legacy_functions: true tools { function { name: 'f' parameters: '{}' } }
  tool_choice { mode: MODE_NAMED names: 'f' }"""


@pytest.mark.parametrize(
    "provider", ["xai", "together_ai", "mistral", "deepseek", "openrouter", "cerebras", "perplexity", "vllm", "huggingface"]
)  # fmt: skip
def test_legacy_functions_are_tools_where_there_are_only_these(provider: str) -> None:
    said = USER + _calls("", "true") + _calls("", "true", "g") + _result("", "true", "g")
    said += _result("", "true") + LEGACY
    body = _body(provider, said, model="deepseek-chat")
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert body["tools"] == tools
    named = {"type": "function", "function": {"name": "f"}}
    assert body["tool_choice"] == ("required" if provider == "perplexity" else named)
    assert not body.keys() & {"functions", "function_call"}
    _, first, second, third, fourth = body["messages"]
    ids = [message["tool_calls"][0]["id"] for message in (first, second)]
    assert len(set(ids)) == 2
    assert (third["role"], third["tool_call_id"]) == ("tool", ids[1])
    assert (fourth["role"], fourth["tool_call_id"]) == ("tool", ids[0])


def test_a_choice_of_some_tools_shows_only_these() -> None:
    tools = "tools { function { name: 'f' } } tools { function { name: 'g' } }"
    choice = "tool_choice { mode: MODE_ALLOWED names: 'g' required: true }"
    body = _body("groq", f"{USER} {tools} {choice}")
    assert [tool["function"]["name"] for tool in body["tools"]] == ["g"]
    assert body["tool_choice"] == "required"


FILE = "role: ROLE_USER parts {{ file {{ {source} filename: 'f.pdf' }} }}"
INLINE = "inline { media_type: 'application/pdf' data: 'abc' }"
FILES: list[tuple[str, str, dict[str, Any]]] = [
    (
        "mistral",
        INLINE,
        {"type": "document_url", "document_url": "data:application/pdf;base64,YWJj"},
    ),
    ("mistral", "url: 'https://a.b/c'", {"type": "document_url", "document_url": "https://a.b/c"}),
    ("perplexity", INLINE, {"type": "file_url", "file_url": {"url": "YWJj"}}),
    (
        "perplexity",
        "url: 'https://a.b/c'",
        {"type": "file_url", "file_url": {"url": "https://a.b/c"}},
    ),
]


@pytest.mark.parametrize(("provider", "source", "part"), FILES)
def test_a_file_is_the_part_that_the_server_knows(
    provider: str, source: str, part: dict[str, Any]
) -> None:
    body = _body(provider, f"messages {{ {FILE.format(source=source)} }}")
    named = {"document_name" if provider == "mistral" else "file_name": "f.pdf"}
    assert body["messages"] == [{"role": "user", "content": [part | named]}]


def test_a_file_and_sound_at_mistral_are_named_and_bare() -> None:
    sound = "parts { audio { inline { data: 'abc' } format: 'wav' } }"
    body = _body(
        "mistral", f"messages {{ role: ROLE_USER parts {{ file {{ file_id: 'x' }} }} {sound} }}"
    )
    assert body["messages"][0]["content"] == [
        {"type": "file", "file_id": "x"},
        {"type": "input_audio", "input_audio": "YWJj"},
    ]


TWO_TOOLS = "tools { function { name: 'f' } } tools { function { name: 'g' } }"


@pytest.mark.parametrize("provider", ["ollama", "deepseek"])
@pytest.mark.parametrize("legacy", ["", "legacy_functions: true"])
@pytest.mark.parametrize(
    ("choice", "names"), [("MODE_REQUIRED", ["f", "g"]), ("MODE_NAMED names: 'g'", ["g"])]
)
def test_a_model_that_cannot_be_made_to_call_a_tool_is_asked_to(
    provider: str, choice: str, names: list[str], legacy: str
) -> None:
    asked = f"{_says('SYSTEM', 'be kind')} {USER} {TWO_TOOLS} {legacy}"
    body = _body(provider, f"{asked} tool_choice {{ mode: {choice} }}")
    assert [tool["function"]["name"] for tool in body["tools"]] == names
    assert body["messages"][0]["content"] == f"be kind\n\n{CALL_A_TOOL}"
    assert "tool_choice" not in body


def test_a_model_that_cannot_be_kept_from_calling_tools_is_shown_none() -> None:
    choice = "tool_choice { mode: MODE_NONE }"
    body = _body("ollama", f"{USER} {TWO_TOOLS} {choice}")
    assert not body.keys() & {"tools", "tool_choice"}
    assert _body("deepseek", f"{USER} {TWO_TOOLS} {choice}")["tool_choice"] == "none"


THOUGHT = """messages { role: ROLE_ASSISTANT
  parts { reasoning { text: 'hm' } } parts { text { text: 'a' } } }"""


@pytest.mark.parametrize(
    ("provider", "message"),
    [
        ("openai", {"content": "a"}),
        ("deepseek", {"content": "a", "reasoning_content": "hm"}),
        ("groq", {"content": "a", "reasoning": "hm"}),
        ("openrouter", {"content": "a", "reasoning": "hm"}),
        ("mistral", {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]}),
    ],
)  # fmt: skip
def test_thoughts_go_back_the_way_the_provider_asks_for(
    provider: str, message: dict[str, Any]
) -> None:
    assert _body(provider, THOUGHT)["messages"] == [{"role": "assistant", **message}]


def test_openrouter_gets_its_reasoning_details_back_verbatim() -> None:
    detail = {"type": "reasoning.encrypted", "data": "x", "index": 0}
    blob = (
        f"blobs {{ issuer: 'openai_chat' kind: 'reasoning_details' data: '{json.dumps(detail)}' }}"
    )
    foreign = "blobs { issuer: 'anthropic_messages' kind: 'signature' data: 's' }"
    said = f"messages {{ role: ROLE_ASSISTANT parts {{ reasoning {{ text: 'hm' {blob} {foreign} }} }} parts {{ text {{ text: 'a' }} }} }}"
    message = {"role": "assistant", "content": "a", "reasoning_details": [detail]}
    assert _body("openrouter", said)["messages"] == [message]


def test_a_schema_is_told_to_a_model_that_has_json_mode_alone() -> None:
    form = "response_format { kind: KIND_JSON_SCHEMA name: 'n' schema: '{\"type\":\"object\"}' }"
    body = _body("deepseek", f"{_says('SYSTEM', 'be kind')} {USER} {form}")
    assert body["response_format"] == {"type": "json_object"}
    told = body["messages"][0]["content"]
    assert told.startswith("be kind\n\n")
    assert told.endswith('{"type":"object"}')


def test_fields_that_a_family_needs_give_way_to_the_callers() -> None:
    assert _body("groq", USER, "qwen/qwen3-32b")["reasoning_format"] == "parsed"
    own = "extra { key: 'reasoning_format' value: '\"hidden\"' }"
    assert _body("groq", USER + own, "qwen/qwen3-32b")["reasoning_format"] == "hidden"
    assert "reasoning_format" not in _body("groq", USER, "openai/gpt-oss-120b")


def test_a_caller_who_switches_thinking_off_may_sample_and_force_tools() -> None:
    asked = "temperature: 0.5 tools { function { name: 'f' } } tool_choice { mode: MODE_REQUIRED }"
    thinking = _body("deepseek", USER + asked, "deepseek-v4-pro")
    assert not thinking.keys() & {"temperature", "tool_choice"}
    off = "extra { key: 'thinking' value: '{\"type\":\"disabled\"}' }"
    body = _body("deepseek", USER + asked + off, "deepseek-v4-pro")
    assert (body["temperature"], body["tool_choice"]) == (0.5, "required")
    assert _body("deepseek", USER + asked + "reasoning { effort: 'none' }", "deepseek-v4-pro")[
        "thinking"
    ] == {"type": "disabled"}


def test_several_answers_are_refused_where_one_call_gives_one() -> None:
    with pytest.raises(InferenceError) as caught:
        _body("groq", USER + "n: 2")
    assert (caught.value.reason, caught.value.param) == ("unsupported_parameter", "n")
    assert "n" not in _body("groq", USER + "n: 1")


@pytest.mark.parametrize(
    ("provider", "path"),
    [("mistral", "/chat/completions"), ("deepseek", "/beta/chat/completions")],
)
def test_a_message_is_continued_where_that_can_be_asked_for(provider: str, path: str) -> None:
    request = generation_pb2.Request()
    said = USER + _says("ASSISTANT", "Once upon", "continued: true")
    text_format.Parse(said, request.generate)
    declared = registry.provider(provider)
    call = declared.dialect.call(request, "m", declared)
    assert call.path == path
    last = json.loads(call.body)["messages"][-1]
    assert last == {"role": "assistant", "content": "Once upon", "prefix": True}


@pytest.mark.parametrize("provider", ["openai", "groq", "vllm"])
def test_elsewhere_it_is_refused_and_not_answered_anew(provider: str) -> None:
    with pytest.raises(InferenceError, match="does not continue"):
        _body(provider, USER + _says("ASSISTANT", "Once upon", "continued: true"))
