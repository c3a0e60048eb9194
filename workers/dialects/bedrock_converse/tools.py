"""Turns tools, tool_choice and response_format into Converse's, because each limits the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.bedrock_converse.blocks import Writer
from workers.dialects.bedrock_converse.conversation import Conversation
from workers.dialects.bedrock_converse.families import Facts
from workers.dialects.bedrock_converse.media import Block
from workers.parameters import Action, Losses, Row
from workers.standins import (
    CALL_A_TOOL,
    CALL_NO_TOOL,
    JSON_ONLY,
    NO_PARAMETERS,
    answer_tool_name,
    by_schema,
    custom_schema,
    schema_of,
    wants_plain_json,
    wants_schema,
)
from workers.strictschema import fits_strict_limits, strict_schema

_Generate = generation_pb2.GenerateRequest
_Choice = generation_pb2.ToolChoice
_Format = generation_pb2.ResponseFormat

_ONE_TOOL = (_Choice.MODE_NAMED, _Choice.MODE_HOSTED)
_AUTO: Block = {"auto": {}}
_FORCING = (_Choice.MODE_REQUIRED, *_ONE_TOOL)


@dataclass(slots=True)
class Toolbox:
    """What goes into the body, and what to tell the model where there is no field."""

    tools: list[Block] = field(default_factory=list)
    # Converse's own form, {"any": {}} and such.
    choice: Block | None = None
    # Claude's tool_choice, which stands in for Converse's.
    own_choice: Block | None = None
    form: Block | None = None
    instructions: list[str] = field(default_factory=list)

    @property
    def is_forced(self) -> bool:
        """Whether a tool has to be called."""
        own = (self.own_choice or {}).get("type") in ("any", "tool")
        return own or (self.choice is not None and "auto" not in self.choice)


def toolbox(
    request: _Generate,
    rows: Mapping[str, Row],
    facts: Facts,
    said: Conversation,
    losses: Losses,
) -> Toolbox:
    """Tools, choice and answer format together; `rows` are those of the model's family."""
    if request.response_format.kind == _Format.KIND_OTHER:
        raise InferenceError(
            "unsupported_parameter",
            "Bedrock takes the response formats text, json_object and json_schema.",
            param="response_format.type",
        )
    box = Toolbox([_tool(tool, f"tools[{n}]") for n, tool in enumerate(request.tools)])
    forces = rows["tool_choice=required"].action is Action.MAP
    _choose(box, request, said, losses, forces=forces)
    if box.choice == _AUTO and rows["tool_choice=auto"].action is not Action.MAP:
        box.choice = None
    if said.called_tools and not box.tools:
        # A history with calls needs definitions.
        box.tools = [_spec(name, "", dict(NO_PARAMETERS)) for name in said.called_tools]
        _forbid(box, facts)
    elif request.tool_choice.mode == _Choice.MODE_NONE and box.tools:
        _forbid(box, facts)
    native = rows["response_format=json_schema"].action is Action.MAP
    _form(box, request, native=native, forces=forces)
    _keep_strict(box, losses, supported=facts.strict)
    if request.HasField("parallel_tool_calls") and not request.parallel_tool_calls:
        _one_at_a_time(box, facts)
    _mark(box, request, facts)
    return box


def _tool(tool: generation_pb2.Tool, path: str) -> Block:
    match tool.WhichOneof("kind"):
        case "function":
            schema = schema_of(tool.function.parameters, f"{path}.function.parameters")
            spec = _spec(tool.function.name, tool.function.description, schema)
            if tool.function.strict:
                spec["toolSpec"]["strict"] = True
            return spec
        case "custom":
            return _spec(tool.custom.name, tool.custom.description, custom_schema(tool.custom))
        case _:
            raise InferenceError(
                "unsupported_parameter",
                f"Bedrock has no hosted tool {tool.hosted.type!r}.",
                param=path,
            )


def _spec(name: str, told: str, schema: Block) -> Block:
    spec: Block = {"name": name}
    if told.strip():
        spec["description"] = told
    return {"toolSpec": spec | {"inputSchema": {"json": schema}}}


