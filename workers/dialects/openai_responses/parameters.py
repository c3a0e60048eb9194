"""The parameter table of the Responses format."""

from __future__ import annotations

from workers.parameters import (
    Action,
    Reasoning,
    Table,
    drop,
    emulate,
    family,
    keep,
    mapped,
    reject,
    rename,
    words,
)

_EFFORT = "reasoning.effort"
_CHOICES = ("auto", "none", "required", "named")


# What OpenAI takes.
RESPONSES = Table(
    keep(
        "temperature",
        "top_p",
        "stream",
        "user",
        "top_logprobs",
        "parallel_tool_calls",
        "service_tier",
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
    ),
    rename("max_completion_tokens", "max_output_tokens"),
    rename("max_tokens", "max_output_tokens"),
    rename("reasoning_effort", _EFFORT),
    rename("verbosity", "text.verbosity"),
    mapped("stream_options", "stream_options.include_obfuscation", note="never padded"),
    mapped("store", "store", note="always false: responses are kept here"),
    mapped("logprobs", "include[]"),
    mapped("tools", "tools", note="without the inner object"),
    mapped("functions", "tools"),
    mapped("function_call", "tool_choice"),
    *(mapped(f"tool_choice={word}", "tool_choice") for word in _CHOICES),
    *(
        mapped(form, "text.format")
        for form in ("response_format=json_object", "response_format=json_schema")
    ),
    mapped("response_format", "text.format"),
    mapped("extra_headers", "(headers)"),
    keep("max_tool_calls", "truncation"),
    mapped("context_management", "context_management"),
    mapped("prompt", "prompt"),
    emulate("n", unless=Action.REJECT, note="one call for each answer"),
    emulate("stop", unless=Action.DROP, note="the answer is cut here"),
    drop("seed", "presence_penalty", "frequency_penalty", "logit_bias", "prediction"),
    drop("web_search_options", note="there is a tool for it"),
    reject("modalities", note="it answers with text alone"),
    drop("audio"),
    words("role=developer", {"developer": "developer"}, "input[].role"),
    words("role=function", {"function": "function_call_output"}, "input[].type"),
    emulate("message_name", path="input[].content", note="before the text of users; else left out"),
)
USAGE_ALWAYS = drop("stream_options", note="usage always comes")
# Servers that keep nothing, and do not know all that OpenAI does.
STATELESS = (
    *drop(
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "user",
        "verbosity",
    ),
    *USAGE_ALWAYS,
)

_SAMPLING = (
    *words("temperature", {1: 1}),
    *words("top_p", {1: 1}),
    *drop("logprobs", "top_logprobs"),
)


def _names(models: str) -> str:
    # The end keeps gpt-5 from matching gpt-5.1; snapshots and fine-tuned models go on there.
    return rf"^({models})([-:]|$)"


# Source: OpenAI's API reference and model pages.
OPENAI_FAMILIES = (
    family(
        "gpt-3.5, gpt-4, gpt-4o, gpt-4.1, gpt-5-chat",
        _names(r"gpt-3\.5|gpt-4|gpt-4o|gpt-4\.1|chatgpt-4o|gpt-5-chat"),
        drop("reasoning_effort", "verbosity"),
    ),
    family(
        "o-series and deep research",
        _names(r"o\d+"),
        drop("verbosity"),
        reasoning=Reasoning.ALWAYS,
        while_reasoning=_SAMPLING,
    ),
    family(
        "gpt-5, codex, pro, gpt-5.x-chat, gpt-6-astra, gpt-6.1-sol",
        r"^(gpt-5\.\d+-chat|gpt-5(\.\d+)?-pro|gpt-5(\.\d+)?-codex|gpt-5|codex"
        r"|gpt-6-astra|gpt-6\.1-sol)([-:]|$)",
        reasoning=Reasoning.ALWAYS,
        while_reasoning=_SAMPLING,
    ),
    family(
        "gpt-5.1 to gpt-5.4",
        _names(r"gpt-5\.[1-4]"),
        reasoning=Reasoning.ON_REQUEST,
        while_reasoning=_SAMPLING,
    ),
    family(
        "gpt-5.5 and later",
        _names(r"gpt-5\.\d+|gpt-6(\.\d+)?"),
        reasoning=Reasoning.BY_DEFAULT,
        while_reasoning=_SAMPLING,
    ),
)
