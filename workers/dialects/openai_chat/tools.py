"""Writes the hub's tools and tool choice in the chat format."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from broker.v1 import content_pb2, generation_pb2
from workers.fragments import fragment, merge

_Generate = generation_pb2.GenerateRequest
_Choice = generation_pb2.ToolChoice

_MODES = {_Choice.MODE_AUTO: "auto", _Choice.MODE_NONE: "none", _Choice.MODE_REQUIRED: "required"}


def tools_json(
    generate: _Generate, quirks: Mapping[str, str], only: Collection[str] | None = None
) -> list[Any]:
    """The field `tools`; with `only`, the tools of these names."""
    return [
        _tool(tool, f"tools[{index}]", quirks)
        for index, tool in enumerate(generate.tools)
        if only is None or (tool.function.name or tool.custom.name) in only
    ]


def functions_json(generate: _Generate) -> list[Any]:
    """The deprecated field `functions`, where a function stands without an owner."""
    written = []
    for index, tool in enumerate(generate.tools):
        extra = {name.removeprefix("function."): value for name, value in tool.extra.items()}
        function = _function(tool, f"functions[{index}]")
        written.append(merge(function, extra, f"functions[{index}]."))
    return written


def choice_json(choice: _Choice) -> Any:
    """The field `tool_choice`."""
    if choice.mode in _MODES:
        return _MODES[choice.mode]
    if choice.hosted:
        # A hosted tool, or a list of allowed ones that names alone cannot tell.
        return fragment(choice.hosted, "tool_choice")
    if choice.mode == _Choice.MODE_NAMED:
        return _named(choice.names[0] if choice.names else "", choice.kind)
    allowed = {
        "mode": "required" if choice.required else "auto",
        "tools": [_named(name, choice.kind) for name in choice.names],
    }
    return {"type": "allowed_tools", "allowed_tools": allowed}


def function_call_json(choice: _Choice) -> Any:
    """The deprecated field `function_call`, which has no word for required."""
    if choice.mode == _Choice.MODE_NONE:
        return "none"
    return {"name": choice.names[0]} if choice.names else "auto"


def _named(name: str, kind: content_pb2.ToolKind.ValueType) -> dict[str, Any]:
    word = "custom" if kind == content_pb2.TOOL_KIND_CUSTOM else "function"
    return {"type": word, word: {"name": name}}


def _tool(tool: generation_pb2.Tool, where: str, quirks: Mapping[str, str]) -> Any:
    kind = tool.WhichOneof("kind")
    if kind == "hosted":
        return fragment(tool.hosted.json, where)
    if kind == "custom":
        custom: dict[str, Any] = {"name": tool.custom.name}
        if tool.custom.HasField("description"):
            custom["description"] = tool.custom.description
        if tool.custom.format:
            custom["format"] = fragment(tool.custom.format, where + ".custom.format")
        written: dict[str, Any] = {"type": "custom", "custom": custom}
    else:
        written = {"type": "function", "function": _function(tool, where)}
        if quirks.get("tool_type") == "as given" and tool.extra.get("type") == b"null":
            del written["type"]
    if tool.cache_control and quirks.get("cache_control") == "send":
        written["cache_control"] = fragment(tool.cache_control, where + ".cache_control")
    extra = {name: value for name, value in tool.extra.items() if name != "type"}
    return merge(written, extra, where + ".")


def _function(tool: generation_pb2.Tool, where: str) -> dict[str, Any]:
    function = tool.function
    written: dict[str, Any] = {"name": function.name}
    if function.HasField("description"):
        written["description"] = function.description
    if function.parameters:
        written["parameters"] = fragment(function.parameters, where + ".function.parameters")
    if function.HasField("strict"):
        written["strict"] = function.strict
    return written
