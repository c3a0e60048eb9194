"""What becomes of each parameter on Bedrock Converse, by model family.

Source: the service model of bedrock-runtime (botocore 1.44), AWS's pages on inference parameters
per model, and recorded answers. Model ids come with a region's prefix (`us.`), as ARNs, or both.
"""

from __future__ import annotations

from typing import Any

from workers.parameters import (
    Action,
    At,
    Family,
    Reasoning,
    Row,
    Table,
    clamp,
    drop,
    emulate,
    family,
    mapped,
    reject,
    rename,
    words,
)

_Rows = tuple[Row, ...]

_MORE = "additionalModelRequestFields"
_MAX = "inferenceConfig.maxTokens"
_TOP_P = "inferenceConfig.topP"
_NO_SAMPLING = drop("temperature", "top_p", note="refused whatever the value")
_NO_EFFORT = drop("reasoning_effort")

# Source: AWS's list of models with structured output.
_STRUCTURED = mapped(
    "response_format=json_schema",
    "outputConfig.textFormat",
    note="constraints that Bedrock refuses go into descriptions",
)
_BY_INSTRUCTION = emulate(
    "response_format=json_schema",
    path="system[].text",
    note="asked for in the system prompt",
)
# Source: refusals, as AWS's reference of ToolChoice names few of the models that take it.
_NO_TOOL_CHOICE = (
    *_BY_INSTRUCTION,
    *drop("tool_choice=auto", note="what happens anyway"),
    *emulate(
        "tool_choice=required",
        path="system[].text",
        note="asked for in the system prompt; the model may still answer with text",
    ),
    *emulate(
        "tool_choice=named",
        path="toolConfig.tools",
        note="offered alone, and asked for in the system prompt",
    ),
)


def _efforts(path: str, **named: str | None) -> _Rows:
    """Efforts as words of the model; a word given as None is left out and reported."""
    table = {"minimal": "low", "low": "low", "medium": "medium", "high": "high"}
    table |= {"xhigh": "high", "max": "high"}
    words_of = {**table, **named}
    return words(
        "reasoning_effort",
        {word: value for word, value in words_of.items() if value is not None},
        f"{_MORE}.{path}",
    )


def _on_or_off(path: str) -> _Rows:
    """Models that know one level of reasoning."""
    return _efforts(path, none="none", minimal="high", low="high", medium="high")


def _nova(level: str) -> At:
    return At(f"{_MORE}.reasoningConfig", {"type": "enabled", "maxReasoningEffort": level})


_NOVA_EFFORT = words(
    "reasoning_effort",
    {
        "none": At(f"{_MORE}.reasoningConfig", {"type": "disabled"}),
        "minimal": _nova("low"),
        "low": _nova("low"),
        "medium": _nova("medium"),
        "high": _nova("high"),
        "xhigh": _nova("high"),
        "max": _nova("high"),
    },
    f"{_MORE}.reasoningConfig",
    note="at high, temperature, top_p and the limit have to go",
)

_CLAUDE = (
    *mapped(
        "parallel_tool_calls",
        f"{_MORE}.tool_choice.disable_parallel_tool_use",
        note="Claude's own tool_choice in place of Converse's",
    ),
    *emulate(
        "tool_choice=none",
        path=f"{_MORE}.tool_choice",
        note="no tools, or where the history has calls Claude's own none",
    ),
)
_BUDGET = mapped(
    "reasoning_effort",
    f"{_MORE}.thinking",
    note="a budget of 1024 (minimal), 2048, 8192, 16384 (high) or 32768 that fits the limit; "
    "not with a forced tool",
)
_ADAPTIVE = mapped(
    "reasoning_effort",
    f"{_MORE}.output_config.effort",
    note="with adaptive thinking; none turns it off where it can be",
)
# A thinking Claude takes no temperature but 1, and only high values of top_p.
_THINKING = (*drop("temperature"), *clamp("top_p", 0.95, 1, _TOP_P))
_FORCED_TOOLS_REFUSED = (
    *_BY_INSTRUCTION,
    *emulate(
        "tool_choice=required",
        path="system[].text",
        note="asked for in the system prompt; the model may still answer with text",
    ),
    *emulate(
        "tool_choice=named",
        path="toolConfig.tools",
        note="offered alone, and asked for in the system prompt",
    ),
)


def _claude(
    name: str,
    models: str,
    most: int,
    *rows: _Rows,
    default: int | None = None,
    reasoning: Reasoning = Reasoning.ON_REQUEST,
) -> Family:
    """A family of Claude with its limit of output; Converse's own default is far below it.

    `default` is smaller for those that refuse input and limit together above their window.
    """
    limits = (*clamp("max_completion_tokens", 1, most, _MAX), *clamp("max_tokens", 1, most, _MAX))
    defaults: dict[str, Any] = {_MAX: default or most}
    return family(
        name,
        models,
        _CLAUDE,
        limits,
        *rows,
        reasoning=reasoning,
        while_reasoning=_THINKING if reasoning is Reasoning.ON_REQUEST else (),
        defaults=defaults,
    )


