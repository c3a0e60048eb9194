"""What becomes of each parameter in Claude's Messages format, by model family.

Source: the request types of the official SDK (anthropic 2.11), Anthropic's model documentation as
of 2026-11, and recorded answers. `models` has the same families with all their limits; what
constrains each other (limit, thinking, sampling, tools) is decided by code from there, and the
rows here say what comes of it.
"""

from __future__ import annotations

from workers.parameters import (
    Action,
    Reasoning,
    Rows,
    Table,
    clamp,
    drop,
    emulate,
    family,
    keep,
    mapped,
    reject,
    rename,
    words,
)

_TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
_BY_TOOL = emulate(
    "response_format=json_schema", path="tools[].input_schema", note="the input of a tool of ours"
)
_STRUCTURED = mapped(
    "response_format=json_schema",
    "output_config.format",
    note="limits that Claude refuses go into descriptions",
)
_NO_SAMPLING = drop("temperature", "top_p", note="refused whatever the value")
_NO_EFFORT = drop("reasoning_effort", note="the model does not think")
_BUDGET = mapped(
    "reasoning_effort",
    "thinking.budget_tokens",
    note="1024 (minimal), 2048, 8192, 16384 (high) or 32768, at most three quarters of the limit; "
    "not with a forced tool or where thinking was lost from the history",
)
_ADAPTIVE = mapped(
    "reasoning_effort", "output_config.effort", note="with adaptive thinking; none turns it off"
)
_CANNOT_BE_OFF = mapped(
    "reasoning_effort",
    "output_config.effort",
    note="with adaptive thinking; none becomes low and is reported",
)
# 1 is what they are anyway.
_THINKING = (
    *words("temperature", {1: 1}),
    *drop("top_p", note="below 0.95"),
)
_NO_FORCED_TOOLS = (
    *emulate(
        "tool_choice=required",
        path="system[].text",
        note="asked for in the system prompt; the model may still answer with text",
    ),
    *emulate(
        "tool_choice=named", path="tools", note="shown alone, and asked for in the system prompt"
    ),
)


def _limits(most: int) -> Rows:
    return (
        *clamp("max_completion_tokens", None, most, "max_tokens"),
        *clamp("max_tokens", None, most),
    )


def _names(lines: str, versions: str) -> str:
    return rf"claude-({lines})-({versions})(?!\d)"


