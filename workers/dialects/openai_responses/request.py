"""Turns a hub request into the body of a call to /responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.v1 import generation_pb2
from workers.dialects.openai_responses.items import input_items
from workers.dialects.openai_responses.tools import choice_json, tools_json
from workers.foreign import asks_for_thoughts, in_openai_terms
from workers.fragments import fragment, merge
from workers.parameters import Action, Losses, Row, Sheet, Table, asked, settle
from workers.parameters.settle import put
from workers.provider import Call, not_continued
from workers.standins import CALL_A_TOOL

_Generate = generation_pb2.GenerateRequest
_Format = generation_pb2.ResponseFormat

_HEADERS = {"content-type": "application/json"}
_LOGPROBS = "message.output_text.logprobs"
_STATE = "reasoning.encrypted_content"


def call_of(
    request: generation_pb2.Request,
    model: str,
    parameters: Table,
    path: str,
    *,
    plain_reasoning: bool,
) -> Call:
    """The call to make.

    Raises:
        InferenceError: a field is not JSON where it has to be, or a parameter has to be dropped
            and the caller forbids that.
    """
    messages = request.generate.messages
    if messages and messages[-1].continued:
        raise not_continued("the Responses API")
    losses = Losses()
    sheet = parameters.sheet(model)
    generate = in_openai_terms(request.generate, sheet, {}, losses)
    body: dict[str, Any] = {
        "model": model,
        "input": input_items(generate, plain_reasoning=plain_reasoning),
        "store": False,
    }
    options = generate.responses
    if options.HasField("instructions"):
        body["instructions"] = options.instructions
    rows = sheet.rows_for(_effort(generate))
    writing = _Writing(generate, rows, body)
    rest = settle(rows, asked(generate), body, losses)
    for name, value in rest.items():
        _WRITE[name](writing, value)
    thinks = sheet.reasoning.happens(_effort(generate))
    writing.reasoning(shown=thinks and asks_for_thoughts(request.generate))
    writing.options(sheet, encrypted=not plain_reasoning)
    merge(body, generate.extra)
    for name, value in sheet.defaults.items():
        body.setdefault(name, value)
    losses.refuse(request.platform, model)
    return Call(path, orjson.dumps(body), _HEADERS, dropped=losses.names)


def _effort(generate: _Generate) -> str | None:
    return generate.reasoning.effort if generate.reasoning.HasField("effort") else None


@dataclass(frozen=True, slots=True)
class _Writing:
    """One request on its way into the body."""

    generate: _Generate
    rows: Mapping[str, Row]
    body: dict[str, Any]

    def reasoning(self, *, shown: bool) -> None:
        """What stands beside the effort; `shown`: thoughts are wanted, as far as they are told."""
        reasoning = self.generate.reasoning
        if shown:
            put(self.body, "reasoning.summary", "auto")
        if reasoning.HasField("summary"):
            put(self.body, "reasoning.summary", reasoning.summary)
        for name, value in reasoning.extra.items():
            put(self.body, f"reasoning.{name}", fragment(value, f"reasoning.{name}"))

    def options(self, sheet: Sheet, *, encrypted: bool) -> None:
        """What only this format has; `encrypted`: reasoning comes with a state to bring back."""
        generate, body = self.generate, self.body
        options = generate.responses
        if generate.stream and sheet.rows["stream_options"].action is Action.MAP:
            # Padding is the edge's to add; between provider and worker it is only longer.
            body["stream_options"] = {"include_obfuscation": False}
        for name in ("prompt", "context_management"):
            if value := getattr(options, name):
                body[name] = fragment(value, name)
        include = [*options.include, *body.get("include", ())]
        if encrypted and sheet.reasoning.happens(_effort(generate)):
            # Nothing is kept there, so that the next turn has to bring it along.
            include.append(_STATE)
        if include:
            body["include"] = list(dict.fromkeys(include))

    def tools(self, _: Any) -> None:
        self.body["tools"] = tools_json(self.generate)

    def tool_choice(self, choice: generation_pb2.ToolChoice) -> None:
        self.body["tool_choice"] = choice_json(choice)

    def forced(self, choice: generation_pb2.ToolChoice) -> None:
        """A model that cannot be forced is asked, and shown what it may call."""
        if self.rows["tool_choice=required"].action is not Action.EMULATE:
            self.tool_choice(choice)
            return
        self.body["tools"] = tools_json(self.generate, only=choice.names)
        told = self.body.get("instructions")
        self.body["instructions"] = f"{told}\n\n{CALL_A_TOOL}" if told else CALL_A_TOOL

    def function_call(self, choice: generation_pb2.ToolChoice) -> None:
        """The choice under its new name."""
        (self.forced if choice.names else self.tool_choice)(choice)

    def form(self, form: _Format) -> None:
        put(self.body, "text.format", _format(form))

    def logprobs(self, value: bool) -> None:
        if value:
            self.body["include"] = [_LOGPROBS]

    def settled(self, _: Any) -> None:
        """It is the same whatever was asked."""


_WRITE: Mapping[str, Callable[[_Writing, Any], None]] = {
    "context_management": _Writing.settled,
    "prompt": _Writing.settled,
    "functions": _Writing.tools,
    "function_call": _Writing.function_call,
    "logprobs": _Writing.logprobs,
    "response_format": _Writing.form,
    "response_format=json_object": _Writing.form,
    "response_format=json_schema": _Writing.form,
    "store": _Writing.settled,
    "stream_options": _Writing.settled,
    "tool_choice=auto": _Writing.tool_choice,
    "tool_choice=named": _Writing.forced,
    "tool_choice=none": _Writing.tool_choice,
    "tool_choice=required": _Writing.forced,
    "tools": _Writing.tools,
}


def _format(form: _Format) -> Any:
    if form.kind == _Format.KIND_OTHER:
        return fragment(form.json, "text.format")
    if form.kind != _Format.KIND_JSON_SCHEMA:
        return {"type": "json_object"}
    written: dict[str, Any] = {"type": "json_schema", "name": form.name or "answer"}
    if form.HasField("description"):
        written["description"] = form.description
    written["schema"] = fragment(form.schema or b"{}", "text.format.schema")
    if form.HasField("strict"):
        written["strict"] = form.strict
    return written
