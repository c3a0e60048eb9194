"""Mistakes in the body of POST /v1/responses, with the path and the code that callers are told."""

from __future__ import annotations

import json
from typing import Any

MISSING = "missing_required_parameter"
TYPE = "invalid_type"
VALUE = "invalid_value"
ABOVE = "integer_above_max_value"
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "x"}
SCHEMA = {"type": "json_schema", "name": "n", "schema": {}}


def body(fields: dict[str, Any]) -> dict[str, Any]:
    """A whole body; fields given as None are left out."""
    whole = {"model": "sim/echo", "input": "hello"} | fields
    return {name: value for name, value in whole.items() if value is not None}


def said(content: Any, role: str = "user") -> dict[str, Any]:
    return {"input": [{"role": role, "content": content}]}


def part(**fields: Any) -> dict[str, Any]:
    return said([fields])


def tool(**fields: Any) -> dict[str, Any]:
    return {"tools": [fields]}


# Name -> fields of the body, the path, the code.
MISTAKES: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "no model": ({"model": None}, "model", MISSING),
    "model of another type": ({"model": 1}, "model", TYPE),
    "no input": ({"input": None}, "input", MISSING),
    "empty input": ({"input": []}, "input", MISSING),
    "input of another type": ({"input": 1}, "input", TYPE),
    "item of another type": ({"input": ["x"]}, "input[0]", TYPE),
    "item without a type": ({"input": [{"id": "x"}]}, "input[0].type", MISSING),
    "unknown item": ({"input": [{"type": "x"}]}, "input[0].type", VALUE),
    "type of an item of another type": ({"input": [{"type": 1}]}, "input[0].type", VALUE),
    "reference without an id": ({"input": [{"type": "item_reference"}]}, "input[0].id", MISSING),
    "message without a role": (
        {"input": [{"type": "message", "content": "x"}]},
        "input[0].role",
        MISSING,
    ),
    "unknown role": (said("x", "tool"), "input[0].role", VALUE),
    "message without content": ({"input": [{"role": "user"}]}, "input[0].content", MISSING),
    "content of another type": (said(1), "input[0].content", TYPE),
    "part of another type": (said(["x"]), "input[0].content[0]", TYPE),
    "part without a type": (part(text="x"), "input[0].content[0].type", MISSING),
    "unknown part": (part(type="x"), "input[0].content[0].type", VALUE),
    "chat's part": (part(type="text", text="x"), "input[0].content[0].type", VALUE),
    "text without text": (part(type="input_text"), "input[0].content[0].text", MISSING),
    "text of another type": (part(type="input_text", text=1), "input[0].content[0].text", TYPE),
    "refusal without text": (
        said([{"type": "refusal"}], "assistant"),
        "input[0].content[0].refusal",
        MISSING,
    ),
    "image without a source": (part(type="input_image"), "input[0].content[0].image_url", MISSING),
    "image as chat has it": (
        part(type="input_image", image_url={"url": "x"}),
        "input[0].content[0].image_url",
        TYPE,
    ),
    "image that is no base64": (
        part(type="input_image", image_url="data:image/png;base64,?"),
        "input[0].content[0].image_url",
        "invalid_base64",
    ),
    "detail of another type": (
        part(type="input_image", image_url="https://a.b/c.png", detail=1),
        "input[0].content[0].detail",
        TYPE,
    ),
    "file without a source": (part(type="input_file"), "input[0].content[0].file_data", MISSING),
    "file that is no base64": (
        part(type="input_file", file_data="?"),
        "input[0].content[0].file_data",
        "invalid_base64",
    ),
    "audio without data": (part(type="input_audio"), "input[0].content[0].input_audio", MISSING),
    "audio of another type": (
        part(type="input_audio", input_audio="x"),
        "input[0].content[0].input_audio",
        TYPE,
    ),
    "audio without a format": (
        part(type="input_audio", input_audio={"data": "aGk="}),
        "input[0].content[0].input_audio.format",
        MISSING,
    ),
    "call without an id": (
        {"input": [{**CALL, "call_id": None}, OUTPUT]},
        "input[0].call_id",
        MISSING,
    ),
    "call without a name": ({"input": [{**CALL, "name": None}]}, "input[0].name", MISSING),
    "call without arguments": (
        {"input": [{**CALL, "arguments": None}]},
        "input[0].arguments",
        MISSING,
    ),
    "arguments of another type": (
        {"input": [{**CALL, "arguments": {}}]},
        "input[0].arguments",
        TYPE,
    ),
    "call without its output": ({"input": [CALL]}, "input", None),
    "output without its call": ({"input": [OUTPUT]}, "input", None),
    "output without an id": (
        {"input": [CALL, {**OUTPUT, "call_id": None}]},
        "input[1].call_id",
        MISSING,
    ),
    "output without output": (
        {"input": [CALL, {**OUTPUT, "output": None}]},
        "input[1].output",
        MISSING,
    ),
    "output of another type": ({"input": [CALL, {**OUTPUT, "output": 1}]}, "input[1].output", TYPE),
    "custom call without input": (
        {"input": [{"type": "custom_tool_call", "call_id": "c", "name": "f"}]},
        "input[0].input",
        MISSING,
    ),
    "summary of another type": (
        {"input": [{"type": "reasoning", "summary": "x"}]},
        "input[0].summary",
        TYPE,
    ),
    "summary without text": (
        {"input": [{"type": "reasoning", "summary": [{}]}]},
        "input[0].summary[0].text",
        MISSING,
    ),
    "damaged state": (
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "mlr1.AAAA"}]},
        "input[0].encrypted_content",
        "invalid_encrypted_content",
    ),
    "instructions of another type": ({"instructions": 1}, "instructions", TYPE),
    "stream of another type": ({"stream": "yes"}, "stream", TYPE),
    "stream options without a stream": ({"stream_options": {}}, "stream_options", VALUE),
    "background of another type": ({"background": 1}, "background", TYPE),
    "store of another type": ({"store": 1}, "store", TYPE),
    "background that is not stored": ({"background": True, "store": False}, "background", VALUE),
    "include of another type": ({"include": "x"}, "include", TYPE),
    "unknown include": ({"include": ["x"]}, "include[0]", VALUE),
    "unknown truncation": ({"truncation": "x"}, "truncation", VALUE),
    "too hot": ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
    "too cold": ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
    "top_p above": ({"top_p": 1.1}, "top_p", "decimal_above_max_value"),
    "top_logprobs above": ({"top_logprobs": 21}, "top_logprobs", ABOVE),
    "top_logprobs below": ({"top_logprobs": -1}, "top_logprobs", "integer_below_min_value"),
    "no tokens": ({"max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value"),
    "tokens of another type": ({"max_output_tokens": "9"}, "max_output_tokens", TYPE),
    "no tool calls": ({"max_tool_calls": 0}, "max_tool_calls", "integer_below_min_value"),
    "parallel of another type": ({"parallel_tool_calls": 1}, "parallel_tool_calls", TYPE),
    "tools of another type": ({"tools": {}}, "tools", TYPE),
    "tool without a type": (tool(name="f"), "tools[0].type", MISSING),
    "function without a name": (tool(type="function"), "tools[0].name", MISSING),
    "function as chat has it": (
        tool(type="function", function={"name": "f"}),
        "tools[0].name",
        MISSING,
    ),
    "parameters of another type": (
        tool(type="function", name="f", parameters=1),
        "tools[0].parameters",
        TYPE,
    ),
    "custom tool without a name": (tool(type="custom"), "tools[0].name", MISSING),
    "too many tools": (
        {"tools": [{"type": "function", "name": "f"}] * 129},
        "tools",
        "array_above_max_length",
    ),
    "unknown tool choice": ({"tool_choice": "x"}, "tool_choice", VALUE),
    "text of a wrong type": ({"text": "x"}, "text", TYPE),
    "unknown verbosity": ({"text": {"verbosity": "x"}}, "text.verbosity", VALUE),
    "format without a type": ({"text": {"format": {}}}, "text.format.type", MISSING),
    "unknown format": ({"text": {"format": {"type": "x"}}}, "text.format.type", VALUE),
    "schema without a name": (
        {"text": {"format": {**SCHEMA, "name": None}}},
        "text.format.name",
        MISSING,
    ),
    "schema without a schema": (
        {"text": {"format": {**SCHEMA, "schema": None}}},
        "text.format.schema",
        MISSING,
    ),
    "schema of another type": (
        {"text": {"format": {**SCHEMA, "schema": []}}},
        "text.format.schema",
        TYPE,
    ),
    "chat's schema": (
        {"text": {"format": {"type": "json_schema", "json_schema": {}}}},
        "text.format.name",
        MISSING,
    ),
    "reasoning of another type": ({"reasoning": "high"}, "reasoning", TYPE),
    "effort of another type": ({"reasoning": {"effort": 1}}, "reasoning.effort", TYPE),
    "unknown summary": ({"reasoning": {"summary": "x"}}, "reasoning.summary", VALUE),
    "no response's id": ({"previous_response_id": "x"}, "previous_response_id", VALUE),
    "no conversation's id": ({"conversation": "x"}, "conversation", VALUE),
    "conversation without an id": ({"conversation": {}}, "conversation.id", MISSING),
    "both to go on from": (
        {"previous_response_id": "resp_x", "conversation": "conv_x"},
        "conversation",
        "mutually_exclusive_parameters",
    ),
    "metadata of another type": ({"metadata": {"a": 1}}, "metadata", TYPE),
    "too much metadata": (
        {"metadata": {str(number): "" for number in range(17)}},
        "metadata",
        "object_above_max_properties",
    ),
    "long metadata": ({"metadata": {"a": "x" * 513}}, "metadata.a", "string_above_max_length"),
    "long name of metadata": (
        {"metadata": {"a" * 65: "x"}},
        "metadata." + "a" * 64,
        "string_above_max_length",
    ),
    "prompt of another type": ({"prompt": "x"}, "prompt", TYPE),
}
# Seen only when it is asked where it can go on from, or by whoever answers.
LATER: dict[str, tuple[dict[str, Any], str, str | None]] = {
    name: MISTAKES.pop(name) for name in ("background that is not stored",)
} | {
    "unknown model": ({"model": "nobody/x"}, "model", "model_not_found"),
    "unknown response": (
        {"previous_response_id": "resp_x"},
        "previous_response_id",
        "previous_response_not_found",
    ),
    "template that a provider does not have": (
        {"prompt": {"id": "pmpt_1"}},
        "prompt",
        None,
    ),
}
TEXTS = {"not JSON": b"{", "not an object": b"[]", "empty": b""}


def encoded(fields: dict[str, Any]) -> bytes:
    return json.dumps(body(fields)).encode()
