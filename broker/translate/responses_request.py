"""Translates the body of POST /v1/responses into a hub request.

What `previous_response_id` and `conversation` stand for is not looked up here: `generate.messages`
is this turn's own input. Unknown fields travel on in `extra`, as they do on chat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.errors import InferenceError
from broker.translate import wire_responses as wire
from broker.translate.body import as_it_is, read_body, shaped, write_rest
from broker.translate.refusals import invalid, json_text, missing
from broker.translate.responses_messages import add_input
from broker.translate.responses_options import LOGPROBS, check_options, check_word
from broker.translate.tools import choose_tool
from broker.v1 import generation_pb2

_Generate = generation_pb2.GenerateRequest
_Format = generation_pb2.ResponseFormat


def parse_responses(body: bytes) -> generation_pb2.Request:
    """The hub request for a body.

    Raises:
        InferenceError: invalid_request, with `param` as a dotted path into the body.
    """
    source = read_body(body)
    asked = shaped(source, wire.ResponsesRequest)
    request = generation_pb2.Request()
    generate = request.generate
    generate.surface = generation_pb2.SURFACE_RESPONSES
    generate.model = asked.model
    if asked.stream_options is not None and not asked.stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise invalid("stream_options", message)
    if asked.input is not None:
        add_input(generate, asked.input)
    if asked.tools:
        _add_tools(generate, asked.tools, source["tools"])
    write_rest(request, generate, source, _FIELDS, _DONE)
    check_options(generate)
    return request


def as_responses(exc: InferenceError) -> InferenceError:
    """The same failure as this API tells it: an unknown model is a 400 here."""
    if exc.reason != "model_not_found":
        return exc
    told = invalid("model", exc.message, "model_not_found")
    told.provider, told.model = exc.provider, exc.model
    told.upstream_request_id = exc.upstream_request_id
    return told


# Translated before the walk.
_DONE = frozenset({"model", "input", "tools"})


def _keep(generate: _Generate, owner: str, raw: Any, known: frozenset[str]) -> None:
    """Keep unknown fields of an object under dotted names, such as `text.x`."""
    for name in raw.keys() - known:
        if raw[name] is not None:
            path = f"{owner}.{name}"
            generate.extra[path] = json_text(raw[name], path)


# --- tools -------------------------------------------------------------------------------------

_TOOL = frozenset(wire.Tool.__struct_fields__) | {"cache_control"}


def _add_tools(generate: _Generate, tools: list[wire.Tool], source: list[Any]) -> None:
    for index, tool in enumerate(tools):
        where, raw, hub = f"tools[{index}]", source[index], generate.tools.add()
        if tool.type not in _TOOLS:
            hub.hosted.type = tool.type
            hub.hosted.json = json_text(raw, where)
            continue
        if not tool.name:
            raise missing(f"{where}.name")
        _TOOLS[tool.type](hub, tool, where)
        if raw.get("cache_control") is not None:
            hub.cache_control = json_text(raw["cache_control"], f"{where}.cache_control")
        for name in raw.keys() - _TOOL:
            if raw[name] is not None:
                hub.extra[name] = json_text(raw[name], f"{where}.{name}")


def _function(hub: generation_pb2.Tool, tool: wire.Tool, where: str) -> None:
    function = hub.function
    function.name = tool.name or ""
    if tool.description is not None:
        function.description = tool.description
    if tool.parameters is not None:
        function.parameters = json_text(tool.parameters, f"{where}.parameters")
    if tool.strict is not None:
        function.strict = tool.strict


def _custom(hub: generation_pb2.Tool, tool: wire.Tool, where: str) -> None:
    custom = hub.custom
    custom.name = tool.name or ""
    if tool.description is not None:
        custom.description = tool.description
    if tool.format is not None:
        custom.format = json_text(tool.format, f"{where}.format")


_TOOLS: dict[str, Callable[[generation_pb2.Tool, wire.Tool, str], None]] = {
    "function": _function,
    "custom": _custom,
}


def _tool_choice(generate: _Generate, value: str | dict[str, Any]) -> None:
    choose_tool(generate.tool_choice, value)


# --- the form of the answer --------------------------------------------------------------------

_TEXT = frozenset(wire.Text.__struct_fields__)
_FORMAT = frozenset(wire.Format.__struct_fields__)
_REASONING = frozenset(wire.Reasoning.__struct_fields__)


def _text(generate: _Generate, value: dict[str, Any]) -> None:
    verbosity, form = value.get("verbosity"), value.get("format")
    if verbosity is not None:
        generate.verbosity = verbosity
    if form is not None:
        _format(generate, form)
    _keep(generate, "text", value, _TEXT)


def _format(generate: _Generate, form: dict[str, Any]) -> None:
    hub, kind = generate.response_format, form["type"]
    if kind == "text":
        hub.kind = _Format.KIND_TEXT
    elif kind == "json_object":
        hub.kind = _Format.KIND_JSON_OBJECT
    elif kind == "json_schema":
        for name in ("name", "schema"):
            if form.get(name) is None:
                raise missing(f"text.format.{name}")
        hub.kind = _Format.KIND_JSON_SCHEMA
        hub.name = form["name"]
        hub.schema = json_text(form["schema"], "text.format.schema")
        if form.get("description") is not None:
            hub.description = form["description"]
        if form.get("strict") is not None:
            hub.strict = form["strict"]
    elif kind == "grammar":
        hub.kind = _Format.KIND_OTHER
        hub.json = json_text(form, "text.format")
        return
    else:
        check_word("text.format.type", kind, ("text", "json_object", "json_schema"))
    _keep(generate, "text.format", form, _FORMAT)


def _reasoning(generate: _Generate, value: dict[str, Any]) -> None:
    hub = generate.reasoning
    hub.SetInParent()
    if value.get("effort") is not None:
        hub.effort = value["effort"]
    # The older name of the same field.
    summary = value.get("summary") or value.get("generate_summary")
    if summary is not None:
        hub.summary = summary
    for name in value.keys() - _REASONING:
        if value[name] is not None:
            hub.extra[name] = json_text(value[name], f"reasoning.{name}")


def _top_logprobs(generate: _Generate, value: int) -> None:
    generate.top_logprobs = value
    generate.logprobs = True


def _include(generate: _Generate, value: list[str]) -> None:
    generate.responses.include.extend(value)
    if LOGPROBS in value:
        generate.logprobs = True


# --- what only this API has --------------------------------------------------------------------


def _option(name: str) -> Callable[[_Generate, Any], None]:
    def write(generate: _Generate, value: Any) -> None:
        setattr(generate.responses, name, value)

    return write


def _json_option(name: str) -> Callable[[_Generate, Any], None]:
    def write(generate: _Generate, value: Any) -> None:
        setattr(generate.responses, name, json_text(value, name))

    return write


def _conversation(generate: _Generate, value: str | dict[str, Any]) -> None:
    generate.responses.conversation = value if isinstance(value, str) else value["id"]


def _stream_options(generate: _Generate, value: dict[str, Any]) -> None:
    options = generate.stream_options
    options.SetInParent()
    if value.get("include_obfuscation") is not None:
        options.include_obfuscation = value["include_obfuscation"]
    _keep(generate, "stream_options", value, frozenset({"include_obfuscation"}))


def _metadata(generate: _Generate, value: dict[str, str | None]) -> None:
    generate.metadata.update({name: text for name, text in value.items() if text is not None})


_FIELDS: dict[str, Callable[[_Generate, Any], None]] = {
    **{
        name: as_it_is(name)
        for name in (
            "stream",
            "temperature",
            "top_p",
            "max_output_tokens",
            "max_tool_calls",
            "parallel_tool_calls",
            "service_tier",
            "user",
            "safety_identifier",
            "prompt_cache_key",
            "prompt_cache_retention",
            "store",
        )
    },
    "background": _option("background"),
    "context_management": _json_option("context_management"),
    "conversation": _conversation,
    "include": _include,
    "instructions": _option("instructions"),
    "metadata": _metadata,
    "previous_response_id": _option("previous_response_id"),
    "prompt": _json_option("prompt"),
    "reasoning": _reasoning,
    "stream_options": _stream_options,
    "text": _text,
    "tool_choice": _tool_choice,
    "top_logprobs": _top_logprobs,
    "truncation": _option("truncation"),
}