def _line(lines: str, versions: str) -> str:
    return rf"claude-({lines})-({versions})(?!\d)"


_NEWEST = (_ADAPTIVE, _NO_SAMPLING)
_CLAUDES = (
    _claude(
        "Claude Fable and Mythos 5.1+",
        _line("fable|mythos", "5-[1-9]"),
        128_000,
        *_NEWEST,
        _FORCED_TOOLS_REFUSED,
        reasoning=Reasoning.ALWAYS,
    ),
    _claude(
        "Claude Fable and Mythos 5",
        r"claude-(fable|mythos)",
        128_000,
        *_NEWEST,
        reasoning=Reasoning.ALWAYS,
    ),
    _claude(
        "Claude Opus 5.5",
        _line("opus", "5-[5-9]"),
        128_000,
        *_NEWEST,
        _FORCED_TOOLS_REFUSED,
        _STRUCTURED,
        reasoning=Reasoning.ALWAYS,
    ),
    _claude(
        "Claude Sonnet 5.5",
        _line("sonnet", "5-[5-9]"),
        128_000,
        *_NEWEST,
        _FORCED_TOOLS_REFUSED,
        _STRUCTURED,
        reasoning=Reasoning.BY_DEFAULT,
    ),
    _claude(
        "Claude Opus 5, Sonnet 5, Haiku 5.5",
        _line("opus|sonnet|haiku", "5"),
        128_000,
        *_NEWEST,
        _STRUCTURED,
        reasoning=Reasoning.BY_DEFAULT,
    ),
    _claude("Claude Opus 4.7, 4.8", _line("opus", "4-[7-9]"), 128_000, *_NEWEST, _STRUCTURED),
    _claude("Claude 4.6", _line("opus|sonnet", "4-6"), 128_000, _ADAPTIVE, _STRUCTURED),
    _claude("Claude 4.5", _line("opus|sonnet|haiku", "4-5"), 64_000, _BUDGET, _STRUCTURED),
    _claude("Claude Opus 4, 4.1", _line("opus", "4"), 32_000, _BUDGET, default=4096),
    _claude("Claude Sonnet 4", _line("sonnet", "4"), 64_000, _BUDGET, default=4096),
    _claude("Claude 3.7", _line("3", "7"), 64_000, _BUDGET, default=4096),
    _claude(
        "Claude 3.5", _line("3", "5"), 8192, _NO_EFFORT, default=4096, reasoning=Reasoning.NEVER
    ),
    _claude(
        "Claude 3 and older",
        r"claude-(3|v?2|instant)",
        4096,
        _NO_EFFORT,
        reasoning=Reasoning.NEVER,
    ),
    # A Claude of no known line: what all recent ones take, and no limit to clamp to.
    family(
        "other Claude",
        r"claude",
        _CLAUDE,
        *_NEWEST,
        _STRUCTURED,
        reasoning=Reasoning.ON_REQUEST,
        defaults={_MAX: 32_000},
    ),
)

