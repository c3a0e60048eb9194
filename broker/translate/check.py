"""Checks a hub request that came as typed messages, as the parser of chat bodies checks JSON.

What the two front ends share is written once: the part of the request that `wire.ChatRequest`
speaks of is put into its shape and checked against it, so that limits, words, codes and paths are
the same on both. Paths are those of the chat body (`messages[0].content[1].image_url.url`), also
where the typed field has another name. An empty string counts as unset where there has to be
something.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker import operations
from broker.errors import InferenceError
from broker.translate import wire
from broker.translate.audio_speech import check_speak
from broker.translate.audio_transcription import check_transcribe
from broker.translate.body import shaped
from broker.translate.chat_request import _SCALARS, _check_together
from broker.translate.check_messages import check_messages
from broker.translate.completions import check_complete
from broker.translate.embeddings import check_embed
from broker.translate.images import check_image
from broker.translate.json_bytes import read_json, read_object, read_text
from broker.translate.moderations import check_moderate
from broker.translate.platform import PLATFORM
from broker.translate.refusals import invalid, missing
from broker.translate.rerank import check_rerank
from broker.v1 import content_pb2, generation_pb2

_Generate = generation_pb2.GenerateRequest
_Choice = generation_pb2.ToolChoice
_Format = generation_pb2.ResponseFormat
_Body = dict[str, Any]

# Such a field has its own place: as an unknown one it would get round the checks.
_KNOWN = frozenset(wire.ChatRequest.__struct_fields__) - {"extra_body"}


def check(request: generation_pb2.Request, *, streamed: bool) -> None:
    """Check a request whose answer is sent in pieces or whole.

    Inline media that stand in a `data:` URL are moved to where the hub has them.

    Raises:
        InferenceError: invalid_request, with `param` as a path into the body of the HTTP API.
    """
    operation = operations.name(request)
    if not operation:
        raise missing("request.generate")
    if operation not in _CHECKS:
        words = operation.replace("_", " ")
        raise InferenceError("unsupported_operation", f"{words} is not offered over gRPC")
    if headers := dict(request.platform.extra_headers):
        request.platform.extra_headers.clear()  # what is not for the provider stays out
        PLATFORM["extra_headers"](request.platform, headers)
    body = _platform(request.platform)
    if streamed:
        body["stream"] = True
    _CHECKS[operation](request, body)


def _platform(platform: generation_pb2.Platform) -> _Body:
    """The platform's arguments as fields of a body."""
    return {
        field.name: _PLATFORM[field.name](value)
        for field, value in platform.ListFields()
        if field.name in _PLATFORM
    }


def _check_generate(request: generation_pb2.Request, body: _Body) -> None:
    _check_asked(request.generate, body)


def _check_count(request: generation_pb2.Request, body: _Body) -> None:
    _check_asked(request.count_tokens, body)


def _check_asked(generate: _Generate, body: _Body) -> None:
    chat = shaped(_body(generate) | body, wire.ChatRequest)
    _check_together(chat)
    check_messages(generate.messages)
    _check_tools(generate)
    if generate.HasField("tool_choice"):
        _check_choice(generate)
    _check_extra(generate)


# By operation; the body has what every operation's may have.
_CHECKS: dict[str, Callable[[generation_pb2.Request, _Body], None]] = {
    operations.GENERATE: _check_generate,
    operations.COUNT_TOKENS: _check_count,
    operations.TRANSCRIBE: check_transcribe,
    operations.SPEAK: check_speak,
    operations.COMPLETE: check_complete,
    operations.EMBED: check_embed,
    operations.IMAGE: check_image,
    operations.MODERATE: check_moderate,
    operations.RERANK: check_rerank,
}


def _body(generate: _Generate) -> _Body:
    """The request as a chat body, as far as types and limits of that are checked."""
    body: _Body = {}
    for field, value in generate.ListFields():
        name = field.name
        if name in _NAMES:
            body[_NAMES[name]] = value
        elif name in _FIELDS:
            _FIELDS[name](body, generate)
    return body


# Fields that are the same on both, by their names in the hub.
_NAMES = {"model": "model", **{hub: chat for chat, hub in _SCALARS.items()}}

_ROLES = {
    content_pb2.ROLE_SYSTEM: "system",
    content_pb2.ROLE_DEVELOPER: "developer",
    content_pb2.ROLE_USER: "user",
    content_pb2.ROLE_ASSISTANT: "assistant",
    content_pb2.ROLE_TOOL: "tool",
}


def _messages(body: _Body, generate: _Generate) -> None:
    """The roles; what the messages are made of is `check_messages`'s."""
    body["messages"] = [
        # A role that is newer than this edge is as wrong as an unknown word.
        {"role": _ROLES.get(message.role, str(message.role))} if message.role else {}
        for message in generate.messages
    ]


