"""Tools and the choice among them, in every form that callers use."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import text_format

from broker.translate.chat_request import parse_chat
from broker.v1 import generation_pb2


def generate(**fields: Any) -> generation_pb2.GenerateRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    return parse_chat(json.dumps(body).encode()).generate


SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"default": None}}}

TOOLS: list[tuple[dict[str, Any], str]] = [
    ({"type": "function", "function": {"name": "f"}}, 'function { name: "f" }'),
    ({"function": {"name": "f"}}, 'function { name: "f" } extra { key: "type" value: "null" }'),
    (
        {
            "type": "function",
            "function": {"name": "f", "description": "", "parameters": SCHEMA, "strict": False},
        },
        (
            'function { name: "f" description: "" strict: false parameters:'
            ' "{\\"type\\":\\"object\\",\\"properties\\":{\\"b\\":{\\"type\\":\\"string\\"},'
            '\\"a\\":{\\"default\\":null}}}" }'
        ),
    ),
    (
        {
            "type": "function",
            "function": {"name": "f", "cache_control": {"type": "ephemeral"}},
            "defer_loading": True,
        },
        (
            'function { name: "f" } extra { key: "defer_loading" value: "true" }'
            ' extra { key: "function.cache_control" value: "{\\"type\\":\\"ephemeral\\"}" }'
        ),
    ),
    (
        {"type": "function", "function": {"name": "f"}, "cache_control": {"type": "ephemeral"}},
        'function { name: "f" } cache_control: "{\\"type\\":\\"ephemeral\\"}"',
    ),
    (
        {"type": "custom", "custom": {"name": "c", "description": "d", "format": {"type": "text"}}},
        'custom { name: "c" description: "d" format: "{\\"type\\":\\"text\\"}" }',
    ),
    (
        {"type": "web_search", "filters": {"allowed_domains": ["x"]}},
        (
            'hosted { type: "web_search"'
            ' json: "{\\"type\\":\\"web_search\\",\\"filters\\":{\\"allowed_domains\\":[\\"x\\"]}}" }'
        ),
    ),
]


@pytest.mark.parametrize(("tool", "text"), TOOLS)
def test_a_tool_becomes_its_hub_tool(tool: dict[str, Any], text: str) -> None:
    tools = generate(tools=[tool]).tools
    assert list(tools) == [text_format.Parse(text, generation_pb2.Tool())]


def test_legacy_functions_are_tools_to_be_answered_in_the_legacy_way() -> None:
    hub = generate(functions=[{"name": "f", "parameters": {}}, {"name": "g"}], function_call="auto")
    assert [tool.function.name for tool in hub.tools] == ["f", "g"]
    assert hub.tools[0].function.parameters == b"{}"
    assert hub.legacy_functions
    assert hub.tool_choice.mode == generation_pb2.ToolChoice.MODE_AUTO


def test_an_empty_list_of_tools_is_no_tools() -> None:
    assert not generate(tools=[]).tools
    assert not generate(functions=[]).legacy_functions


CHOICES: list[tuple[Any, str]] = [
    ("auto", "mode: MODE_AUTO"),
    ("none", "mode: MODE_NONE"),
    ("required", "mode: MODE_REQUIRED"),
    ("any", "mode: MODE_REQUIRED"),
    ({"type": "auto"}, "mode: MODE_AUTO"),
    ({"type": "required"}, "mode: MODE_REQUIRED"),
    (
        {"type": "function", "function": {"name": "f"}},
        'mode: MODE_NAMED kind: TOOL_KIND_FUNCTION names: "f"',
    ),
    (
        {"function": {"name": "f"}},
        'mode: MODE_NAMED kind: TOOL_KIND_FUNCTION names: "f"',
    ),
    ({"type": "function", "name": "f"}, 'mode: MODE_NAMED kind: TOOL_KIND_FUNCTION names: "f"'),
    (
        {"type": "custom", "custom": {"name": "c"}},
        'mode: MODE_NAMED kind: TOOL_KIND_CUSTOM names: "c"',
    ),
    (
        {
            "type": "allowed_tools",
            "allowed_tools": {
                "mode": "required",
                "tools": [
                    {"type": "function", "function": {"name": "f"}},
                    {"type": "function", "function": {"name": "g"}},
                ],
            },
        },
        'mode: MODE_ALLOWED required: true kind: TOOL_KIND_FUNCTION names: "f" names: "g"',
    ),
    (
        {
            "type": "allowed_tools",
            "allowed_tools": {
                "mode": "auto",
                "tools": [
                    {"type": "function", "function": {"name": "f"}},
                    {"type": "mcp", "server_label": "x"},
                ],
            },
        },
        (
            'mode: MODE_ALLOWED names: "f" hosted: "{\\"type\\":\\"allowed_tools\\",'
            '\\"allowed_tools\\":{\\"mode\\":\\"auto\\",\\"tools\\":[{\\"type\\":\\"function\\",'
            '\\"function\\":{\\"name\\":\\"f\\"}},{\\"type\\":\\"mcp\\",\\"server_label\\":\\"x\\"}]}}"'
        ),
    ),
    ({"type": "web_search"}, 'mode: MODE_HOSTED hosted: "{\\"type\\":\\"web_search\\"}"'),
]


@pytest.mark.parametrize(("choice", "text"), CHOICES)
def test_a_tool_choice_becomes_its_hub_choice(choice: Any, text: str) -> None:
    wanted = text_format.Parse(text, generation_pb2.ToolChoice())
    assert generate(tool_choice=choice).tool_choice == wanted


LEGACY_CHOICES: list[tuple[Any, str]] = [
    ("auto", "mode: MODE_AUTO"),
    ("none", "mode: MODE_NONE"),
    ({"name": "f"}, 'mode: MODE_NAMED kind: TOOL_KIND_FUNCTION names: "f"'),
]


@pytest.mark.parametrize(("choice", "text"), LEGACY_CHOICES)
def test_a_legacy_function_call_becomes_its_hub_choice(choice: Any, text: str) -> None:
    hub = generate(functions=[{"name": "f"}], function_call=choice)
    assert hub.tool_choice == text_format.Parse(text, generation_pb2.ToolChoice())
    assert hub.legacy_functions
