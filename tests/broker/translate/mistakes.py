"""Mistakes that both fronts refuse: as the field of a chat body and as typed messages, with the
path and the code that callers are told. One table, so that the fronts cannot drift apart."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2

Generate = generation_pb2.GenerateRequest
Choice = generation_pb2.ToolChoice
Format = generation_pb2.ResponseFormat

MISSING = "missing_required_parameter"
HELLO = [{"role": "user", "content": "hello"}]


@contextlib.contextmanager
def refused(param: str, code: str) -> Iterator[None]:
    """What is done within has to be refused so."""
    with pytest.raises(InferenceError) as raised:
        yield
    error = raised.value
    assert (error.reason, error.param, error.code) == ("invalid_request", param, code)


def chat(model: str, fields: dict[str, Any]) -> dict[str, Any]:
    """A chat body; fields given as None are left out."""
    body = {"model": model, "messages": HELLO} | fields
    return {name: value for name, value in body.items() if value is not None}


def typed(model: str, mutate: Callable[[generation_pb2.Request], object]) -> generation_pb2.Request:
    """The same request as typed messages, with a mistake put in."""
    request = generation_pb2.Request()
    generate = request.generate
    generate.model = model
    said(generate, content_pb2.ROLE_USER).add().text.text = "hello"
    mutate(request)
    return request


def said(generate: Generate, role: content_pb2.Role.ValueType) -> Any:
    """The parts of one more message."""
    return generate.messages.add(role=role).parts


def part(add: Callable[[content_pb2.Part], object], role: Any = content_pb2.ROLE_USER) -> Any:
    """Puts one part into a message of its own, in place of the first one."""

    def mutate(request: generation_pb2.Request) -> None:
        del request.generate.messages[:]
        add(said(request.generate, role).add())

    return mutate


def assistant(add: Callable[[content_pb2.Part], object]) -> Any:
    return part(add, content_pb2.ROLE_ASSISTANT)


def merge(**fields: Any) -> Callable[[generation_pb2.Request], object]:
    """Sets fields of the generate request."""
    return lambda request: request.generate.MergeFrom(Generate(**fields))


def tool(**fields: Any) -> Callable[[generation_pb2.Request], object]:
    return merge(tools=[generation_pb2.Tool(**fields)])


def choice(**fields: Any) -> Callable[[generation_pb2.Request], object]:
    return merge(tool_choice=Choice(**fields))


def form(**fields: Any) -> Callable[[generation_pb2.Request], object]:
    return merge(response_format=Format(**fields))


def platform(**fields: Any) -> Callable[[generation_pb2.Request], object]:
    return lambda request: request.platform.MergeFrom(generation_pb2.Platform(**fields))


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def spoke(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", **fields}]}


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": fields}


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def nested_json(levels: int) -> bytes:
    return b'{"a":' * levels + b"{}" + b"}" * levels


@dataclass(frozen=True)
class Mistake:
    name: str
    fields: dict[str, Any]
    mutate: Callable[[generation_pb2.Request], object]
    param: str
    code: str


def without(field: Any) -> Callable[[generation_pb2.Request], object]:
    return lambda request: request.generate.ClearField(field)


def parts(role: Any, *several: content_pb2.Part) -> Callable[[generation_pb2.Request], object]:
    """Puts these parts into the only message."""

    def mutate(request: generation_pb2.Request) -> None:
        del request.generate.messages[:]
        said(request.generate, role).extend(several)

    return mutate


_PICTURE = "messages[0].content[0]"
_FUNCTIONS = [generation_pb2.FunctionTool(name=f"f{i}") for i in range(129)]

ROWS: tuple[tuple[str, dict[str, Any], Callable[[generation_pb2.Request], object], str, str], ...]
ROWS = (
    # Limits.
    ("no model", {"model": None}, without("model"), "model", MISSING),
    ("no messages", {"messages": None}, without("messages"), "messages", MISSING),
    ("temperature", {"temperature": 2.5}, merge(temperature=2.5), "temperature", "decimal_above_max_value"),
    ("cold", {"temperature": -0.1}, merge(temperature=-0.1), "temperature", "decimal_below_min_value"),
    ("top_p", {"top_p": 1.1}, merge(top_p=1.1), "top_p", "decimal_above_max_value"),
    ("presence", {"presence_penalty": -3}, merge(presence_penalty=-3), "presence_penalty", "decimal_below_min_value"),
    ("frequency", {"frequency_penalty": 3}, merge(frequency_penalty=3), "frequency_penalty", "decimal_above_max_value"),
    ("bias", {"logit_bias": {"1": 101}}, merge(logit_bias={"1": 101}), "logit_bias", "decimal_above_max_value"),
    ("stop", {"stop": list("abcde")}, merge(stop=list("abcde")), "stop", "array_above_max_length"),
    (
        "129 tools",
        {"tools": [function(name=f"f{i}") for i in range(129)]},
        merge(tools=[generation_pb2.Tool(function=f) for f in _FUNCTIONS]),
        *("tools", "array_above_max_length"),
    ),
    (
        "129 functions",
        {"functions": [{"name": f"f{i}"} for i in range(129)]},
        merge(legacy_functions=True, tools=[generation_pb2.Tool(function=f) for f in _FUNCTIONS]),
        *("functions", "array_above_max_length"),
    ),
    (
        "top_logprobs",
        {"logprobs": True, "top_logprobs": 21},
        merge(logprobs=True, top_logprobs=21),
        *("top_logprobs", "integer_above_max_value"),
    ),
    ("top_logprobs alone", {"top_logprobs": 3}, merge(top_logprobs=3), "top_logprobs", "invalid_value"),
    (
        "stream_options",
        {"stream_options": {"include_usage": True}},
        merge(stream_options=generation_pb2.StreamOptions(include_usage=True)),
        *("stream_options", "invalid_value"),
    ),
    ("n", {"n": 0}, merge(n=0), "n", "integer_below_min_value"),
    (
        "a signature that no record could hold",
        {"signature": "x" * 1025},
        lambda r: setattr(r.platform, "signature", "x" * 1025),
        "signature",
        "string_above_max_length",
    ),
    (
        "a tag that no record could hold",
        {"tags": ["x" * 257]},
        lambda r: r.platform.tags.append("x" * 257),
        "tags[0]",
        "string_above_max_length",
    ),
    ("n above", {"n": 129}, merge(n=129), "n", "integer_above_max_value"),
    ("max_tokens", {"max_tokens": 0}, merge(max_tokens=0), "max_tokens", "integer_below_min_value"),
    (
        "max_completion_tokens",
        {"max_completion_tokens": -1},
        merge(max_output_tokens=-1),
        *("max_completion_tokens", "integer_below_min_value"),
    ),
    # Messages.
    (
        "no role",
        {"messages": [*HELLO, {"content": "x"}]},
        lambda r: said(r.generate, content_pb2.ROLE_UNSPECIFIED).add(),
        *("messages[1].role", MISSING),
    ),
    (
        "unknown role",
        {"messages": [*HELLO, {"role": "wizard", "content": "x"}]},
        lambda r: said(r.generate, 99).add(),  # type: ignore[arg-type]
        *("messages[1].role", "invalid_value"),
    ),
    (
        "user without content",
        {"messages": [*HELLO, {"role": "user"}]},
        lambda r: said(r.generate, content_pb2.ROLE_USER),
        *("messages[1].content", MISSING),
    ),
    (
        "system without content",
        {"messages": [{"role": "system"}]},
        parts(content_pb2.ROLE_SYSTEM),
        *("messages[0].content", MISSING),
    ),
    (
        "tool without id",
        {"messages": [*HELLO, {"role": "tool", "content": "x"}]},
        lambda r: said(r.generate, content_pb2.ROLE_TOOL).add().tool_result.SetInParent(),
        *("messages[1].tool_call_id", MISSING),
    ),
    (
        "tool without result",
        {"messages": [*HELLO, {"role": "tool", "content": "x"}]},
        lambda r: said(r.generate, content_pb2.ROLE_TOOL),
        *("messages[1].tool_call_id", MISSING),
    ),
    (
        "function without name",
        {"messages": [*HELLO, {"role": "function", "content": "x"}]},
        lambda r: said(r.generate, content_pb2.ROLE_TOOL).add(
            tool_result=content_pb2.ToolResult(legacy_function=True)
        ),
        *("messages[1].name", MISSING),
    ),
    ("part without kind", user({"text": "x"}), part(lambda _: None), f"{_PICTURE}.type", MISSING),
    (
        "image without source",
        user({"type": "image_url"}),
        part(lambda p: p.image.SetInParent()),
        *(f"{_PICTURE}.image_url", MISSING),
    ),
    (
        "image with empty url",
        user({"type": "image_url", "image_url": {"url": ""}}),
        part(lambda p: setattr(p.image, "url", "")),
        *(f"{_PICTURE}.image_url.url", "invalid_image_url"),
    ),
    (
        "image that is not base64",
        user({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}),
        part(lambda p: setattr(p.image, "url", "data:image/png;base64,%%%")),
        *(f"{_PICTURE}.image_url.url", "invalid_base64"),
    ),
    (
        "second part",
        user({"type": "text", "text": "look"}, {"type": "image_url"}),
        parts(
            content_pb2.ROLE_USER,
            content_pb2.Part(text=content_pb2.Text(text="look")),
            content_pb2.Part(image=content_pb2.Image()),
        ),
        *("messages[0].content[1].image_url", MISSING),
    ),
    (
        "audio without data",
        user({"type": "input_audio"}),
        part(lambda p: p.audio.SetInParent()),
        *(f"{_PICTURE}.input_audio", MISSING),
    ),
    (
        "audio without format",
        user({"type": "input_audio", "input_audio": {"data": "AAAA"}}),
        part(lambda p: setattr(p.audio.inline, "data", b"abc")),
        *(f"{_PICTURE}.input_audio.format", MISSING),
    ),
    (
        "file without data",
        user({"type": "file", "file": {}}),
        part(lambda p: p.file.SetInParent()),
        *(f"{_PICTURE}.file.file_data", MISSING),
    ),
    (
        "file that is not base64",
        user({"type": "file", "file": {"file_data": "data:application/pdf;base64,A"}}),
        part(lambda p: setattr(p.file, "url", "data:application/pdf;base64,A")),
        *(f"{_PICTURE}.file.file_data", "invalid_base64"),
    ),
    (
        "cache marker of the wrong type",
        user({"type": "text", "text": "x", "cache_control": "ephemeral"}),
        part(lambda p: p.MergeFrom(content_pb2.Part(text={}, cache_control=b'"ephemeral"'))),  # type: ignore[arg-type]
        *(f"{_PICTURE}.cache_control", "invalid_type"),
    ),
    (
        "tool call without id",
        spoke(tool_calls=[{"function": {"name": "f"}}]),
        assistant(lambda p: setattr(p.tool_call, "name", "f")),
        *("messages[0].tool_calls[0].id", MISSING),
    ),
    (
        "tool call without name",
        spoke(tool_calls=[{"id": "c", "type": "function", "function": {}}]),
        assistant(lambda p: setattr(p.tool_call, "call_id", "c")),
        *("messages[0].tool_calls[0].function.name", MISSING),
    ),
    (
        "custom call without name",
        spoke(tool_calls=[{"id": "c", "type": "custom", "custom": {}}]),
        assistant(
            lambda p: p.tool_call.MergeFrom(
                content_pb2.ToolCall(call_id="c", kind=content_pb2.TOOL_KIND_CUSTOM)
            )
        ),
        *("messages[0].tool_calls[0].custom.name", MISSING),
    ),
    (
        "second tool call",
        spoke(content="x", tool_calls=[{"id": "c", "function": {"name": "f"}}, {"id": "d", "function": {}}]),
        parts(
            content_pb2.ROLE_ASSISTANT,
            content_pb2.Part(text=content_pb2.Text(text="x")),
            content_pb2.Part(tool_call=content_pb2.ToolCall(call_id="c", name="f")),
            content_pb2.Part(tool_call=content_pb2.ToolCall(call_id="d")),
        ),
        *("messages[0].tool_calls[1].function.name", MISSING),
    ),
    (
        "tool call of an unknown kind",
        spoke(tool_calls=[{"id": "c", "type": "magic", "function": {"name": "f"}}]),
        assistant(
            lambda p: p.tool_call.MergeFrom(content_pb2.ToolCall(call_id="c", name="f", kind=9))  # type: ignore[arg-type]
        ),
        *("messages[0].tool_calls[0].type", "invalid_value"),
    ),
    (
        "function call without name",
        spoke(function_call={"arguments": ""}),
        assistant(lambda p: setattr(p.tool_call, "legacy_function", True)),
        *("messages[0].function_call.name", MISSING),
    ),
    (
        "spoken answer without id",
        spoke(audio={}),
        assistant(lambda p: setattr(p.audio, "id", "")),
        *("messages[0].audio.id", MISSING),
    ),
    (
        "blob without kind",
        spoke(reasoning_details=[{"type": "reasoning", "blobs": [{"issuer": "x"}]}]),
        assistant(lambda p: p.reasoning.blobs.add(issuer="x")),
        *("messages[0].reasoning_details[0].blobs[0].kind", MISSING),
    ),
    # Tools.
    ("tool without type", {"tools": [{}]}, tool(), "tools[0].type", MISSING),
    (
        "tool without name",
        {"tools": [function(name="")]},
        tool(function=generation_pb2.FunctionTool()),
        *("tools[0].function.name", "empty_string"),
    ),
    (
        "custom tool without name",
        {"tools": [{"type": "custom", "custom": {"name": ""}}]},
        tool(custom=generation_pb2.CustomTool()),
        *("tools[0].custom.name", "empty_string"),
    ),
    (
        "function without a name",
        {"functions": [{"name": ""}]},
        merge(
            legacy_functions=True,
            tools=[generation_pb2.Tool(function=generation_pb2.FunctionTool())],
        ),
        *("functions[0].name", "empty_string"),
    ),
    (
        "schema that is no object",
        {"tools": [function(name="f", parameters="{}")]},
        tool(function=generation_pb2.FunctionTool(name="f", parameters=b'"{}"')),
        *("tools[0].function.parameters", "invalid_type"),
    ),
    (
        "schema nested too deeply",
        {"tools": [function(name="f", parameters=nested(300))]},
        tool(function=generation_pb2.FunctionTool(name="f", parameters=nested_json(300))),
        *("tools[0].function.parameters", "invalid_value"),
    ),
    (
        "grammar that is no object",
        {"tools": [{"type": "custom", "custom": {"name": "c", "format": []}}]},
        tool(custom=generation_pb2.CustomTool(name="c", format=b"[]")),
        *("tools[0].custom.format", "invalid_type"),
    ),
    ("choice without type", {"tool_choice": {}}, choice(), "tool_choice.type", MISSING),
    ("unknown choice", {"tool_choice": "maybe"}, choice(mode=42), "tool_choice", "invalid_value"),
    (
        "choice without name",
        {"tool_choice": {"type": "function", "function": {}}},
        choice(mode=Choice.MODE_NAMED),
        *("tool_choice.function.name", MISSING),
    ),
    (
        "choice of a custom tool without name",
        {"tool_choice": {"type": "custom", "custom": {}}},
        choice(mode=Choice.MODE_NAMED, kind=content_pb2.TOOL_KIND_CUSTOM),
        *("tool_choice.custom.name", MISSING),
    ),
    (
        "function_call without name",
        {"functions": [{"name": "f"}], "function_call": {}},
        merge(
            legacy_functions=True,
            tools=[generation_pb2.Tool(function=generation_pb2.FunctionTool(name="f"))],
            tool_choice=Choice(mode=Choice.MODE_NAMED),
        ),
        *("function_call.name", MISSING),
    ),
    (
        "allowed tools without a list",
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}},
        choice(mode=Choice.MODE_ALLOWED),
        *("tool_choice.allowed_tools.tools", MISSING),
    ),
    # The form of the answer.
    ("format without type", {"response_format": {}}, form(), "response_format.type", MISSING),
    (
        "schema of the wrong type",
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": []}}},
        form(kind=Format.KIND_JSON_SCHEMA, name="n", schema=b"[]"),
        *("response_format.json_schema.schema", "invalid_type"),
    ),
    (
        "format of the wrong type",
        {"response_format": "json"},
        form(kind=Format.KIND_OTHER, json=b'"json"'),
        *("response_format", "invalid_type"),
    ),
    (
        "voice without format",
        {"audio": {"voice": "alloy"}},
        merge(audio=generation_pb2.AudioOptions(voice=b"alloy")),
        *("audio.format", MISSING),
    ),
    (
        "format without voice",
        {"audio": {"format": "wav"}},
        merge(audio=generation_pb2.AudioOptions(format="wav")),
        *("audio.voice", MISSING),
    ),
    ("prediction", {"prediction": [1]}, merge(prediction=b"[1]"), "prediction", "invalid_type"),
    (
        "web_search_options",
        {"web_search_options": 5},
        merge(web_search_options=b"5"),
        *("web_search_options", "invalid_type"),
    ),
    (
        "an unknown field nested too deeply",
        {"chat_template_kwargs": nested(300)},
        merge(extra={"chat_template_kwargs": nested_json(300)}),
        *("chat_template_kwargs", "invalid_value"),
    ),
    # The platform's own.
    ("provider", {"provider": ["openai"]}, platform(provider=b'["openai"]'), "provider", "invalid_type"),
    (
        "a header with a line break",
        {"extra_headers": {"X-A": "a\r\nauthorization: b"}},
        platform(extra_headers={"X-A": "a\r\nauthorization: b"}),
        *("extra_headers", "invalid_value"),
    ),
    (
        "a header with a blank in its name",
        {"extra_headers": {"a b": "c"}},
        platform(extra_headers={"a b": "c"}),
        *("extra_headers", "invalid_value"),
    ),
)  # fmt: skip
MISTAKES = tuple(Mistake(*row) for row in ROWS)

# What only typed messages can get wrong.
TYPED_ONLY: tuple[tuple[str, Callable[[generation_pb2.Request], object], str], ...] = (
    ("no operation", lambda r: r.ClearField("generate"), "request.generate"),
    ("NaN", merge(temperature=math.nan), "temperature"),
    ("NaN bias", merge(logit_bias={"1": math.nan}), "logit_bias"),
    ("infinity", merge(presence_penalty=math.inf), "presence_penalty"),
    ("schema that is not JSON", tool(function=generation_pb2.FunctionTool(name="f", parameters=b"{")), "tools[0].function.parameters"),
    ("unknown field that is not JSON", merge(extra={"top_k": b"5,"}), "top_k"),
    ("known field as an unknown one", merge(extra={"temperature": b"9"}), "temperature"),
    ("stream as an unknown one", merge(extra={"stream": b"true"}), "stream"),
    ("hosted tool that is not JSON", tool(hosted=generation_pb2.HostedTool(type="x", json=b"")), "tools[0]"),
    ("two names", choice(mode=Choice.MODE_NAMED, names=["a", "b"]), "tool_choice.function.name"),
    ("hosted choice without JSON", choice(mode=Choice.MODE_HOSTED), "tool_choice.type"),
    ("unknown format", form(kind=77), "response_format.type"),
    ("voice that is not text", merge(audio=generation_pb2.AudioOptions(format="wav", voice=b"\xff")), "audio.voice"),
    (
        "arguments that are not text",
        assistant(lambda p: p.tool_call.MergeFrom(content_pb2.ToolCall(call_id="c", name="f", arguments=b"\xff"))),
        "messages[0].tool_calls[0].function.arguments",
    ),
    ("a call of the user", part(lambda p: setattr(p.tool_call, "call_id", "c")), "messages[0].tool_calls"),
    ("a result of the assistant", assistant(lambda p: setattr(p.tool_result, "call_id", "c")), "messages[0].role"),
    (
        "a result within a result",
        parts(
            content_pb2.ROLE_TOOL,
            content_pb2.Part(
                tool_result=content_pb2.ToolResult(
                    call_id="c", parts=[content_pb2.Part(tool_result=content_pb2.ToolResult())]
                )
            ),
        ),
        "messages[0].content",
    ),
    ("opaque without issuer", part(lambda p: p.MergeFrom(content_pb2.Part(opaque=content_pb2.Opaque(type="x", json=b"{}")))), "messages[0].content[0].issuer"),
    (
        "opaque that is not JSON",
        part(lambda p: p.MergeFrom(content_pb2.Part(opaque=content_pb2.Opaque(type="x", issuer="y", json=b"{")))),
        "messages[0].content[0]",
    ),
    ("annotations that are no list", part(lambda p: setattr(p.text, "annotations", b"{}")), "messages[0].content[0].annotations"),
    ("a file at no address", part(lambda p: setattr(p.file, "url", "report.pdf")), "messages[0].content[0].file.file_data"),
    ("an unknown field of a part that is not JSON", part(lambda p: p.MergeFrom(content_pb2.Part(text={}, extra={"x": b"?"}))), "messages[0].content[0].x"),  # type: ignore[arg-type]
)  # fmt: skip
