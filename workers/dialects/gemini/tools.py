"""Turns tools, tool_choice and response_format into tools, toolConfig and answer format."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.gemini.models import Family
from workers.dialects.gemini.names import ToolNames
from workers.dialects.gemini.schema import lowered, plain
from workers.parameters import Losses
from workers.standins import (
    custom_schema,
    read_json,
    schema_of,
    wants_plain_json,
    wants_schema,
)

_Choice = generation_pb2.ToolChoice
_Generate = generation_pb2.GenerateRequest

# Tools that Google runs, by the type that a caller may give: OpenAI's words and Google's own.
_HOSTED = {
    "code_interpreter": "codeExecution",
    "code_execution": "codeExecution",
    "computer_use": "computerUse",
    "enterprise_web_search": "enterpriseWebSearch",
    "file_search": "fileSearch",
    "google_maps": "googleMaps",
    "google_search": "googleSearch",
    "google_search_retrieval": "googleSearchRetrieval",
    "mcp_servers": "mcpServers",
    "url_context": "urlContext",
}
_WEB_SEARCH = re.compile(r"^web_search(_preview)?(_\d{4}_\d{2}_\d{2})?$")
_UPPER = re.compile(r"(?<!^)([A-Z])")
# What OpenAI's tools of these types say has no meaning for Google's.
_FOREIGN = ("code_interpreter", "web_search")

_MODES = {
    _Choice.MODE_AUTO: "AUTO",
    _Choice.MODE_NONE: "NONE",
    _Choice.MODE_REQUIRED: "ANY",
    _Choice.MODE_NAMED: "ANY",
}

_JSON = "application/json"

Block = dict[str, Any]


@dataclass(slots=True)
class Toolbox:
    """What goes into `tools`, `toolConfig` and `generationConfig`."""

    functions: list[Block] = field(default_factory=list)
    hosted: list[Block] = field(default_factory=list)
    mode: str = ""
    allowed: list[str] = field(default_factory=list)
    # The fields of generationConfig that say what the answer looks like.
    form: Block = field(default_factory=dict)

    @property
    def tools(self) -> list[Block]:
        """The field `tools`."""
        functions = [{"functionDeclarations": self.functions}] if self.functions else []
        return functions + self.hosted

    @property
    def config(self) -> Block:
        """The field `toolConfig`; without functions a calling mode is refused."""
        if not self.functions or not self.mode:
            return {}
        calling: Block = {"mode": self.mode}
        if self.allowed:
            calling["allowedFunctionNames"] = self.allowed
        return {"functionCallingConfig": calling}


def toolbox(request: _Generate, family: Family, names: ToolNames, losses: Losses) -> Toolbox:
    """Tools, choice and answer format together, because each limits the others."""
    box = Toolbox()
    for number, tool in enumerate(request.tools):
        _add(box, tool, f"tools[{number}]", family, names)
    if request.web_search_options:
        box.hosted.append({"googleSearch": {}})
    if box.functions and not family.combines:
        _leave_hosted(box, request, losses)
    _choose(box, request, family, names, losses)
    _shape(box, request, family, names, losses)
    return box


def _add(
    box: Toolbox, tool: generation_pb2.Tool, path: str, family: Family, names: ToolNames
) -> None:
    match tool.WhichOneof("kind"):
        case "function":
            function = tool.function
            schema = schema_of(function.parameters, f"{path}.function.parameters")
            made = _declaration(names.wire(function.name), schema, path, family)
            if function.description:
                made["description"] = function.description
            box.functions.append(made)
        case "custom":
            made = _declaration(
                names.wire(tool.custom.name), custom_schema(tool.custom), path, family
            )
            if tool.custom.description:
                made["description"] = tool.custom.description
            box.functions.append(made)
        case "hosted":
            box.hosted.append(_hosted(tool.hosted, path))
        case _:
            raise InferenceError("invalid_request", "The tool has no type.", param=path)


def _declaration(name: str, schema: Block, path: str, family: Family) -> Block:
    """A function; one that takes nothing has no schema at all."""
    made: Block = {"name": name}
    if not (schema.get("properties") or schema.keys() - {"type", "properties", "required"}):
        return made
    if family.json_schema:
        made["parametersJsonSchema"] = plain(schema)
    elif (subset := lowered(schema, f"{path}.function.parameters")).get("properties"):
        made["parameters"] = subset
    return made


def _hosted(tool: generation_pb2.HostedTool, path: str) -> Block:
    """A tool that Google runs; its settings stand under its name, or beside its type."""
    kind = _UPPER.sub(r"_\1", tool.type).lower()
    name = "googleSearch" if _WEB_SEARCH.match(kind) else _HOSTED.get(kind)
    if name is None:
        raise InferenceError(
            "unsupported_parameter", f"Gemini has no hosted tool {tool.type!r}.", param=path
        )
    given = read_json(tool.json, path) if tool.json else {}
    if not isinstance(given, dict) or kind.startswith(_FOREIGN):
        return {name: {}}
    rest = {key: value for key, value in given.items() if key != "type"}
    for key in (name, kind):
        if isinstance(rest.get(key), dict | list):
            return {name: rest[key]}
    return {name: rest}


def _choose(
    box: Toolbox, request: _Generate, family: Family, names: ToolNames, losses: Losses
) -> None:
    choice = request.tool_choice
    if choice.mode == _Choice.MODE_ALLOWED:
        allowed = {names.wire(name) for name in choice.names}
        box.functions = [made for made in box.functions if made["name"] in allowed]
        box.mode = "ANY" if choice.required else "AUTO"
    elif choice.mode == _Choice.MODE_HOSTED:
        # Google decides by itself when to search.
        losses.drop("tool_choice")
    else:
        box.mode = _MODES.get(choice.mode, "")
    if choice.mode == _Choice.MODE_NAMED:
        box.allowed = [names.wire(name) for name in choice.names]
    strict = any(tool.function.strict for tool in request.tools)
    if strict and family.validated and box.mode in ("", "AUTO"):
        box.mode = "VALIDATED"
    if box.mode == "ANY" and not box.functions:
        losses.drop("tool_choice")


def _leave_hosted(box: Toolbox, request: _Generate, losses: Losses) -> None:
    if box.hosted:
        losses.drop("web_search_options" if request.web_search_options else "tools")
        box.hosted = []


def _shape(
    box: Toolbox, request: _Generate, family: Family, names: ToolNames, losses: Losses
) -> None:
    """The answer's format; before Gemini 3 a JSON answer and tools exclude each other."""
    apart = family.combines or not (box.functions or box.hosted)
    if wants_plain_json(request):
        if apart:
            box.form = {"responseMimeType": _JSON}
        else:
            losses.drop("response_format")
    if not wants_schema(request):
        return
    if not family.combines:
        _leave_hosted(box, request, losses)
    path = "response_format.json_schema.schema"
    schema = schema_of(request.response_format.schema, path)
    if box.functions and not family.combines:
        made = _declaration(names.answer_tool, schema, path, family)
        made["description"] = request.response_format.description or "Gives the final answer."
        _answer_by_tool(box, made)
    elif family.json_schema:
        box.form = {"responseMimeType": _JSON, "responseJsonSchema": plain(schema)}
    else:
        box.form = {"responseMimeType": _JSON, "responseSchema": lowered(schema, path)}


def _answer_by_tool(box: Toolbox, made: Block) -> None:
    """Asks for the answer as the input of a function, which the decoder turns back into text."""
    if box.mode == "NONE":
        box.functions = []
    box.functions.append(made)
    if box.mode != "ANY":
        box.mode, box.allowed = "ANY", []
