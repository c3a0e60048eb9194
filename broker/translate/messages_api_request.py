"""Translates the body of POST /v1/messages, in Anthropic's format, into a hub request.

What the hub types is typed, so that any provider understands it. What only this format has (a
thinking budget, `top_k`, `context_management`, fields of blocks) stays as it came in `extra` of
whatever it stood in, and dialects of the same format put it back there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.translate import fields
from broker.translate.body import as_it_is, read_body, shaped, write_rest
from broker.translate.messages_api_blocks import add_blocks, add_turn
from broker.translate.messages_api_tools import add_tools, choose_tool
from broker.translate.messages_api_wire import CountRequest, MessagesRequest
from broker.translate.refusals import invalid, json_text, missing
from broker.v1 import content_pb2, generation_pb2

_Generate = generation_pb2.GenerateRequest
_ROLES = ("user", "assistant", "system")
_LEAST_BUDGET = 1024
# Thinking budgets, in tokens, as the effort that others call it.
_EFFORTS = ((4096, "low"), (16_384, "medium"))


def parse_messages(body: bytes) -> generation_pb2.Request:
    """The hub request for a body.

    Raises:
        InferenceError: invalid_request, with `param` as a dotted path into the body.
    """
    source = read_body(body)
    request = generation_pb2.Request()
    _write(request, request.generate, shaped(source, MessagesRequest), source)
    return request


def parse_count(body: bytes) -> generation_pb2.Request:
    """The same for a request to count its tokens."""
    source = read_body(body)
    request = generation_pb2.Request()
    _write(request, request.count_tokens, shaped(source, CountRequest), source)
    return request


def _write(
    request: generation_pb2.Request, generate: _Generate, asked: CountRequest, source: Any
) -> None:
    generate.surface = generation_pb2.SURFACE_MESSAGES
    generate.model = asked.model
    if asked.system:
        system = generate.messages.add(role=content_pb2.ROLE_SYSTEM)
        add_blocks(system.parts, asked.system, "system")
    for index, turn in enumerate(asked.messages):
        where = f"messages[{index}]"
        if turn.role not in _ROLES:
            known = ", ".join(f"'{role}'" for role in _ROLES)
            message = f"Invalid value: {turn.role!r:.60}. Supported values are: {known}."
            raise invalid(f"{where}.role", message)
        add_turn(generate, turn.role, turn.content, where)
        for name in source["messages"][index].keys() - {"role", "content"}:
            value = source["messages"][index][name]
            generate.messages[-1].extra[name] = json_text(value, f"{where}.{name}")
    if asked.tools:
        add_tools(generate, asked.tools)
    if asked.tool_choice is not None:
        choose_tool(generate, asked.tool_choice)
    write_rest(request, generate, source, _WRITERS, _DONE)


def _stop(generate: _Generate, value: list[str]) -> None:
    generate.stop.extend(value)


def _max_tokens(generate: _Generate, value: int) -> None:
    generate.max_output_tokens = value  # thinking is included


def _metadata(generate: _Generate, value: dict[str, Any]) -> None:
    if user := fields.text(value, "user_id", "metadata", default=""):
        generate.user = user
    if rest := {name: entry for name, entry in value.items() if name != "user_id"}:
        generate.extra["metadata"] = json_text(rest, "metadata")


def _tier(generate: _Generate, value: str) -> None:
    generate.service_tier = "default" if value == "standard_only" else value


def _thinking(generate: _Generate, value: dict[str, Any]) -> None:
    """As an effort for everybody, and as it came."""
    kind = fields.text(value, "type", "thinking")
    budget = value.get("budget_tokens")
    if kind == "enabled":
        if budget is None:
            raise missing("thinking.budget_tokens")
        if type(budget) is not int:
            raise fields.wrong("thinking.budget_tokens", "an integer")
        if budget < _LEAST_BUDGET:
            message = f"Expected a value >= {_LEAST_BUDGET}, but got {budget} instead."
            message = f"Invalid 'thinking.budget_tokens': integer below minimum value. {message}"
            raise invalid("thinking.budget_tokens", message, "integer_below_min_value")
        words = (word for most, word in _EFFORTS if budget < most)
        _effort(generate, next(words, "high"))
    elif kind == "adaptive":
        _effort(generate, "high")  # what it is where no effort is named
    elif kind == "disabled":
        generate.reasoning.effort = "none"
    generate.extra["thinking"] = json_text(value, "thinking")


def _effort(generate: _Generate, effort: str) -> None:
    """An effort that was named is stronger than one that follows from a budget."""
    if not generate.reasoning.HasField("effort"):
        generate.reasoning.effort = effort


def _output_config(generate: _Generate, value: dict[str, Any]) -> None:
    if effort := fields.text(value, "effort", "output_config", default=""):
        off = generate.reasoning.effort == "none"
        generate.reasoning.effort = "none" if off else effort
    if (form := value.get("format")) is not None:
        _write_format(generate, form, "output_config.format")
    if rest := {name: entry for name, entry in value.items() if name != "format"}:
        generate.extra["output_config"] = json_text(rest, "output_config")


def _output_format(generate: _Generate, value: dict[str, Any]) -> None:
    _write_format(generate, value, "output_format")


def _write_format(generate: _Generate, value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise fields.wrong(where, "an object")
    if fields.text(value, "type", where) != "json_schema":
        message = f"Invalid value for '{where}.type'. Supported values are: 'json_schema'."
        raise invalid(f"{where}.type", message)
    schema = value.get("schema")
    if schema is None:
        raise missing(f"{where}.schema")
    if not isinstance(schema, dict):
        raise fields.wrong(f"{where}.schema", "an object")
    form = generate.response_format
    form.kind = generation_pb2.ResponseFormat.KIND_JSON_SCHEMA
    form.name = "answer"  # some providers want one
    form.schema = json_text(schema, f"{where}.schema")
    form.strict = True


_WRITERS: dict[str, Callable[[Any, Any], None]] = {
    "stream": as_it_is("stream"),
    "temperature": as_it_is("temperature"),
    "top_p": as_it_is("top_p"),
    "max_tokens": _max_tokens,
    "stop_sequences": _stop,
    "metadata": _metadata,
    "service_tier": _tier,
    "thinking": _thinking,
    "output_config": _output_config,
    "output_format": _output_format,
}
# Translated before the walk.
_DONE = frozenset({"model", "messages", "system", "tools", "tool_choice"})
