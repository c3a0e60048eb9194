"""Writes the hub's tools and tool choice in the Responses format."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from broker.v1 import content_pb2, generation_pb2
from workers.fragments import fragment, merge

_Generate = generation_pb2.GenerateRequest
_Choice = generation_pb2.ToolChoice

_MODES = {_Choice.MODE_AUTO: "auto", _Choice.MODE_NONE: "none", _Choice.MODE_REQUIRED: "required"}
_NOTHING = {"type": "object", "properties": {}}


def tools_json(generate: _Generate, only: Collection[str] = ()) -> list[Any]:
    """The field `tools`; with `only`, the tools of these names."""
    # Where chat's functions are not strict, this format's are, unless they say otherwise.
    strict = None if generate.surface == generation_pb2.SURFACE_RESPONSES else False
    return [
        _tool(tool, f"tools[{index}]", strict)
        for index, tool in enumerate(generate.tools)
        if not only or (tool.function.name or tool.custom.name) in only
    ]


def choice_json(choice: _Choice) -> Any:
    """The field `tool_choice`."""
    if choice.mode in _MODES:
        return _MODES[choice.mode]
    if choice.hosted:
        return fragment(choice.hosted, "tool_choice")
    kind = "custom" if choice.kind == content_pb2.TOOL_KIND_CUSTOM else "function"
    tools = [{"type": kind, "name": name} for name in choice.names]
    if choice.mode == _Choice.MODE_NAMED:
        return tools[0] if tools else "auto"
    mode = "required" if choice.required else "auto"
    return {"type": "allowed_tools", "mode": mode, "tools": tools}


def _tool(tool: generation_pb2.Tool, where: str, strict: bool | None) -> Any:
    kind = tool.WhichOneof("kind")
    if kind == "hosted":
        return fragment(tool.hosted.json, where)
    written: dict[str, Any]
    if kind == "custom":
        written = {"type": "custom", "name": tool.custom.name}
        if tool.custom.HasField("description"):
            written["description"] = tool.custom.description
        if tool.custom.format:
            written["format"] = fragment(tool.custom.format, f"{where}.format")
    else:
        function = tool.function
        written = {"type": "function", "name": function.name}
        if function.HasField("description"):
            written["description"] = function.description
        written["parameters"] = (
            fragment(function.parameters, f"{where}.parameters")
            if function.parameters
            else _NOTHING
        )
        if function.HasField("strict"):
            written["strict"] = function.strict
        elif strict is not None:
            written["strict"] = strict
    extra = {name: value for name, value in tool.extra.items() if name != "type"}
    return merge(written, extra, where + ".")
