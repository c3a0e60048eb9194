"""Renders what a response says of the request that it answers: settings, tools, the format.

Every key is there whatever was asked: what is unset has the value that counts then, or null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from broker.v1 import content_pb2, generation_pb2

_Generate = generation_pb2.GenerateRequest
_Choice = generation_pb2.ToolChoice
_Format = generation_pb2.ResponseFormat

_json = msgspec.json.Encoder().encode

# Name -> the value when it is unset.
_SCALARS: Mapping[str, Any] = {
    "frequency_penalty": 0.0,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "safety_identifier": None,
    "service_tier": "auto",
    "store": True,
    "temperature": 1.0,
    "top_logprobs": 0,
    "top_p": 1.0,
    "user": None,
}
_OPTIONS: Mapping[str, Any] = {
    "background": False,
    "instructions": None,
    "previous_response_id": None,
    "truncation": "disabled",
}
_MODES = {_Choice.MODE_AUTO: "auto", _Choice.MODE_NONE: "none", _Choice.MODE_REQUIRED: "required"}


def echo(request: generation_pb2.Request) -> dict[str, Any]:
    """The fields of a response object that repeat the request."""
    generate = request.generate
    options = generate.responses
    shown: dict[str, Any] = {**_SCALARS, **_OPTIONS}
    for message, names in ((generate, _SCALARS), (options, _OPTIONS)):
        shown.update({f.name: value for f, value in message.ListFields() if f.name in names})
    shown["conversation"] = {"id": options.conversation} if options.conversation else None
    shown["metadata"] = dict(generate.metadata)
    shown["prompt"] = Raw(options.prompt) if options.prompt else None
    shown["reasoning"] = _reasoning(generate.reasoning)
    shown["text"] = _text(generate)
    shown["tool_choice"] = _tool_choice(generate.tool_choice)
    shown["tools"] = [_tool(tool) for tool in generate.tools]
    return {name: shown[name] for name in sorted(shown)}


def _reasoning(options: generation_pb2.ReasoningOptions) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "effort": options.effort if options.HasField("effort") else None,
        "summary": options.summary if options.HasField("summary") else None,
    }
    shown.update({name: Raw(value) for name, value in options.extra.items()})
    return shown


def _text(generate: _Generate) -> dict[str, Any]:
    verbosity = generate.verbosity if generate.HasField("verbosity") else "medium"
    return {"format": _format(generate.response_format), "verbosity": verbosity}


def _format(form: _Format) -> Any:
    if form.kind == _Format.KIND_OTHER:
        return Raw(form.json)
    if form.kind == _Format.KIND_JSON_OBJECT:
        return {"type": "json_object"}
    if form.kind != _Format.KIND_JSON_SCHEMA:
        return {"type": "text"}
    return {
        "type": "json_schema",
        "description": form.description if form.HasField("description") else None,
        "name": form.name,
        "schema": Raw(form.schema or b"{}"),
        "strict": form.strict,
    }


def _tool_choice(choice: _Choice) -> Any:
    if choice.hosted:
        return Raw(choice.hosted)
    kind = "custom" if choice.kind == content_pb2.TOOL_KIND_CUSTOM else "function"
    if choice.mode == _Choice.MODE_NAMED and choice.names:
        return {"type": kind, "name": choice.names[0]}
    if choice.mode == _Choice.MODE_ALLOWED:
        mode = "required" if choice.required else "auto"
        tools = [{"type": kind, "name": name} for name in choice.names]
        return {"type": "allowed_tools", "mode": mode, "tools": tools}
    return _MODES.get(choice.mode, "auto")


def _tool(tool: generation_pb2.Tool) -> Any:
    kind = tool.WhichOneof("kind")
    if kind == "hosted":
        return Raw(tool.hosted.json)
    shown: dict[str, Any]
    if kind == "custom":
        custom = tool.custom
        shown = {
            "type": "custom",
            "description": custom.description if custom.HasField("description") else None,
            "format": Raw(custom.format) if custom.format else {"type": "text"},
            "name": custom.name,
        }
    else:
        function = tool.function
        shown = {
            "type": "function",
            "description": function.description if function.HasField("description") else None,
            "name": function.name,
            "parameters": Raw(function.parameters) if function.parameters else None,
            # Unlike chat, this API's functions are strict unless they say otherwise.
            "strict": function.strict if function.HasField("strict") else True,
        }
    shown.update({name: Raw(value) for name, value in tool.extra.items() if name not in shown})
    return shown