_OTHERS = (
    family("Nova 2", r"nova-2", _NOVA_EFFORT, reasoning=Reasoning.ON_REQUEST),
    family("Nova", r"amazon\.nova|\bnova-(micro|lite|pro|premier)", _NO_EFFORT),
    family(
        "gpt-oss",
        r"gpt-oss",
        _efforts("reasoning_effort"),
        _NO_TOOL_CHOICE,
        reasoning=Reasoning.ALWAYS,
    ),
    family(
        "GPT-6 Astra, GPT-6.1 Sol",
        r"gpt-(6-astra|6\.1-sol)",
        _efforts("reasoning.effort", xhigh="xhigh", max="xhigh"),
        _NO_SAMPLING,
        _NO_TOOL_CHOICE,
        reasoning=Reasoning.ALWAYS,
    ),
    family(
        "GPT-5.6, GPT-6",
        r"gpt-[5-9]",
        _efforts("reasoning.effort", none="none", xhigh="xhigh", max="xhigh"),
        _NO_SAMPLING,
        _NO_TOOL_CHOICE,
        reasoning=Reasoning.BY_DEFAULT,
    ),
    family(
        "Grok",
        r"grok",
        _efforts("reasoning.effort", xhigh="xhigh", max="xhigh"),
        _NO_SAMPLING,
        reasoning=Reasoning.ALWAYS,
    ),
    family("Qwen3 Coder", r"qwen3-coder", _NO_EFFORT, _NO_TOOL_CHOICE, _STRUCTURED),
    family(
        "Qwen3",
        r"qwen",
        _efforts("reasoning_config", none="none", medium="medium"),
        _NO_TOOL_CHOICE,
        _STRUCTURED,
        reasoning=Reasoning.ON_REQUEST,
    ),
    family(
        "DeepSeek R1",
        r"deepseek[.-]r1",
        _NO_EFFORT,
        _NO_TOOL_CHOICE,
        reasoning=Reasoning.ALWAYS,
    ),
    family(
        "DeepSeek V3",
        r"deepseek",
        _on_or_off("reasoning_effort"),
        _NO_TOOL_CHOICE,
        reasoning=Reasoning.ON_REQUEST,
    ),
    family(
        "GLM 5.3+",
        r"glm-5\.[3-9]",
        _efforts("reasoning_effort", xhigh="xhigh", max="max"),
        _STRUCTURED,
        reasoning=Reasoning.ALWAYS,
    ),
    family(
        "GLM",
        r"glm-",
        _on_or_off("reasoning_effort"),
        _STRUCTURED,
        reasoning=Reasoning.ON_REQUEST,
    ),
    family("Kimi", r"kimi", _NO_EFFORT, _STRUCTURED),
    family("MiniMax", r"minimax", _NO_EFFORT, _NO_TOOL_CHOICE, _STRUCTURED),
    family("Llama", r"llama", _NO_EFFORT, _NO_TOOL_CHOICE),
    family(
        "Mistral Large 3, Ministral 3, Magistral, Voxtral",
        r"mistral-large-3|ministral-3|magistral-small|voxtral",
        _NO_EFFORT,
        _NO_TOOL_CHOICE,
        _STRUCTURED,
    ),
    family("Mistral", r"mistral|mixtral|pixtral|devstral", _NO_EFFORT, _NO_TOOL_CHOICE),
    family("Palmyra", r"palmyra", _NO_EFFORT, _NO_TOOL_CHOICE),
    family("Gemma 3", r"gemma-3-(12|27)b", _NO_EFFORT, _NO_TOOL_CHOICE, _STRUCTURED),
    family("Nemotron Nano", r"nemotron-nano", _NO_EFFORT, _NO_TOOL_CHOICE, _STRUCTURED),
    family("Gemma, Nemotron", r"gemma|nemotron", _NO_EFFORT, _NO_TOOL_CHOICE),
)

TABLE = Table(
    clamp("temperature", 0, 1, "inferenceConfig.temperature"),
    rename("max_completion_tokens", _MAX),
    rename("max_tokens", _MAX),
    clamp("top_p", 0, 1, _TOP_P),
    mapped("stream", "(url)", note="converse-stream in place of converse"),
    drop("stream_options", note="usage always comes"),
    rename("stop", "inferenceConfig.stopSequences"),
    emulate("n", unless=Action.REJECT, note="by that many calls"),
    drop("presence_penalty", "frequency_penalty", "logit_bias", "seed"),
    drop("logprobs", "top_logprobs"),
    mapped("functions", "toolConfig.tools"),
    mapped("function_call", "toolConfig.toolChoice"),
    mapped("user", "requestMetadata.user", note="for logs alone; within the characters it allows"),
    emulate("response_format=json_object", path="system[].text", note="by an instruction"),
    emulate(
        "response_format=json_schema",
        path="toolConfig.tools",
        note="a tool of ours takes the answer",
    ),
    mapped("tools", "toolConfig.tools", note="as toolSpec"),
    mapped("tool_choice=auto", "toolConfig.toolChoice.auto"),
    emulate(
        "tool_choice=none",
        path="toolConfig",
        note="no tools, or where the history has calls an instruction",
    ),
    mapped("tool_choice=required", "toolConfig.toolChoice.any"),
    mapped("tool_choice=named", "toolConfig.toolChoice.tool"),
    mapped("extra_headers", "(headers)"),
    drop("parallel_tool_calls"),
    drop("reasoning_effort", note="fields differ by model: give additionalModelRequestFields"),
    words(
        "service_tier",
        {"auto": None, "default": "default", "flex": "flex", "priority": "priority"},
        "serviceTier.type",
    ),
    mapped("metadata", "requestMetadata", note="within the characters it allows, at most 16"),
    drop("verbosity", "store", "prediction", "audio", "safety_identifier"),
    reject("modalities", note="it answers with text alone"),
    drop("prompt_cache_key", "prompt_cache_retention", "web_search_options"),
    mapped("role=developer", "system[].text"),
    mapped("role=function", "messages[].content[].toolResult", note="with the call's id"),
    emulate(
        "message_name",
        path="messages[].content[].text",
        note="before the text of users; else left out",
    ),
    families=(*_CLAUDES, *_OTHERS),
)
