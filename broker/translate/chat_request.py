"""Translates the body of POST /v1/chat/completions into a hub request.

One parse into plain Python values, one check of their types and limits against `wire.ChatRequest`
(under a microsecond per KB), one walk that builds the hub request. The plain values are what the
unknown fields are taken from: they travel on in `extra`, so that nothing sent to a provider with
the same format is lost. Where a JSON object names a field twice, the last one counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.translate import wire
from broker.translate.body import read_body, shaped
from broker.translate.messages import add_messages
from broker.translate.platform import PLATFORM
from broker.translate.refusals import invalid, json_text, missing
from broker.translate.tools import add_functions, add_tools, choose_function, choose_tool
from broker.v1 import generation_pb2

_Generate = generation_pb2.GenerateRequest
_Format = generation_pb2.ResponseFormat


def parse_chat(body: bytes) -> generation_pb2.Request:
    """The hub request for a body.

    Raises:
        InferenceError: invalid_request, with `param` as a dotted path into the body.
    """
    source = read_body(body)
    chat = shaped(source, wire.ChatRequest)
    request = generation_pb2.Request()
    generate = request.generate
    generate.surface = generation_pb2.SURFACE_CHAT
    generate.model = chat.model
    add_messages(generate, chat.messages, source["messages"])
    if chat.tools:
        add_tools(generate, chat.tools, source["tools"])
    if chat.functions:
        add_functions(generate, chat.functions, source["functions"])
    for name, value in source.items():
        if value is None or name in _DONE:
            continue
        if name in _SCALARS:
            setattr(generate, _SCALARS[name], value)
        elif name in _FIELDS:
            _FIELDS[name](generate, value)
        elif name in PLATFORM:
            PLATFORM[name](request.platform, value)
        else:
            generate.extra[name] = json_text(value, name)
    _check_together(chat)
    return request


def _check_together(chat: wire.ChatRequest) -> None:
    """Fields that are wrong only beside others."""
    if chat.stream_options is not None and not chat.stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise invalid("stream_options", message)
    if chat.top_logprobs is not None and not chat.logprobs:
        message = "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled."
        raise invalid("top_logprobs", message)
    if chat.functions is not None and chat.tools is not None:
        message = "Give 'tools' or the deprecated 'functions', not both."
        raise invalid("functions", message)
    if chat.function_call is not None and chat.tool_choice is not None:
        message = "Give 'tool_choice' or the deprecated 'function_call', not both."
        raise invalid("function_call", message)


# Fields that go over as they are, by their names in the hub.
_SCALARS = {
    "stream": "stream",
    "temperature": "temperature",
    "top_p": "top_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "logprobs": "logprobs",
    "top_logprobs": "top_logprobs",
    "n": "n",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_tokens",
    "parallel_tool_calls": "parallel_tool_calls",
    "verbosity": "verbosity",
    "service_tier": "service_tier",
    "user": "user",
    "safety_identifier": "safety_identifier",
    "prompt_cache_key": "prompt_cache_key",
    "prompt_cache_retention": "prompt_cache_retention",
    "store": "store",
}
# Translated before the walk.
_DONE = frozenset({"model", "messages", "tools", "functions"})


def _keep_nested(generate: _Generate, owner: str, raw: Any, known: frozenset[str]) -> None:
    """Keep unknown fields of an object under dotted names, such as `stream_options.x`."""
    if raw.keys() <= known:
        return
    for name in raw.keys() - known:
        if raw[name] is not None:
            path = f"{owner}.{name}"
            generate.extra[path] = json_text(raw[name], path)


_STREAM_OPTIONS = frozenset(wire.StreamOptions.__struct_fields__)


def _stream_options(generate: _Generate, value: dict[str, Any]) -> None:
    options = generate.stream_options
    options.SetInParent()
    if value.get("include_usage") is not None:
        options.include_usage = value["include_usage"]
    if value.get("include_obfuscation") is not None:
        options.include_obfuscation = value["include_obfuscation"]
    _keep_nested(generate, "stream_options", value, _STREAM_OPTIONS)


def _stop(generate: _Generate, value: str | list[str]) -> None:
    generate.stop.extend([value] if isinstance(value, str) else value)


def _logit_bias(generate: _Generate, value: dict[str, float | None]) -> None:
    for token, bias in value.items():
        if bias is not None:
            generate.logit_bias[token] = bias


def _metadata(generate: _Generate, value: dict[str, str | None]) -> None:
    for name, text in value.items():
        if text is not None:
            generate.metadata[name] = text


def _tool_choice(generate: _Generate, value: str | dict[str, Any]) -> None:
    choose_tool(generate.tool_choice, value)


def _function_call(generate: _Generate, value: str | dict[str, Any]) -> None:
    generate.legacy_functions = True
    choose_function(generate.tool_choice, value)


_FORMAT = frozenset({"type"})
_FORMAT_WITH_OWN_SCHEMA = frozenset({"type", "schema"})
_FORMAT_WITH_SCHEMA = frozenset({"type", "json_schema"})
_JSON_SCHEMA = frozenset(wire.JsonSchema.__struct_fields__)


def _response_format(generate: _Generate, value: dict[str, Any]) -> None:
    hub, owner = generate.response_format, "response_format"
    kind = value["type"]
    if kind == "text":
        hub.kind = _Format.KIND_TEXT
        _keep_nested(generate, owner, value, _FORMAT)
    elif kind == "json_object":
        hub.kind = _Format.KIND_JSON_OBJECT
        if value.get("schema") is not None:  # Together, Fireworks and vLLM take one here
            hub.schema = json_text(value["schema"], f"{owner}.schema")
        _keep_nested(generate, owner, value, _FORMAT_WITH_OWN_SCHEMA)
    elif kind == "json_schema":
        _json_schema(generate, value)
        _keep_nested(generate, owner, value, _FORMAT_WITH_SCHEMA)
    else:
        hub.kind = _Format.KIND_OTHER
        hub.json = json_text(value, owner)


def _json_schema(generate: _Generate, value: dict[str, Any]) -> None:
    hub, owner = generate.response_format, "response_format.json_schema"
    wanted = value.get("json_schema")
    if wanted is None:
        raise missing(owner)
    hub.kind = _Format.KIND_JSON_SCHEMA
    if wanted.get("name") is not None:
        hub.name = wanted["name"]
    if wanted.get("description") is not None:
        hub.description = wanted["description"]
    if wanted.get("schema") is not None:
        hub.schema = json_text(wanted["schema"], f"{owner}.schema")
    if wanted.get("strict") is not None:
        hub.strict = wanted["strict"]
    _keep_nested(generate, owner, wanted, _JSON_SCHEMA)


def _effort(generate: _Generate, value: str) -> None:
    generate.reasoning.effort = value


def _modalities(generate: _Generate, value: list[str]) -> None:
    generate.modalities.extend(value)


_AUDIO = frozenset(wire.AudioOptions.__struct_fields__)


def _audio(generate: _Generate, value: dict[str, Any]) -> None:
    voice, hub = value["voice"], generate.audio
    hub.format = value["format"]
    hub.voice = voice.encode() if isinstance(voice, str) else json_text(voice, "audio.voice")
    _keep_nested(generate, "audio", value, _AUDIO)


def _prediction(generate: _Generate, value: dict[str, Any]) -> None:
    generate.prediction = json_text(value, "prediction")


def _web_search(generate: _Generate, value: dict[str, Any]) -> None:
    generate.web_search_options = json_text(value, "web_search_options")


_FIELDS: dict[str, Callable[[_Generate, Any], None]] = {
    "stream_options": _stream_options,
    "stop": _stop,
    "logit_bias": _logit_bias,
    "metadata": _metadata,
    "tool_choice": _tool_choice,
    "function_call": _function_call,
    "response_format": _response_format,
    "reasoning_effort": _effort,
    "modalities": _modalities,
    "audio": _audio,
    "prediction": _prediction,
    "web_search_options": _web_search,
}
