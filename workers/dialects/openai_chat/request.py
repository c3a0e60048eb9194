"""Turns a hub request into the body of a chat completions call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.v1 import generation_pb2
from workers.dialects.openai_chat.messages import chat_messages, instruct
from workers.dialects.openai_chat.tools import (
    choice_json,
    function_call_json,
    functions_json,
    tools_json,
)
from workers.foreign import in_openai_terms
from workers.fragments import fragment, merge
from workers.parameters import Action, Losses, Row, asked, base_name, settle
from workers.paths import segment
from workers.provider import Call, Provider, not_continued
from workers.standins import CALL_A_TOOL

_Generate = generation_pb2.GenerateRequest
_Choice = generation_pb2.ToolChoice
_Format = generation_pb2.ResponseFormat

_HEADERS = {"content-type": "application/json"}
_ANY_OBJECT = {"type": "object"}
_BY_SCHEMA = "Answer with one JSON object that follows this JSON Schema, and nothing else:\n"


def call_of(request: generation_pb2.Request, model: str, provider: Provider) -> Call:
    """The call to make.

    Raises:
        InferenceError: a field is not JSON where it has to be, or a parameter has to be dropped
            and the caller forbids that.
    """
    losses = Losses()
    sheet = provider.parameters.sheet(model)
    generate = in_openai_terms(request.generate, sheet, provider.quirks, losses)
    rows = sheet.rows_for(_effort(generate))
    body: dict[str, Any] = {
        "model": model,
        "messages": chat_messages(generate, rows, provider.quirks),
    }
    writing = _Writing(generate, rows, provider.quirks, body, losses)
    writing.write(_wanted(generate, provider.quirks))
    writing.write_stream_options()
    merge(body, generate.extra)
    for name, value in sheet.defaults.items():
        body.setdefault(name, value)
    losses.refuse(request.platform, model)
    path = provider.quirks.get("path", "/chat/completions")
    if generate.messages and generate.messages[-1].continued:
        path = provider.quirks.get("prefix", "")
        if not path:
            raise not_continued(provider.name)
    if "{" in path:
        path = path.replace("{model}", segment(model))
    return Call(path, orjson.dumps(body), _HEADERS, dropped=losses.names)


def _effort(generate: _Generate) -> str | None:
    """The effort that decides whether the model reasons; `thinking` is other servers' switch."""
    if generate.reasoning.HasField("effort"):
        return generate.reasoning.effort
    thinking = generate.extra.get("thinking")
    if thinking is None:
        return None
    return "none" if b'"disabled"' in thinking else "high"


def _wanted(generate: _Generate, quirks: Mapping[str, str]) -> dict[str, Any]:
    """The parameters in chat's own form, by column."""
    wanted = asked(generate)
    wanted.pop("stream_options", None)
    for column, value in wanted.items():
        write = _FORMS_OF.get(base_name(column))
        if write is not None:
            wanted[column] = write(value, generate, quirks)
    if generate.response_format.kind == _Format.KIND_TEXT:
        wanted["response_format"] = {"type": "text"}
    return wanted


