"""What becomes of each parameter at Cohere, by model family.

Source: the request types of the official SDK (cohere 7.3) and Cohere's reference of /v2/chat.
"""

from __future__ import annotations

from workers.parameters import (
    Action,
    Reasoning,
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

_NO_THINKING = drop("reasoning_effort", note="the model does not reason")
# Source: the note on tool_choice in the reference, which names command-r7b as the first to take it.
_NO_TOOL_CHOICE = (
    *emulate("tool_choice=none", path="tools", note="no tools are offered"),
    *emulate(
        "tool_choice=required",
        path="messages[]",
        note="asked for in the system prompt; the model may still answer with text",
    ),
    *emulate(
        "tool_choice=named",
        path="tools",
        note="offered alone, and asked for in the system prompt",
    ),
)

TABLE = Table(
    keep("stream", "seed"),
    clamp("temperature", 0, 1),
    rename("max_completion_tokens", "max_tokens"),
    keep("max_tokens"),
    clamp("top_p", 0.01, 0.99, "p"),
    drop("stream_options", note="usage always comes"),
    clamp("stop", None, 5, "stop_sequences"),
    emulate("n", unless=Action.REJECT, note="by that many calls"),
    clamp("presence_penalty", 0, 1),
    clamp("frequency_penalty", 0, 1),
    mapped("functions", "tools"),
    mapped("function_call", "tool_choice", note="as tool_choice"),
    drop("logit_bias", "user", "top_logprobs"),
    mapped(
        "response_format=json_object",
        "response_format.type",
        checked=True,
        note="with a mention of JSON in the prompt, without which the model may never stop; "
        "beside tools or documents an instruction",
    ),
    mapped(
        "response_format=json_schema",
        "response_format.json_schema",
        checked=True,
        note="the schema itself; beside tools a tool of ours takes the answer, beside documents "
        "it is an instruction",
    ),
    mapped("tools", "tools", note="strict_tools when all of them are strict"),
    drop("tool_choice=auto", note="what happens anyway"),
    mapped("tool_choice=none", "tool_choice", note="NONE"),
    mapped("tool_choice=required", "tool_choice", note="REQUIRED"),
    emulate("tool_choice=named", path="tool_choice", note="REQUIRED, and the tool offered alone"),
    keep("logprobs", note="per piece of text, not per token"),
    mapped("extra_headers", "(headers)"),
    drop("parallel_tool_calls", "verbosity", "service_tier", "metadata", "store", "prediction"),
    mapped(
        "reasoning_effort",
        "thinking",
        note="none disables; others are a token_budget of 512 (minimal), 2048, 8192, 16384 (high) "
        "or 31000, at most three quarters of max_tokens",
    ),
    reject("modalities", note="it answers with text alone"),
    drop("audio", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
    drop("web_search_options"),
    words("role=developer", {"developer": "system"}, "messages[].role"),
    words("role=function", {"function": "tool"}, "messages[].role", note="with the call's id"),
    emulate(
        "message_name",
        path="messages[].content",
        note="before the text of users; else left out",
    ),
    # Models that no family names are newer than these.
    reasoning=Reasoning.BY_DEFAULT,
    families=(
        family(
            "Command A+, Command A Reasoning",
            r"command-a-(plus|reasoning)",
            reasoning=Reasoning.BY_DEFAULT,
        ),
        family(
            "Command R and older",
            r"^command(-light|-nightly)?$|command-r(?!7b)",
            _NO_THINKING,
            _NO_TOOL_CHOICE,
        ),
        family("Command A, Command R7B, Aya", r"command-(a|r7b)|aya", _NO_THINKING),
    ),
)