def _tools(body: _Body, generate: _Generate) -> None:
    if generate.legacy_functions:
        tools = enumerate(generate.tools)
        body["functions"] = [_function(tool, f"functions[{i}]") for i, tool in tools]
    else:
        body["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(generate.tools)]


def _tool(tool: generation_pb2.Tool, where: str) -> _Body:
    kind = tool.WhichOneof("kind")
    written: _Body
    if kind == "function":
        written = {"type": "function", "function": _function(tool, f"{where}.function")}
    elif kind == "custom":
        custom: _Body = {"name": tool.custom.name}
        if tool.custom.format:
            custom["format"] = read_json(tool.custom.format, f"{where}.custom.format")
        written = {"type": "custom", "custom": custom}
    else:
        written = {"type": tool.hosted.type} if tool.hosted.type else {}
    if tool.cache_control:
        written["cache_control"] = read_json(tool.cache_control, f"{where}.cache_control")
    return written


def _function(tool: generation_pb2.Tool, where: str) -> _Body:
    written: _Body = {"name": tool.function.name}
    if tool.function.parameters:
        written["parameters"] = read_json(tool.function.parameters, f"{where}.parameters")
    return written


def _response_format(body: _Body, generate: _Generate) -> None:
    form, where = generate.response_format, "response_format"
    if form.kind == _Format.KIND_OTHER:
        body[where] = read_json(form.json, where)
        return
    written: _Body = {"type": _FORMATS.get(form.kind, "")} if form.kind else {}
    if written.get("type") == "":
        raise invalid(f"{where}.type", f"Invalid value for '{where}.type': {form.kind}.")
    if form.kind == _Format.KIND_JSON_SCHEMA:
        schema: _Body = {"name": form.name} if form.name else {}
        if form.schema:
            schema["schema"] = read_json(form.schema, f"{where}.json_schema.schema")
        written["json_schema"] = schema
    elif form.schema:
        read_json(form.schema, f"{where}.schema")
    body[where] = written


_FORMATS = {
    _Format.KIND_TEXT: "text",
    _Format.KIND_JSON_OBJECT: "json_object",
    _Format.KIND_JSON_SCHEMA: "json_schema",
}


def _audio(body: _Body, generate: _Generate) -> None:
    audio = generate.audio
    written: _Body = {"format": audio.format} if audio.format else {}
    if audio.voice.startswith((b"{", b'"')):
        written["voice"] = read_json(audio.voice, "audio.voice")
    elif audio.voice:
        written["voice"] = read_text(audio.voice, "audio.voice")
    body["audio"] = written


def _json_field(name: str) -> Callable[[_Body, _Generate], None]:
    def write(body: _Body, generate: _Generate) -> None:
        body[name] = read_json(getattr(generate, name), name)

    return write


_FIELDS: dict[str, Callable[[_Body, _Generate], None]] = {
    "messages": _messages,
    "stream_options": lambda body, _: body.update(stream_options={}),
    "logit_bias": lambda body, generate: body.update(logit_bias=dict(generate.logit_bias)),
    "stop": lambda body, generate: body.update(stop=list(generate.stop)),
    "tools": _tools,
    "response_format": _response_format,
    "audio": _audio,
    "prediction": _json_field("prediction"),
    "web_search_options": _json_field("web_search_options"),
}


# The platform's arguments that have limits; its headers are checked where they are read.
_PLATFORM: dict[str, Callable[[Any], Any]] = {
    "tags": list,
    "signature": str,
    "region": str,
    **dict.fromkeys(
        ("hedge_after_ms", "connect_timeout_ms", "first_token_timeout_ms", "stall_timeout_ms"), int
    ),
    "provider": lambda data: read_json(data, "provider"),
    "models": list,
}


def _check_tools(generate: _Generate) -> None:
    owner = "functions" if generate.legacy_functions else "tools"
    for index, tool in enumerate(generate.tools):
        where = f"{owner}[{index}]"
        if tool.WhichOneof("kind") is None or (tool.HasField("hosted") and not tool.hosted.type):
            raise missing(f"{where}.type")
        if tool.HasField("hosted"):
            read_object(tool.hosted.json, where)
        for name, data in tool.extra.items():
            read_json(data, f"{where}.{name}")


def _check_choice(generate: _Generate) -> None:
    choice = generate.tool_choice
    word = "custom" if choice.kind == content_pb2.TOOL_KIND_CUSTOM else "function"
    where = "tool_choice"
    if choice.mode == _Choice.MODE_UNSPECIFIED:
        raise missing(f"{where}.type")
    if choice.mode not in _Choice.Mode.values():
        raise invalid(where, f"Invalid value for '{where}': {choice.mode}.")
    if choice.hosted:
        read_object(choice.hosted, where)
    elif choice.mode == _Choice.MODE_HOSTED:
        raise missing(f"{where}.type")
    elif choice.mode == _Choice.MODE_NAMED:
        param = "function_call.name" if generate.legacy_functions else f"{where}.{word}.name"
        if not any(choice.names):
            raise missing(param)
        if len(choice.names) > 1:
            raise invalid(param, f"Invalid '{param}': one tool can be named, not several.")
    elif choice.mode == _Choice.MODE_ALLOWED:
        tools = f"{where}.allowed_tools.tools"
        if not choice.names:
            raise missing(tools)
        for index, name in enumerate(choice.names):
            if not name:
                raise missing(f"{tools}[{index}].{word}.name")


def _check_extra(generate: _Generate) -> None:
    """JSON that goes on as it is."""
    for name, data in generate.extra.items():
        if name in _KNOWN:
            raise invalid(name, f"'{name}' has a field of its own: it cannot stand in 'extra'.")
        read_json(data, name)
    for name, data in generate.reasoning.extra.items():
        read_json(data, f"reasoning.{name}")
    for name in ("prompt", "context_management"):
        if data := getattr(generate.responses, name):
            read_object(data, name)