# Later rows of a line also hold for its versions to come.
_FAMILIES = (
    family(
        "Claude Opus 5.5, Fable and Mythos 5.1+",
        _names("fable|mythos", "5-[1-9]") + "|" + _names("opus", "5-[5-9]"),
        (*_limits(128_000), *_STRUCTURED, *_NO_SAMPLING, *_CANNOT_BE_OFF, *_NO_FORCED_TOOLS),
        reasoning=Reasoning.ALWAYS,
    ),
    family(
        "Claude Fable 5, Mythos 5",
        r"claude-(fable|mythos)",
        (*_limits(128_000), *_STRUCTURED, *_NO_SAMPLING, *_CANNOT_BE_OFF),
        reasoning=Reasoning.ALWAYS,
    ),
    family(
        "Claude Sonnet 5.5",
        _names("sonnet", "5-[5-9]"),
        (*_limits(128_000), *_STRUCTURED, *_NO_SAMPLING, *_ADAPTIVE, *_NO_FORCED_TOOLS),
        reasoning=Reasoning.BY_DEFAULT,
    ),
    family(
        "Claude Opus 5, Sonnet 5, Haiku 5.5",
        _names("opus|sonnet|haiku", "5"),
        (*_limits(128_000), *_STRUCTURED, *_NO_SAMPLING, *_ADAPTIVE),
        reasoning=Reasoning.BY_DEFAULT,
    ),
    family(
        "Claude Opus 4.7, 4.8",
        _names("opus", "4-[78]"),
        (*_limits(128_000), *_STRUCTURED, *_NO_SAMPLING, *_ADAPTIVE),
        reasoning=Reasoning.ON_REQUEST,
    ),
    family(
        "Claude 4.6",
        _names("opus|sonnet", "4-6"),
        (*_limits(128_000), *_STRUCTURED, *_ADAPTIVE),
        reasoning=Reasoning.ON_REQUEST,
        while_reasoning=_THINKING,
    ),
    family(
        "Claude 4.5",
        _names("opus|sonnet|haiku", "4-5"),
        (*_limits(64_000), *_STRUCTURED, *_BUDGET),
        reasoning=Reasoning.ON_REQUEST,
        while_reasoning=_THINKING,
    ),
    family(
        "Claude Opus 4.1",
        _names("opus", "4-1"),
        (*_limits(32_000), *_STRUCTURED, *_BUDGET),
        reasoning=Reasoning.ON_REQUEST,
        while_reasoning=_THINKING,
    ),
    family(
        "Claude Opus 4",
        _names("opus", "4"),
        (*_limits(32_000), *_BUDGET),
        reasoning=Reasoning.ON_REQUEST,
        while_reasoning=_THINKING,
    ),
    family(
        "Claude Sonnet 4, 3.7",
        _names("sonnet", "4") + r"|claude-3[-.]7|claude-sonnet-3[-.]7",
        (*_limits(64_000), *_BUDGET),
        reasoning=Reasoning.ON_REQUEST,
        while_reasoning=_THINKING,
    ),
    family(
        "Claude 3.5",
        r"claude-3[-.]5|claude-(sonnet|haiku)-3[-.]5",
        (*_limits(8192), *_NO_EFFORT),
    ),
    family(
        "Claude 3 and older",
        r"claude-(v?[23]|instant|(opus|sonnet|haiku)-3)",
        (*_limits(4096), *_NO_EFFORT),
    ),
    family(
        "other Claude",
        "claude",
        (*_STRUCTURED, *_NO_SAMPLING, *_ADAPTIVE),
        reasoning=Reasoning.ON_REQUEST,
    ),
)

TABLE = Table(
    keep("stream"),
    clamp("temperature", 0, 1),
    clamp("top_p", 0, 1, note="Claude 4.1 to 4.6 take temperature or top_p: then this one goes"),
    rename("max_completion_tokens", "max_tokens"),
    keep("max_tokens", note="required: without one, the most that the model can"),
    drop("stream_options", note="usage always comes"),
    rename("stop", "stop_sequences", note="without blank ones"),
    emulate("n", unless=Action.REJECT, note="one call for each answer"),
    drop("presence_penalty", "frequency_penalty", "logit_bias", "seed", "logprobs", "top_logprobs"),
    mapped("functions", "tools"),
    mapped("function_call", "tool_choice"),
    mapped("user", "metadata.user_id", note="not where it shows who somebody is"),
    mapped("safety_identifier", "metadata.user_id", note="where user is not given"),
    mapped("metadata", "metadata.user_id", note="the entry user_id; others are dropped"),
    emulate("response_format=json_object", path="system[].text", note="asked for in the prompt"),
    _BY_TOOL,
    mapped("tools", "tools"),
    mapped("tool_choice=auto", "tool_choice.type"),
    mapped("tool_choice=none", "tool_choice.type"),
    mapped("tool_choice=required", "tool_choice.type", note="any"),
    mapped("tool_choice=named", "tool_choice.name"),
    mapped("parallel_tool_calls", "tool_choice.disable_parallel_tool_use"),
    mapped("extra_headers", "(headers)"),
    _BUDGET,
    words("service_tier", _TIERS),
    reject("modalities", note="Claude answers with text alone"),
    drop("audio", "prediction", "prompt_cache_key", "prompt_cache_retention", "store", "verbosity"),
    mapped("web_search_options", "tools", note="Claude's own web search"),
    mapped("role=developer", "system", note="as the system prompt"),
    mapped("role=function", "messages[].content", note="as a tool result"),
    emulate(
        "message_name", path="messages[].content", note="before the text of users; else left out"
    ),
    # Another's model behind Claude's format: everything that the format has always had.
    reasoning=Reasoning.ON_REQUEST,
    while_reasoning=_THINKING,
    families=_FAMILIES,
)
