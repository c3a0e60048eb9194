"""Turns tools, tool_choice and response_format into Cohere's, because each limits the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.parameters import Action, Losses, Row
from workers.standins import (
    CALL_A_TOOL,
    JSON_ONLY,
    answer_tool_name,
    by_schema,
    custom_schema,
    schema_of,
    wants_plain_json,
    wants_schema,
)

_Generate = generation_pb2.GenerateRequest
_Choice = generation_pb2.ToolChoice
_Format = generation_pb2.ResponseFormat

_ONE_TOOL = (_Choice.MODE_NAMED, _Choice.MODE_HOSTED)
_FORCING = (_Choice.MODE_REQUIRED, *_ONE_TOOL)
# Without a mention of it the model may write blanks up to the limit.
_MENTION = "json"


@dataclass(slots=True)
class Toolbox:
    """The fields of the body, and what to tell the model where there is no field."""

    fields: dict[str, Any] = field(default_factory=dict)
    instructions: list[str] = field(default_factory=list)


def toolbox(
    request: _Generate, rows: Mapping[str, Row], has_documents: bool, losses: Losses
) -> Toolbox:
    """Tools, choice and answer format together; `rows` are those of the model's family."""
    if request.response_format.kind == _Format.KIND_OTHER:
        raise InferenceError(
            "unsupported_parameter",
            "Cohere takes the response formats text, json_object and json_schema.",
            param="response_format.type",
        )
    box = Toolbox()
    tools = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(request.tools)]
    forces = rows["tool_choice=required"].action is Action.MAP
    choice = _choose(box, request, tools, losses, forces=forces)
    _form(box, request, tools, choice, alone=not (tools or has_documents), forces=forces)
    if tools:
        box.fields["tools"] = tools
        if choice and forces:
            box.fields["tool_choice"] = choice
        _keep_strict(box, request, losses)
    return box


def _tool(tool: generation_pb2.Tool, path: str) -> dict[str, Any]:
    match tool.WhichOneof("kind"):
        case "function":
            name, told = tool.function.name, tool.function.description
            parameters = schema_of(tool.function.parameters, f"{path}.function.parameters")
        case "custom":
            name, told = tool.custom.name, tool.custom.description
            parameters = custom_schema(tool.custom)
        case _:
            raise InferenceError(
                "unsupported_parameter",
                f"Cohere has no hosted tool {tool.hosted.type!r}.",
                param=path,
            )
    return _function(name, told, parameters)


def _function(name: str, told: str, parameters: dict[str, Any]) -> dict[str, Any]:
    function: dict[str, Any] = {"name": name}
    if told:
        function["description"] = told
    function["parameters"] = parameters
    return {"type": "function", "function": function}


def _choose(
    box: Toolbox, request: _Generate, tools: list[dict[str, Any]], losses: Losses, *, forces: bool
) -> str:
    """Cohere's word for the choice, "" for its default; narrows `tools` to those meant."""
    choice = request.tool_choice
    mode = choice.mode
    must = choice.required if mode == _Choice.MODE_ALLOWED else mode in _FORCING
    if mode in (*_ONE_TOOL, _Choice.MODE_ALLOWED):
        tools[:] = _only(tools, choice.names)
    if not tools:
        if must:
            losses.drop("tool_choice")
        return ""
    if mode == _Choice.MODE_NONE:
        if not forces:
            tools.clear()
        return "NONE"
    if must and not forces:
        box.instructions.append(CALL_A_TOOL)
    return "REQUIRED" if must else ""


def _only(tools: list[dict[str, Any]], names: Iterable[str]) -> list[dict[str, Any]]:
    wanted = set(names)
    return [tool for tool in tools if tool["function"]["name"] in wanted]


def _form(
    box: Toolbox,
    request: _Generate,
    tools: list[dict[str, Any]],
    choice: str,
    *,
    alone: bool,
    forces: bool,
) -> None:
    """Cohere refuses response_format beside tools and documents."""
    if wants_plain_json(request):
        if alone:
            box.fields["response_format"] = {"type": "json_object"}
        if not alone or not _mentions_json(request):
            box.instructions.append(JSON_ONLY)
    elif wants_schema(request):
        form = request.response_format
        schema = schema_of(form.schema, "response_format.json_schema.schema")
        if alone:
            box.fields["response_format"] = {"type": "json_object", "json_schema": schema}
        elif tools and forces and choice != "NONE":
            told = form.description or "Gives the final answer."
            tools.append(_function(answer_tool_name(request) or "", told, schema))
            # Text without a call would be no answer by the schema.
            box.fields["tool_choice"] = "REQUIRED"
        else:
            box.instructions.append(by_schema(schema))


def _mentions_json(request: _Generate) -> bool:
    return any(
        _MENTION in part.text.text.lower()
        for message in request.messages
        for part in message.parts
        if part.HasField("text")
    )


def _keep_strict(box: Toolbox, request: _Generate, losses: Losses) -> None:
    """Cohere's switch is one for all tools."""
    strict = [tool.function.strict for tool in request.tools]
    if all(strict):
        box.fields["strict_tools"] = True
    elif any(strict):
        losses.drop("tools[].function.strict")
