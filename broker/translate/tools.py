"""Translates the tools of a chat request, and the choice among them, into the hub model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from broker.translate import wire
from broker.translate.refusals import invalid, json_text, missing
from broker.v1 import content_pb2, generation_pb2

_Choice = generation_pb2.ToolChoice
_FUNCTION = content_pb2.TOOL_KIND_FUNCTION
_CUSTOM = content_pb2.TOOL_KIND_CUSTOM

_TOOL_FIELDS = frozenset({"type", "function", "custom", "cache_control"})
_FUNCTION_FIELDS = frozenset(wire.FunctionDefinition.__struct_fields__)
_CUSTOM_FIELDS = frozenset(wire.CustomDefinition.__struct_fields__)

# "any" is what Mistral calls required.
_MODES = {
    "auto": _Choice.MODE_AUTO,
    "none": _Choice.MODE_NONE,
    "required": _Choice.MODE_REQUIRED,
    "any": _Choice.MODE_REQUIRED,
}
_KINDS = {"function": _FUNCTION, "custom": _CUSTOM}


def add_tools(
    generate: generation_pb2.GenerateRequest, tools: Sequence[wire.Tool], source: list[Any]
) -> None:
    """Add `tools`; a tool of any other type than function or custom goes on whole."""
    for index, tool in enumerate(tools):
        raw = source[index]
        hub = generate.tools.add()
        if tool.type is None and tool.function is None:
            raise missing(f"tools[{index}].type")
        if tool.type in ("function", None):
            if tool.function is None:
                raise missing(f"tools[{index}].function")
            where = f"tools[{index}].function"
            _fill_function(hub.function, tool.function, where)
            _keep_nested(hub, raw["function"], _FUNCTION_FIELDS, "function", where)
        elif tool.type == "custom":
            if tool.custom is None:
                raise missing(f"tools[{index}].custom")
            where = f"tools[{index}].custom"
            hub.custom.name = tool.custom.name
            if tool.custom.description is not None:
                hub.custom.description = tool.custom.description
            if tool.custom.format is not None:
                hub.custom.format = json_text(tool.custom.format, f"{where}.format")
            _keep_nested(hub, raw["custom"], _CUSTOM_FIELDS, "custom", where)
        else:
            hub.hosted.type = tool.type
            hub.hosted.json = json_text(raw, f"tools[{index}]")
            continue
        if tool.cache_control is not None:
            hub.cache_control = json_text(tool.cache_control, f"tools[{index}].cache_control")
        if tool.type is None:
            # Not ours to add at a provider that does without.
            hub.extra["type"] = b"null"
        for name in raw.keys() - _TOOL_FIELDS:
            if raw[name] is not None:
                hub.extra[name] = json_text(raw[name], f"tools[{index}].{name}")


def _keep_nested(
    hub: generation_pb2.Tool, raw: dict[str, Any], known: frozenset[str], owner: str, where: str
) -> None:
    """Keep unknown fields of the tool's inner object under dotted names."""
    for name in raw.keys() - known:
        if raw[name] is not None:
            hub.extra[f"{owner}.{name}"] = json_text(raw[name], f"{where}.{name}")


def _fill_function(
    hub: generation_pb2.FunctionTool, function: wire.FunctionDefinition, where: str
) -> None:
    hub.name = function.name
    if function.description is not None:
        hub.description = function.description
    if function.parameters is not None:
        hub.parameters = json_text(function.parameters, f"{where}.parameters")
    if function.strict is not None:
        hub.strict = function.strict


def add_functions(
    generate: generation_pb2.GenerateRequest,
    functions: Sequence[wire.FunctionDefinition],
    source: list[Any],
) -> None:
    """Add the legacy `functions` as tools, to be answered as `function_call`."""
    generate.legacy_functions = True
    for index, function in enumerate(functions):
        where = f"functions[{index}]"
        hub = generate.tools.add()
        _fill_function(hub.function, function, where)
        _keep_nested(hub, source[index], _FUNCTION_FIELDS, "function", where)


