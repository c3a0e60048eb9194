"""What stands in for features that a provider lacks, in what is sent and in what comes back; pure.

A tool whose input is free text becomes one with a single string field. An answer that has to
follow a JSON Schema becomes the input of a tool of ours, or an instruction. The answer to a request
is read with the same functions, so that nothing has to be remembered in between.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2

_Generate = generation_pb2.GenerateRequest
_Format = generation_pb2.ResponseFormat

# The one field of the schema that stands for a custom tool's free text.
CUSTOM_INPUT = "input"
# Schema of a tool that takes nothing.
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}

JSON_ONLY = (
    "Answer with one valid JSON object and nothing else: no text around it and no code fences."
)
CALL_A_TOOL = "Answer by calling a tool, not with text alone."
CALL_NO_TOOL = "Do not call any tool: answer with text."

_JSON_KINDS = (_Format.KIND_JSON_OBJECT, _Format.KIND_JSON_SCHEMA)
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")


def wants_schema(request: _Generate) -> bool:
    """Whether the answer has to follow a JSON Schema."""
    return request.response_format.kind in _JSON_KINDS and bool(request.response_format.schema)


def wants_plain_json(request: _Generate) -> bool:
    """Whether the answer has to be a JSON object of any shape."""
    return request.response_format.kind in _JSON_KINDS and not request.response_format.schema


def by_schema(schema: Any) -> str:
    """The instruction that asks for an answer by this schema."""
    return f"{JSON_ONLY} It follows this JSON Schema: {orjson.dumps(schema).decode()}"


def answer_tool_name(request: _Generate) -> str | None:
    """The tool that may stand for an answer by schema; no tool of the caller has this name."""
    if not wants_schema(request):
        return None
    name = _NOT_IN_A_NAME.sub("_", request.response_format.name)[:40] or "json_answer"
    taken = {tool.function.name or tool.custom.name for tool in request.tools}
    while name in taken:
        name += "_answer"
    return name


def custom_tool_names(request: _Generate) -> frozenset[str]:
    """Tools whose input is free text: the provider is given a tool with one field for each."""
    return frozenset(tool.custom.name for tool in request.tools if tool.HasField("custom"))


def custom_schema(tool: generation_pb2.CustomTool) -> dict[str, Any]:
    """The schema of the tool that stands for a custom one."""
    told = "The whole input of the tool as plain text."
    if tool.format:
        told += f" Its format: {tool.format.decode(errors='replace')}"
    return {
        "type": "object",
        "properties": {CUSTOM_INPUT: {"type": "string", "description": told}},
        "required": [CUSTOM_INPUT],
    }


def arguments_object(call: content_pb2.ToolCall) -> dict[str, Any]:
    """The arguments of an earlier call as an object.

    What a model broke off (finish_reason length) or wrote as something else than an object is
    kept as text: refusing it would make the conversation unusable.
    """
    if call.kind == content_pb2.TOOL_KIND_CUSTOM:
        return {CUSTOM_INPUT: call.arguments.decode(errors="replace")}
    if not call.arguments.strip():
        return {}
    try:
        value = orjson.loads(call.arguments)
    except orjson.JSONDecodeError:
        value = None
    if isinstance(value, dict):
        return value
    return {"_raw": call.arguments.decode(errors="replace")}


def schema_of(data: bytes, path: str) -> dict[str, Any]:
    """A JSON Schema of the request as an object, with the type that OpenAI implies.

    Raises `InferenceError` naming `path` for what is none.
    """
    if not data:
        return dict(NO_PARAMETERS)
    schema = read_json(data, path)
    if not isinstance(schema, dict):
        raise InferenceError("invalid_request", "The schema is not an object.", param=path)
    return schema if "type" in schema or "$ref" in schema else {"type": "object"} | schema


def read_json(data: bytes, path: str) -> Any:
    """The value of a JSON field of the request; `InferenceError` names its path if it is broken."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise InferenceError("invalid_request", f"Not valid JSON: {exc}", param=path) from exc
