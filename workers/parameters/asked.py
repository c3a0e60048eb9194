"""The parameters of a request by their OpenAI names, which are the columns of every table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import generation_pb2

_Generate = generation_pb2.GenerateRequest
_Choice = generation_pb2.ToolChoice
_Format = generation_pb2.ResponseFormat

# The columns of the public parameter table, in its order; two of them are split by value.
SEED_COLUMNS = (
    "temperature",
    "max_completion_tokens",
    "max_tokens",
    "top_p",
    "stream",
    "stream_options",
    "stop",
    "n",
    "presence_penalty",
    "frequency_penalty",
    "functions",
    "function_call",
    "logit_bias",
    "user",
    "response_format",
    "seed",
    "tools",
    "tool_choice",
    "logprobs",
    "top_logprobs",
    "extra_headers",
)
_SPLIT = {
    "response_format": ("json_object", "json_schema"),
    "tool_choice": ("auto", "none", "required", "named"),
}
_FURTHER = (
    "parallel_tool_calls",
    "reasoning_effort",
    "verbosity",
    "service_tier",
    "metadata",
    "store",
    "prediction",
    "modalities",
    "audio",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "web_search_options",
    "role=developer",
    "role=function",
    "message_name",
)
COLUMNS = (
    *(
        column
        for name in SEED_COLUMNS
        for column in ([f"{name}={word}" for word in _SPLIT.get(name, ())] or [name])
    ),
    *_FURTHER,
)

_CHOICES = {
    _Choice.MODE_AUTO: "auto",
    _Choice.MODE_NONE: "none",
    _Choice.MODE_REQUIRED: "required",
    _Choice.MODE_NAMED: "named",
    _Choice.MODE_HOSTED: "named",
}
_FORMS = {_Format.KIND_JSON_OBJECT: "json_object", _Format.KIND_JSON_SCHEMA: "json_schema"}


def base_name(parameter: str) -> str:
    """The name as a caller writes it: `tool_choice` for `tool_choice=required`."""
    return parameter.partition("=")[0]


def asked(request: _Generate) -> dict[str, Any]:
    """What the request sets, by column, as the JSON values of OpenAI's format.

    `tools`, `functions`, `tool_choice=...`, `function_call`, `response_format=...` and `audio` are
    the hub's messages: their form is what dialects differ in. A tool choice of allowed tools is
    `tool_choice=required` or `tool_choice=auto`, an unknown response format `response_format`.
    `role=...` and `message_name` are left to whoever writes the messages, `extra_headers` to
    whoever writes the headers. Raises `InferenceError` where JSON is due and there is none.
    """
    found: dict[str, Any] = {}
    # In the order of their numbers, so that of both limits the newer one is first.
    for field, value in request.ListFields():
        name = field.name
        if name in _SCALARS:
            found[name] = value
        elif name == "responses":
            found.update((f.name, option) for f, option in value.ListFields() if f.name in _OPTIONS)
        elif name in _OTHERS:
            column, written = _OTHERS[name](request, value)
            if column:
                found[column] = written
    return found


def _stream(_: _Generate, value: bool) -> tuple[str, Any]:
    return ("stream" if value else "", True)


def _stream_options(_: _Generate, value: generation_pb2.StreamOptions) -> tuple[str, Any]:
    return "stream_options", {field.name: option for field, option in value.ListFields()}


def _logit_bias(_: _Generate, value: Mapping[str, float]) -> tuple[str, Any]:
    return "logit_bias", {k: int(v) if v.is_integer() else v for k, v in value.items()}


def _effort(_: _Generate, value: generation_pb2.ReasoningOptions) -> tuple[str, Any]:
    return ("reasoning_effort" if value.HasField("effort") else "", value.effort)


def _tools(request: _Generate, value: Any) -> tuple[str, Any]:
    return "functions" if request.legacy_functions else "tools", value


def _tool_choice(request: _Generate, value: generation_pb2.ToolChoice) -> tuple[str, Any]:
    if value.mode == _Choice.MODE_ALLOWED:
        return f"tool_choice={'required' if value.required else 'auto'}", value
    word = _CHOICES.get(value.mode)
    if word and request.legacy_functions:
        return "function_call", value
    return (f"tool_choice={word}" if word else "", value)


def _response_format(_: _Generate, value: _Format) -> tuple[str, Any]:
    if value.kind in (_Format.KIND_UNSPECIFIED, _Format.KIND_TEXT):
        # Text is what answers are anyway.
        return "", value
    word = _FORMS.get(value.kind)
    return f"response_format={word}" if word else "response_format", value


def _json(name: str) -> Callable[[_Generate, bytes], tuple[str, Any]]:
    def read(_: _Generate, data: bytes) -> tuple[str, Any]:
        try:
            return name, orjson.loads(data)
        except orjson.JSONDecodeError as exc:
            raise InferenceError(
                "invalid_request", f"{name} is not JSON: {exc}", param=name
            ) from exc

    return read


# Goes out as it is: fields of the hub request that hold plain JSON values.
_SCALARS = frozenset(
    {
        "frequency_penalty",
        "logprobs",
        "max_tokens",
        "max_tool_calls",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "seed",
        "service_tier",
        "store",
        "temperature",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    }
)
# What only the Responses API has: providers without it leave it out, or refuse.
_OPTIONS = frozenset({"context_management", "prompt", "truncation"})
# All others that are parameters: their column, empty for none, and value.
_OTHERS: Mapping[str, Callable[[_Generate, Any], tuple[str, Any]]] = {
    "audio": lambda _, value: ("audio", value),
    "logit_bias": _logit_bias,
    "max_output_tokens": lambda _, value: ("max_completion_tokens", value),
    "metadata": lambda _, value: ("metadata", dict(value)),
    "modalities": lambda _, value: ("modalities", list(value)),
    "prediction": _json("prediction"),
    "reasoning": _effort,
    "response_format": _response_format,
    "stop": lambda _, value: ("stop", list(value)),
    "stream": _stream,
    "stream_options": _stream_options,
    "tool_choice": _tool_choice,
    "tools": _tools,
    "web_search_options": _json("web_search_options"),
}
