"""Turns a hub request into the body of a chat completions call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2
from workers.dialects.openai_chat import families
from workers.dialects.openai_chat.messages import chat_messages, fragment, merge
from workers.provider import Call, Provider

_Generate = generation_pb2.GenerateRequest
_Choice = generation_pb2.ToolChoice
_Format = generation_pb2.ResponseFormat

# Fields that go out under their own name when they are set.
_OPTIONAL = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "logprobs",
    "top_logprobs",
    "n",
    "max_tokens",
    "parallel_tool_calls",
    "verbosity",
    "service_tier",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "store",
)
_REPEATED = ("stop", "modalities")
_JSON = ("prediction", "web_search_options")
_MODES = {_Choice.MODE_AUTO: "auto", _Choice.MODE_NONE: "none", _Choice.MODE_REQUIRED: "required"}


def call_of(request: generation_pb2.Request, model: str, provider: Provider) -> Call:
    """The call to make.

    Raises:
        InferenceError: a field is not JSON where it has to be, or a parameter has to be dropped
            and the caller forbids that.
    """
    generate = request.generate
    body: dict[str, Any] = {
        "model": model,
        "messages": chat_messages(generate, provider.quirks),
    }
    for name in _OPTIONAL:
        if generate.HasField(name):  # type: ignore[arg-type]
            body[name] = getattr(generate, name)
    for name in _REPEATED:
        if values := getattr(generate, name):
            body[name] = list(values)
    for name in _JSON:
        if value := getattr(generate, name):
            body[name] = fragment(value, name)
    dropped = _write_special(generate, body)
    _write_tools(generate, body, provider)
    _write_form(generate, body)
    _write_stream(generate, body, provider)
    merge(body, generate.extra)
    dropped += _fit(body, model, provider)
    platform = request.platform
    if dropped and platform.HasField("drop_params") and not platform.drop_params:
        names = ", ".join(dropped)
        raise InferenceError(
            "unsupported_parameter",
            f"{model} does not take {names}: leave it out, or set drop_params to true",
            param=dropped[0],
        )
    return Call("/chat/completions", orjson.dumps(body), dropped=dropped)


def _write_special(generate: _Generate, body: dict[str, Any]) -> tuple[str, ...]:
    """Fields that chat spells differently; returns what chat has no field for."""
    if generate.logit_bias:
        bias = generate.logit_bias.items()
        body["logit_bias"] = {k: int(v) if v.is_integer() else v for k, v in bias}
    if generate.metadata:
        body["metadata"] = dict(generate.metadata)
    if generate.HasField("max_output_tokens"):
        body["max_completion_tokens"] = generate.max_output_tokens
    if generate.HasField("audio"):
        body["audio"] = {"format": generate.audio.format, "voice": _voice(generate.audio.voice)}
    dropped: tuple[str, ...] = ()
    if generate.HasField("reasoning"):
        if generate.reasoning.HasField("effort"):
            body["reasoning_effort"] = generate.reasoning.effort
        if generate.reasoning.HasField("summary"):
            dropped += ("reasoning.summary",)
    if generate.HasField("max_tool_calls"):
        dropped += ("max_tool_calls",)
    return dropped


def _voice(voice: bytes) -> str | orjson.Fragment:
    if voice.startswith((b"{", b'"')):
        return fragment(voice, "audio.voice")
    return voice.decode("utf-8", "replace")


def _write_tools(generate: _Generate, body: dict[str, Any], provider: Provider) -> None:
    if generate.tools and generate.legacy_functions:
        body["functions"] = [_legacy(tool, i) for i, tool in enumerate(generate.tools)]
    elif generate.tools:
        body["tools"] = [_tool(tool, i, provider) for i, tool in enumerate(generate.tools)]
    if not generate.HasField("tool_choice"):
        return
    choice = generate.tool_choice
    if generate.legacy_functions:
        named = {"name": choice.names[0]} if choice.names else "auto"
        body["function_call"] = "none" if choice.mode == _Choice.MODE_NONE else named
    elif choice.mode in _MODES:
        body["tool_choice"] = _MODES[choice.mode]
    elif choice.hosted:
        # A hosted tool, or a list of allowed ones that names alone cannot tell.
        body["tool_choice"] = fragment(choice.hosted, "tool_choice")
    elif choice.mode == _Choice.MODE_NAMED:
        body["tool_choice"] = _named(choice.names[0] if choice.names else "", choice.kind)
    elif choice.mode == _Choice.MODE_ALLOWED:
        allowed = {
            "mode": "required" if choice.required else "auto",
            "tools": [_named(name, choice.kind) for name in choice.names],
        }
        body["tool_choice"] = {"type": "allowed_tools", "allowed_tools": allowed}


def _named(name: str, kind: content_pb2.ToolKind.ValueType) -> dict[str, Any]:
    word = "custom" if kind == content_pb2.TOOL_KIND_CUSTOM else "function"
    return {"type": word, word: {"name": name}}


def _tool(tool: generation_pb2.Tool, index: int, provider: Provider) -> Any:
    where = f"tools[{index}]"
    kind = tool.WhichOneof("kind")
    if kind == "hosted":
        return fragment(tool.hosted.json, where)
    if kind == "custom":
        custom: dict[str, Any] = {"name": tool.custom.name}
        if tool.custom.HasField("description"):
            custom["description"] = tool.custom.description
        if tool.custom.format:
            custom["format"] = fragment(tool.custom.format, where + ".custom.format")
        written: dict[str, Any] = {"type": "custom", "custom": custom}
    else:
        written = {"type": "function", "function": _function(tool, index)}
    if tool.cache_control and provider.quirks.get("cache_control") == "send":
        written["cache_control"] = fragment(tool.cache_control, where + ".cache_control")
    return merge(written, tool.extra, where + ".")


def _legacy(tool: generation_pb2.Tool, index: int) -> Any:
    """A function of the deprecated field, where it stands without an owner."""
    where = f"functions[{index}]."
    extra = {name.removeprefix("function."): value for name, value in tool.extra.items()}
    return merge(_function(tool, index), extra, where)


def _function(tool: generation_pb2.Tool, index: int) -> dict[str, Any]:
    function = tool.function
    written: dict[str, Any] = {"name": function.name}
    if function.HasField("description"):
        written["description"] = function.description
    if function.parameters:
        where = f"tools[{index}].function.parameters"
        written["parameters"] = fragment(function.parameters, where)
    if function.HasField("strict"):
        written["strict"] = function.strict
    return written


def _write_form(generate: _Generate, body: dict[str, Any]) -> None:
    form = generate.response_format
    write = _FORMS.get(form.kind)
    if write is not None and generate.HasField("response_format"):
        body["response_format"] = write(form)


def _json_object(form: _Format) -> dict[str, Any]:
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


_FORMS: dict[int, Callable[[_Format], Any]] = {
    _Format.KIND_TEXT: lambda _: {"type": "text"},
    _Format.KIND_JSON_OBJECT: _json_object,
    _Format.KIND_JSON_SCHEMA: _json_schema,
    _Format.KIND_OTHER: lambda form: fragment(form.json, "response_format"),
}


def _write_stream(generate: _Generate, body: dict[str, Any], provider: Provider) -> None:
    if not generate.stream:
        return
    body["stream"] = True
    options: dict[str, bool] = {}
    # Asked for whether or not the caller did: usage is what answers are charged by.
    if provider.quirks.get("stream_usage") != "always":
        options["include_usage"] = True
    if generate.stream_options.HasField("include_obfuscation"):
        options["include_obfuscation"] = generate.stream_options.include_obfuscation
    if options:
        body["stream_options"] = options


def _fit(body: dict[str, Any], model: str, provider: Provider) -> tuple[str, ...]:
    """Adapts the body to the provider and the model's family; returns what had to go."""
    field = provider.quirks.get("max_tokens_field")
    if field:
        limits = [body.pop(name, None) for name in ("max_completion_tokens", "max_tokens")]
        limit = next((limit for limit in limits if limit is not None), None)
        if limit is not None:
            body[field] = limit
    family = families.family_of(provider.quirks.get("model_families", ""), model)
    return families.apply(family, body) if family else ()
