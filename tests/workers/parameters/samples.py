"""One request for every column of the parameter tables, in protobuf's text format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format

from broker.v1 import generation_pb2

USER = "messages { role: ROLE_USER parts { text { text: 'Who are you?' } } } "
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
_SCHEMA = (
    '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],'
    '"additionalProperties":false}'
)
_FUNCTION = (
    f"tools {{ function {{ name: 'weather' description: 'Tells.' parameters: '{_SCHEMA}' }} }} "
)
_TOOLS = _FUNCTION + _FUNCTION.replace("weather", "time")
_LEGACY = "legacy_functions: true " + _TOOLS
_CHOICE = "tool_choice {{ mode: MODE_{} names: 'weather' kind: TOOL_KIND_FUNCTION }} "
_MODE = "tool_choice {{ mode: MODE_{} }} "
_FORM = "response_format {{ kind: KIND_{} {} }} "
_CALLED = (
    "messages { role: ROLE_ASSISTANT parts { tool_call { name: 'weather' arguments: '{}'"
    " legacy_function: true } } } messages { role: ROLE_TOOL parts { tool_result { name: 'weather'"
    " legacy_function: true parts { text { text: 'rain' } } } } } "
)


@dataclass(frozen=True)
class Sample:
    """What asks for a parameter, what it needs around it, and its value in OpenAI's format."""

    asks: str
    value: Any = None
    around: str = ""
    # Messages, which stand before the question.
    before: str = ""
    platform: str = ""


SAMPLES: dict[str, Sample] = {
    "temperature": Sample("temperature: 0.5", 0.5),
    "max_completion_tokens": Sample("max_output_tokens: 3000", 3000),
    "max_tokens": Sample("max_tokens: 3000", 3000),
    "top_p": Sample("top_p: 0.5", 0.5),
    "stream": Sample("stream: true", True),
    "stream_options": Sample("stream_options { include_usage: true }", around="stream: true "),
    "stop": Sample("stop: 'END'", ["END"]),
    "n": Sample("n: 2", 2),
    "presence_penalty": Sample("presence_penalty: 0.5", 0.5),
    "frequency_penalty": Sample("frequency_penalty: 0.25", 0.25),
    "functions": Sample(_LEGACY),
    "function_call": Sample(_CHOICE.format("NAMED"), around=_LEGACY),
    "logit_bias": Sample("logit_bias { key: '7' value: -5 }", {"7": -5}),
    "user": Sample("user: 'user-7'", "user-7"),
    "response_format=json_object": Sample(_FORM.format("JSON_OBJECT", "")),
    "response_format=json_schema": Sample(
        _FORM.format("JSON_SCHEMA", f"name: 'place' strict: true schema: '{_SCHEMA}'")
    ),
    "seed": Sample("seed: 7", 7),
    "tools": Sample(_TOOLS),
    "tool_choice=auto": Sample(_MODE.format("AUTO"), "auto", around=_TOOLS),
    "tool_choice=none": Sample(_MODE.format("NONE"), "none", around=_TOOLS),
    "tool_choice=required": Sample(_MODE.format("REQUIRED"), "required", around=_TOOLS),
    "tool_choice=named": Sample(
        _CHOICE.format("NAMED"),
        {"type": "function", "function": {"name": "weather"}},
        around=_TOOLS,
    ),
    "logprobs": Sample("logprobs: true", True),
    "top_logprobs": Sample("top_logprobs: 2", 2, around="logprobs: true "),
    "extra_headers": Sample("", platform="extra_headers { key: 'X-Custom-Header' value: 'v' }"),
    "parallel_tool_calls": Sample("parallel_tool_calls: false", False, around=_TOOLS),
    "reasoning_effort": Sample("reasoning { effort: 'high' }", "high"),
    "verbosity": Sample("verbosity: 'low'", "low"),
    "service_tier": Sample("service_tier: 'flex'", "flex"),
    "metadata": Sample("metadata { key: 'user_id' value: 'id-9' }", {"user_id": "id-9"}),
    "store": Sample("store: true", True),
    "prediction": Sample(
        'prediction: \'{"type":"content","content":"x"}\'',
        {"type": "content", "content": "x"},
    ),
    "modalities": Sample("modalities: 'text' modalities: 'audio'", ["text", "audio"]),
    "audio": Sample("audio { format: 'wav' voice: 'alloy' }", {"format": "wav", "voice": "alloy"}),
    "prompt_cache_key": Sample("prompt_cache_key: 'k'", "k"),
    "prompt_cache_retention": Sample("prompt_cache_retention: '24h'", "24h"),
    "safety_identifier": Sample("safety_identifier: 'id-7'", "id-7"),
    "web_search_options": Sample("web_search_options: '{}'", {}),
    "role=developer": Sample(
        "", before="messages { role: ROLE_DEVELOPER parts { text { text: 'Be kind.' } } } "
    ),
    "role=function": Sample("", before=USER + _CALLED, around=_LEGACY),
    "message_name": Sample(
        "", before="messages { role: ROLE_USER name: 'Ann' parts { text { text: 'Hi.' } } } "
    ),
}

_KEPT = {
    "functions": [
        {"name": name, "description": "Tells.", "parameters": SCHEMA}
        for name in ("weather", "time")
    ],
    "function_call": {"name": "weather"},
    "response_format=json_object": {"type": "json_object"},
    "response_format=json_schema": {
        "type": "json_schema",
        "json_schema": {"name": "place", "strict": True, "schema": SCHEMA},
    },
}
_KEPT["tools"] = [{"type": "function", "function": written} for written in _KEPT["functions"]]


def openai_value(column: str) -> Any:
    """The value of the column's sample as OpenAI's chat format has it."""
    return _KEPT.get(column, SAMPLES[column].value)


def request(
    column: str, *, effort: str | None = None, more: str = "", without: bool = False
) -> generation_pb2.Request:
    """The sample's request; `without` leaves the parameter itself out."""
    sample = SAMPLES[column]
    before = "" if without and column.startswith(("role=", "message_")) else sample.before
    found = generation_pb2.Request()
    text_format.Parse(before + USER + sample.around, found.generate)
    if not without:
        text_format.Merge(sample.asks, found.generate)
        text_format.Parse(sample.platform, found.platform)
    if effort is not None and not found.generate.reasoning.HasField("effort"):
        found.generate.reasoning.effort = effort
    text_format.Merge(more, found.generate)
    return found
