"""Turns tools, tool_choice and response_format into Claude's tools, choice and output format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.anthropic_messages.blocks import Block, is_own, known_fields
from workers.dialects.anthropic_messages.models import Family
from workers.parameters import Losses
from workers.standins import (
    CALL_A_TOOL,
    JSON_ONLY,
    NO_PARAMETERS,
    answer_tool_name,
    custom_schema,
    read_json,
    schema_of,
    wants_plain_json,
    wants_schema,
)
from workers.strictschema import fits_strict_limits, strict_schema

_Choice = generation_pb2.ToolChoice
_Format = generation_pb2.ResponseFormat

# Claude's own tools end in a date, such as web_search_20250305.
_SERVER_TOOL = re.compile(r"_\d{8}$|^mcp_toolset$")
_OPENAI_WEB_SEARCH = re.compile(r"^web_search(_preview)?(_\d{4}_\d{2}_\d{2})?$")
_WEB_SEARCH: Block = {"type": "web_search_20250305", "name": "web_search"}
_TOOL_FIELDS = ("allowed_callers", "defer_loading", "eager_input_streaming", "input_examples")
_ONE_TOOL = (_Choice.MODE_NAMED, _Choice.MODE_HOSTED)
_FORCING = (_Choice.MODE_REQUIRED, *_ONE_TOOL)


@dataclass(slots=True)
class Toolbox:
    """What goes into `tools`, `tool_choice` and `output_config.format`, and what to tell Claude."""

    tools: list[Block] = field(default_factory=list)
    choice: Block | None = None
    format: Block | None = None
    # To be added to the system prompt where the API has no parameter for it.
    instructions: list[str] = field(default_factory=list)

    @property
    def is_forced(self) -> bool:
        """Whether a tool has to be called; thinking with a budget refuses that."""
        return self.choice is not None and self.choice["type"] in ("any", "tool")


def toolbox(
    request: generation_pb2.GenerateRequest,
    family: Family,
    losses: Losses,
    called: Sequence[str] = (),
    *,
    searches: bool = True,
) -> Toolbox:
    """Tools, choice and answer format together, because each limits the others.

    `called` are the tools that the history calls: it may not do so without any definition.
    `searches` says whether the platform has Claude's web search.
    """
    box = Toolbox(tools=_tools(request))
    if request.web_search_options and searches:
        box.tools.append(_asked_search(request))
    elif request.web_search_options:
        losses.drop("web_search_options")
    answer = request.response_format
    if answer.kind == _Format.KIND_OTHER:
        raise InferenceError(
            "unsupported_parameter",
            "Claude takes the response formats text, json_object and json_schema.",
            param="response_format.type",
        )
    if wants_plain_json(request):
        box.instructions.append(JSON_ONLY)
    schema = None
    if wants_schema(request):
        schema = schema_of(answer.schema, "response_format.json_schema.schema")
    if schema is not None and family.structured:
        box.format = {"type": "json_schema", "schema": strict_schema(schema)}
    _keep_strict(box, family, losses)
    _choose(box, request, family, losses)
    if called and not box.tools:
        box.tools = [{"name": name, "input_schema": dict(NO_PARAMETERS)} for name in called]
        box.choice = {"type": "none"}
    if schema is not None and not family.structured:
        _answer_by_tool(box, request, schema)
    if request.HasField("parallel_tool_calls") and not request.parallel_tool_calls and box.tools:
        box.choice = box.choice or {"type": "auto"}
        if box.choice["type"] != "none":
            box.choice["disable_parallel_tool_use"] = True
    return box


def _tools(request: generation_pb2.GenerateRequest) -> list[Block]:
    tools = []
    for number, tool in enumerate(request.tools):
        path = f"tools[{number}]"
        match tool.WhichOneof("kind"):
            case "function":
                written = _function(tool.function, path)
            case "custom":
                written = _custom(tool.custom)
            case "hosted":
                written = _hosted(tool.hosted, path, verbatim=is_own(request))
            case _:
                raise InferenceError("invalid_request", "The tool has no type.", param=path)
        if is_own(request):
            written |= {name: read_json(data, path) for name, data in tool.extra.items()}
        else:
            written |= known_fields(tool.extra, "function", _TOOL_FIELDS, path)
        if tool.cache_control:
            written["cache_control"] = read_json(tool.cache_control, f"{path}.cache_control")
        tools.append(written)
    return tools


def _asked_search(request: generation_pb2.GenerateRequest) -> Block:
    options = read_json(request.web_search_options, "web_search_options")
    place = options.get("user_location") if isinstance(options, dict) else None
    place = place.get("approximate") if isinstance(place, dict) else None
    return _web_search(place)


def _function(tool: generation_pb2.FunctionTool, path: str) -> Block:
    written: Block = {"name": tool.name}
    if tool.description:
        written["description"] = tool.description
    written["input_schema"] = schema_of(tool.parameters, f"{path}.function.parameters")
    if tool.strict:
        written["strict"] = True
    return written


def _custom(tool: generation_pb2.CustomTool) -> Block:
    written: Block = {"name": tool.name}
    if tool.description:
        written["description"] = tool.description
    written["input_schema"] = custom_schema(tool)
    return written


def _hosted(tool: generation_pb2.HostedTool, path: str, *, verbatim: bool) -> Block:
    wanted = read_json(tool.json, path) if tool.json else {"type": tool.type}
    if isinstance(wanted, dict):
        if verbatim or _SERVER_TOOL.search(tool.type):
            return wanted
        if _OPENAI_WEB_SEARCH.match(tool.type):
            search = _web_search(wanted.get("user_location"))
            domains = (wanted.get("filters") or {}).get("allowed_domains")
            return search | ({"allowed_domains": domains} if domains else {})
    raise InferenceError(
        "unsupported_parameter", f"Claude has no hosted tool {tool.type!r}.", param=path
    )


def _web_search(place: Any) -> Block:
    if not isinstance(place, dict):
        return dict(_WEB_SEARCH)
    return _WEB_SEARCH | {"user_location": {"type": "approximate"} | place}


def _keep_strict(box: Toolbox, family: Family, losses: Losses) -> None:
    """Closes the schemas of strict tools, or makes the tools lax where they cannot be strict."""
    strict = [tool for tool in box.tools if tool.get("strict") and "input_schema" in tool]
    if not strict:
        return
    for tool in strict:
        tool["lax_schema"] = tool["input_schema"]
        tool["input_schema"] = strict_schema(tool["input_schema"])
    schemas = [tool["input_schema"] for tool in strict]
    if box.format is not None:
        schemas.append(box.format["schema"])
    fits = family.structured and fits_strict_limits(schemas)
    for tool in strict:
        lax = tool.pop("lax_schema")
        if not fits:
            del tool["strict"]
            tool["input_schema"] = lax
    if not fits:
        losses.drop("tools[].function.strict")


def _choose(
    box: Toolbox, request: generation_pb2.GenerateRequest, family: Family, losses: Losses
) -> None:
    choice = request.tool_choice
    mode = choice.mode
    if mode == _Choice.MODE_UNSPECIFIED:
        return
    must = choice.required if mode == _Choice.MODE_ALLOWED else mode in _FORCING
    if not box.tools:
        if must:
            losses.drop("tool_choice")
        return
    name = _hosted_name(choice) if mode == _Choice.MODE_HOSTED else next(iter(choice.names), "")
    if mode == _Choice.MODE_ALLOWED:
        box.tools = _only(box.tools, choice.names)
    if mode == _Choice.MODE_NONE:
        box.choice = {"type": "none"}
    elif not must:
        box.choice = {"type": "auto"}
    elif not family.forced_tools:
        # Offering nothing else and saying so is all that is left.
        losses.drop("tool_choice")
        box.choice = {"type": "auto"}
        if mode in _ONE_TOOL:
            box.tools = _only(box.tools, [name])
        box.instructions.append(CALL_A_TOOL)
    elif mode in _ONE_TOOL:
        box.choice = {"type": "tool", "name": name}
    else:
        box.choice = {"type": "any"}


def _only(tools: list[Block], names: Iterable[str]) -> list[Block]:
    wanted = set(names)
    return [tool for tool in tools if tool.get("name") in wanted]


def _hosted_name(choice: generation_pb2.ToolChoice) -> str:
    wanted = read_json(choice.hosted, "tool_choice") if choice.hosted else {}
    if not isinstance(wanted, dict):
        return ""
    kind = str(wanted.get("type", ""))
    return str(wanted.get("name") or ("web_search" if _OPENAI_WEB_SEARCH.match(kind) else kind))


def _answer_by_tool(box: Toolbox, request: generation_pb2.GenerateRequest, schema: Block) -> None:
    """Asks for the answer as the input of a tool, which the decoder turns back into text."""
    name = answer_tool_name(request) or ""
    may_call = bool(box.tools) and (box.choice is None or box.choice["type"] != "none")
    box.tools.append(
        {
            "name": name,
            "description": request.response_format.description or "Gives the final answer.",
            "input_schema": schema,
        }
    )
    if not may_call:
        box.choice = {"type": "tool", "name": name, "disable_parallel_tool_use": True}
    elif box.choice is None or box.choice["type"] == "auto":
        box.choice = {"type": "any"}