def choose_function(choice: generation_pb2.ToolChoice, wanted: str | dict[str, Any]) -> None:
    """Fill the choice from the legacy `function_call`."""
    if isinstance(wanted, str):
        if wanted not in ("auto", "none"):
            raise invalid(
                "function_call",
                f"Invalid value: '{wanted}'. Supported values are: 'none', 'auto', "
                "or an object with the function's name.",
            )
        choice.mode = _MODES[wanted]
        return
    choice.mode = _Choice.MODE_NAMED
    choice.kind = _FUNCTION
    choice.names.append(wanted["name"])


def choose_tool(choice: generation_pb2.ToolChoice, wanted: str | dict[str, Any]) -> None:
    """Fill the choice from `tool_choice` in any of its forms."""
    if isinstance(wanted, str):
        mode = _MODES.get(wanted)
        if mode is None:
            raise invalid(
                "tool_choice",
                f"Invalid value: '{wanted}'. Supported values are: 'none', 'auto', 'required', "
                "or an object that names a tool.",
            )
        choice.mode = mode
        return
    kind = wanted.get("type")
    if kind is None:
        if "function" not in wanted:
            raise missing("tool_choice.type")
        kind = "function"
    if not isinstance(kind, str):
        message = "Invalid type for 'tool_choice.type': expected a string."
        raise invalid("tool_choice.type", message, "invalid_type")
    if kind in _KINDS:
        choice.mode = _Choice.MODE_NAMED
        choice.kind = _KINDS[kind]
        choice.names.append(_name(wanted, kind, "tool_choice"))
    elif kind == "allowed_tools":
        _allow(choice, wanted)
    elif kind in _MODES and len(wanted) == 1:
        choice.mode = _MODES[kind]
    else:
        choice.mode = _Choice.MODE_HOSTED
        choice.hosted = json_text(wanted, "tool_choice")


def _name(wanted: dict[str, Any], kind: str, where: str) -> str:
    """The tool's name: nested as on chat, or flat as the Responses API has it."""
    inner = wanted.get(kind)
    param = f"{where}.{kind}"
    if inner is None:
        if "name" not in wanted:
            raise missing(param)
        inner, param = wanted, where
    if not isinstance(inner, dict):
        message = f"Invalid type for '{param}': expected an object."
        raise invalid(param, message, "invalid_type")
    name = inner.get("name")
    if name is None:
        raise missing(f"{param}.name")
    if not isinstance(name, str):
        message = f"Invalid type for '{param}.name': expected a string."
        raise invalid(f"{param}.name", message, "invalid_type")
    return name


def _allow(choice: generation_pb2.ToolChoice, wanted: dict[str, Any]) -> None:
    where = "tool_choice.allowed_tools"
    allowed = wanted.get("allowed_tools")
    if allowed is None and "tools" in wanted:  # flat, as the Responses API has it
        where, allowed = "tool_choice", wanted
    if not isinstance(allowed, dict):
        raise missing(where)
    mode, tools = allowed.get("mode"), allowed.get("tools")
    if mode not in ("auto", "required"):
        message = f"Invalid '{where}.mode'. Supported values are: 'auto', 'required'."
        raise invalid(f"{where}.mode", message)
    if not isinstance(tools, list):
        raise missing(f"{where}.tools")
    choice.mode = _Choice.MODE_ALLOWED
    choice.required = mode == "required"
    kinds = set()
    for index, tool in enumerate(tools):
        param = f"{where}.tools[{index}]"
        if not isinstance(tool, dict):
            message = f"Invalid type for '{param}': expected an object."
            raise invalid(param, message, "invalid_type")
        kind = tool.get("type")
        kinds.add(kind if isinstance(kind, str) else "")
        if kind in _KINDS:
            choice.names.append(_name(tool, kind, param))
    if len(kinds) == 1 and kinds <= _KINDS.keys():
        choice.kind = _KINDS[kinds.pop()]
    else:
        # Names alone cannot tell a mixed list; a dialect that knows it takes the whole.
        choice.hosted = json_text(wanted, "tool_choice")
