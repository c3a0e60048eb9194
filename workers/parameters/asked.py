"""The parameters of a request by their OpenAI names, which are the columns of every table."""

from __future__ import annotations

from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2

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

# Goes out as it is: optional fields of the hub request that hold plain JSON values.
_SCALARS = (
    "temperature",
    "top_p",
    "n",
    "presence_penalty",
    "frequency_penalty",
    "user",
    "seed",
    "logprobs",
    "top_logprobs",
    "parallel_tool_calls",
    "verbosity",
    "service_tier",
    "store",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
)
_LISTS = ("stop", "modalities")
_JSON = ("prediction", "web_search_options")
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
    # Before its deprecated twin: where both go to one path, the first one stays.
    if request.HasField("max_output_tokens"):
        found["max_completion_tokens"] = request.max_output_tokens
    if request.HasField("max_tokens"):
        found["max_tokens"] = request.max_tokens
    for name in _SCALARS:
        if request.HasField(name):  # type: ignore[arg-type]
            found[name] = getattr(request, name)
    if request.stream:
        found["stream"] = True
    for name in _LISTS:
        if items := getattr(request, name):
            found[name] = list(items)
    for name in _JSON:
        if data := getattr(request, name):
            found[name] = _json(data, name)
    if request.HasField("stream_options"):
        options = request.stream_options.ListFields()
        found["stream_options"] = {field.name: value for field, value in options}
    if request.logit_bias:
        bias = request.logit_bias.items()
        found["logit_bias"] = {k: int(v) if v.is_integer() else v for k, v in bias}
    if request.metadata:
        found["metadata"] = dict(request.metadata)
    if request.reasoning.HasField("effort"):
        found["reasoning_effort"] = request.reasoning.effort
    if request.HasField("audio"):
        found["audio"] = request.audio
    if request.tools:
        found["functions" if request.legacy_functions else "tools"] = request.tools
    if column := _choice_column(request):
        found[column] = request.tool_choice
    if column := _form_column(request.response_format):
        found[column] = request.response_format
    return found


def _choice_column(request: _Generate) -> str:
    choice = request.tool_choice
    if not request.HasField("tool_choice") or choice.mode == _Choice.MODE_UNSPECIFIED:
        return ""
    if request.legacy_functions:
        return "function_call"
    if choice.mode == _Choice.MODE_ALLOWED:
        return "tool_choice=required" if choice.required else "tool_choice=auto"
    return "tool_choice=" + _CHOICES[choice.mode]


def _form_column(form: _Format) -> str:
    if form.kind in (_Format.KIND_UNSPECIFIED, _Format.KIND_TEXT):
        # Text is what answers are anyway.
        return ""
    word = _FORMS.get(form.kind)
    return f"response_format={word}" if word else "response_format"


def uses_messages(request: _Generate) -> set[str]:
    """Which of role=developer, role=function and message_name the request uses."""
    used = set()
    for message in request.messages:
        if message.role == content_pb2.ROLE_DEVELOPER:
            used.add("role=developer")
        if message.HasField("name"):
            used.add("message_name")
        if any(part.tool_result.legacy_function for part in message.parts):
            used.add("role=function")
    return used


def _json(data: bytes, name: str) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise InferenceError("invalid_request", f"{name} is not JSON: {exc}", param=name) from exc
