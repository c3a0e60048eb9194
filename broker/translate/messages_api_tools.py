"""Translates tools and tool_choice of the Messages API into the hub's."""

from __future__ import annotations

from typing import Any

from broker.translate import fields
from broker.translate.refusals import invalid, json_text, missing
from broker.v1 import content_pb2, generation_pb2

_Choice = generation_pb2.ToolChoice
_TYPED = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control"})
_MODES = {
    "auto": _Choice.MODE_AUTO,
    "any": _Choice.MODE_REQUIRED,
    "tool": _Choice.MODE_NAMED,
    "none": _Choice.MODE_NONE,
}


def add_tools(generate: generation_pb2.GenerateRequest, tools: list[dict[str, Any]]) -> None:
    """Add the caller's own tools, typed, and those that the provider knows or runs, whole."""
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        kind = fields.text(tool, "type", where, default="custom")
        hub = generate.tools.add()
        if kind != "custom":
            hub.hosted.type = kind
            hub.hosted.json = json_text(tool, where)
            continue
        function = hub.function
        function.name = fields.text(tool, "name", where)
        if not function.name:
            raise invalid(f"{where}.name", f"Invalid '{where}.name': empty string.", "empty_string")
        if tool.get("description") is not None:
            function.description = fields.text(tool, "description", where)
        schema = tool.get("input_schema")
        if schema is None:
            raise missing(f"{where}.input_schema")
        if not isinstance(schema, dict):
            raise fields.wrong(f"{where}.input_schema", "an object")
        function.parameters = json_text(schema, f"{where}.input_schema")
        if (strict := tool.get("strict")) is not None:
            if not isinstance(strict, bool):
                raise fields.wrong(f"{where}.strict", "a boolean")
            function.strict = strict
        if (mark := tool.get("cache_control")) is not None:
            hub.cache_control = json_text(mark, f"{where}.cache_control")
        for name in tool.keys() - _TYPED:
            if tool[name] is not None:
                hub.extra[name] = json_text(tool[name], f"{where}.{name}")


def choose_tool(generate: generation_pb2.GenerateRequest, choice: dict[str, Any]) -> None:
    """Write which tools may or have to be called, and whether several at once."""
    kind = fields.text(choice, "type", "tool_choice")
    if kind not in _MODES:
        known = ", ".join(f"'{word}'" for word in _MODES)
        message = f"Invalid value: {kind!r:.60}. Supported values are: {known}."
        raise invalid("tool_choice.type", message)
    generate.tool_choice.mode = _MODES[kind]
    if kind == "tool":
        generate.tool_choice.names.append(fields.text(choice, "name", "tool_choice"))
        generate.tool_choice.kind = content_pb2.TOOL_KIND_FUNCTION
    alone = choice.get("disable_parallel_tool_use")
    if alone is None:
        return
    if not isinstance(alone, bool):
        raise fields.wrong("tool_choice.disable_parallel_tool_use", "a boolean")
    generate.parallel_tool_calls = not alone