@dataclass(frozen=True, slots=True)
class _Writing:
    """The parameters of one request on their way into the body."""

    generate: _Generate
    rows: Mapping[str, Row]
    quirks: Mapping[str, str]
    body: dict[str, Any]
    losses: Losses

    def write(self, wanted: Mapping[str, Any]) -> None:
        for column, value in settle(self.rows, wanted, self.body, self.losses).items():
            _CODE[column](self, value)
        if self.generate.reasoning.HasField("summary"):
            self.losses.drop("reasoning.summary")

    def write_stream_options(self) -> None:
        if not self.generate.stream:
            return
        options: dict[str, bool] = {}
        # Asked for whether or not the caller did: usage is what answers are charged by.
        if self.rows["stream_options"].action is not Action.DROP:
            options["include_usage"] = True
        asked_for = self.generate.stream_options
        if asked_for.HasField("include_obfuscation"):
            options["include_obfuscation"] = asked_for.include_obfuscation
        if options:
            self.body["stream_options"] = options

    def functions(self, _: Any) -> None:
        self.body["tools"] = tools_json(self.generate, self.quirks)

    def function_call(self, _: Any) -> None:
        """The choice under its new name, which has rows of its own."""
        choice = self.generate.tool_choice
        written = choice_json(choice)
        column = "tool_choice=" + ("named" if choice.names else written)
        rest = settle(self.rows, {column: written}, self.body, self.losses)
        for name, value in rest.items():
            _CODE[name](self, value)

    def no_tools(self, _: Any) -> None:
        """Tools that must not be called are not shown."""
        self.body.pop("tools", None)

    def one_tool(self, _: Any) -> None:
        """Of one tool to choose from, that one is called."""
        names = self.generate.tool_choice.names
        if not names:
            self.losses.drop("tool_choice")
            return
        self.body["tools"] = tools_json(self.generate, self.quirks, only=names)
        if self.rows["tool_choice=named"].path == "tool_choice":
            self.body["tool_choice"] = "required"
        else:
            self.asked_call(None)

    def asked_call(self, _: Any) -> None:
        """A model that cannot be forced is asked to call a tool."""
        instruct(self.body["messages"], CALL_A_TOOL)

    def any_object(self, _: Any) -> None:
        form = {"name": "object", "schema": _ANY_OBJECT}
        self.body["response_format"] = {"type": "json_schema", "json_schema": form}

    def object_by_schema(self, form: dict[str, Any]) -> None:
        """JSON mode, with the schema told to the model."""
        self.body["response_format"] = {"type": "json_object"}
        schema = self.generate.response_format.schema
        if schema:
            instruct(self.body["messages"], _BY_SCHEMA + schema.decode("utf-8", "replace"))

    def logprobs(self, value: Any) -> None:
        """One number says whether and how many: 1 is the sampled token alone."""
        if value:
            self.body["logprobs"] = max(1, self.generate.top_logprobs)


# What tables call mapped or emulated, and words alone cannot say.
_CODE: Mapping[str, Callable[[_Writing, Any], None]] = {
    "functions": _Writing.functions,
    "function_call": _Writing.function_call,
    "tool_choice=none": _Writing.no_tools,
    "tool_choice=named": _Writing.one_tool,
    "tool_choice=required": _Writing.asked_call,
    "response_format=json_object": _Writing.any_object,
    "response_format=json_schema": _Writing.object_by_schema,
    "logprobs": _Writing.logprobs,
    "top_logprobs": lambda _writing, _value: None,  # written with logprobs
}


def _choice(choice: _Choice, _: _Generate, quirks: Mapping[str, str]) -> Any:
    if choice.mode == _Choice.MODE_ALLOWED and quirks.get("allowed_tools") != "send":
        return "required" if choice.required else "auto"
    return choice_json(choice)


def _tools(_: Any, generate: _Generate, quirks: Mapping[str, str]) -> list[Any]:
    choice = generate.tool_choice
    if choice.mode == _Choice.MODE_ALLOWED and quirks.get("allowed_tools") != "send":
        return tools_json(generate, quirks, only=choice.names)
    return tools_json(generate, quirks)


def _audio(audio: generation_pb2.AudioOptions, *_: Any) -> dict[str, Any]:
    voice: str | orjson.Fragment
    if audio.voice.startswith((b"{", b'"')):
        voice = fragment(audio.voice, "audio.voice")
    else:
        voice = audio.voice.decode("utf-8", "replace")
    return {"format": audio.format, "voice": voice}


def _response_format(form: _Format, *_: Any) -> Any:
    if form.kind == _Format.KIND_OTHER:
        return fragment(form.json, "response_format")
    if form.kind == _Format.KIND_JSON_SCHEMA:
        return _json_schema(form)
    written: dict[str, Any] = {"type": "json_object"}
    if form.schema:
        # Some servers take one here.
        written["schema"] = fragment(form.schema, "response_format.schema")
    return written


def _json_schema(form: _Format) -> dict[str, Any]:
    schema: dict[str, Any] = {"name": form.name} if form.name else {}
    if form.HasField("description"):
        schema["description"] = form.description
    if form.schema:
        schema["schema"] = fragment(form.schema, "response_format.json_schema.schema")
    if form.HasField("strict"):
        schema["strict"] = form.strict
    return {"type": "json_schema", "json_schema": schema}


# How the hub's messages are written.
_FORMS_OF: Mapping[str, Callable[[Any, _Generate, Mapping[str, str]], Any]] = {
    "audio": _audio,
    "function_call": lambda choice, *_: function_call_json(choice),
    "functions": lambda _, generate, __: functions_json(generate),
    "response_format": _response_format,
    "tool_choice": _choice,
    "tools": _tools,
}