def _choose(
    box: Toolbox, request: _Generate, said: Conversation, losses: Losses, *, forces: bool
) -> None:
    choice = request.tool_choice
    mode = choice.mode
    must = choice.required if mode == _Choice.MODE_ALLOWED else mode in _FORCING
    one = mode in _ONE_TOOL
    if mode == _Choice.MODE_ALLOWED or (one and not forces):
        box.tools = _only(box.tools, choice.names)
    if mode == _Choice.MODE_NONE and not said.uses_tools:
        box.tools = []
    if not box.tools:
        if must:
            losses.drop("tool_choice")
        return
    if must and not forces:
        box.instructions.append(CALL_A_TOOL)
    elif must:
        named = next(iter(choice.names), "") if one else ""
        box.choice = {"tool": {"name": named}} if named else {"any": {}}
    elif mode in (_Choice.MODE_AUTO, _Choice.MODE_ALLOWED):
        box.choice = dict(_AUTO)


def _only(tools: list[Block], names: Iterable[str]) -> list[Block]:
    wanted = set(names)
    return [tool for tool in tools if tool["toolSpec"]["name"] in wanted]


def _forbid(box: Toolbox, facts: Facts) -> None:
    """Tools that the history needs and that may not be called: Converse has no choice for it."""
    box.choice = None
    if facts.claude is not None:
        box.own_choice = {"type": "none"}
    else:
        box.instructions.append(CALL_NO_TOOL)


def _form(box: Toolbox, request: _Generate, *, native: bool, forces: bool) -> None:
    if wants_plain_json(request):
        box.instructions.append(JSON_ONLY)
    if not wants_schema(request):
        return
    form = request.response_format
    schema = schema_of(form.schema, "response_format.json_schema.schema")
    if native:
        # The schema is text there.
        wanted = {"schema": orjson.dumps(strict_schema(schema)).decode()}
        if form.name:
            wanted["name"] = form.name
        if form.description:
            wanted["description"] = form.description
        box.form = {
            "textFormat": {"type": "json_schema", "structure": {"jsonSchema": wanted}},
        }
        return
    may_call = box.own_choice is None and CALL_NO_TOOL not in box.instructions
    if not (forces and may_call):
        box.instructions.append(by_schema(schema))
        return
    name = answer_tool_name(request) or ""
    alone = not box.tools
    box.tools.append(_spec(name, form.description or "Gives the final answer.", schema))
    if alone:
        box.choice = {"tool": {"name": name}}
    elif box.choice is None or "auto" in box.choice:
        # Text without a call would be no answer by the schema.
        box.choice = {"any": {}}


def _keep_strict(box: Toolbox, losses: Losses, *, supported: bool) -> None:
    """Closes the schemas of strict tools, or makes the tools lax where they cannot be strict."""
    strict = [tool["toolSpec"] for tool in box.tools if tool["toolSpec"].get("strict")]
    if not strict:
        return
    closed = [strict_schema(spec["inputSchema"]["json"]) for spec in strict]
    if supported and fits_strict_limits(closed):
        for spec, schema in zip(strict, closed, strict=True):
            spec["inputSchema"] = {"json": schema}
        return
    for spec in strict:
        del spec["strict"]
    losses.drop("tools[].function.strict")


def _one_at_a_time(box: Toolbox, facts: Facts) -> None:
    """Only Claude can be held to one call at a time, in its own words."""
    if facts.claude is None or not box.tools or box.own_choice is not None:
        return
    own: Block = {"type": "auto"}
    if box.choice is not None and "any" in box.choice:
        own = {"type": "any"}
    elif box.choice is not None and "tool" in box.choice:
        own = {"type": "tool", "name": box.choice["tool"]["name"]}
    # Both together are refused.
    box.choice = None
    box.own_choice = own | {"disable_parallel_tool_use": True}


def _mark(box: Toolbox, request: _Generate, facts: Facts) -> None:
    """Cache points behind the tools that the caller marked."""
    if not facts.caching:
        return
    writer = Writer(facts)
    for number, tool in enumerate(request.tools):
        if tool.cache_control:
            name = tool.function.name or tool.custom.name
            place = next(
                (i for i, t in enumerate(box.tools) if t.get("toolSpec", {}).get("name") == name),
                None,
            )
            if place is not None:
                point = writer.cache_point(tool.cache_control, f"tools[{number}].cache_control")
                box.tools.insert(place + 1, point)
