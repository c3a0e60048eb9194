"""The parameter table of the chat format, and groups of rows that several providers share.

A provider that lacks something says so with rows of its own: `CHAT.but(NO_EXTRAS, drop("seed"))`.
"""

from __future__ import annotations

from workers.parameters import (
    COLUMNS,
    Action,
    At,
    Reasoning,
    Rows,
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

_AT_MESSAGES = ("role=developer", "role=function", "message_name")
_OUTSIDE = ("stream_options", "extra_headers")

# What OpenAI takes, all of it.
CHAT = Table(
    keep(*(name for name in COLUMNS if name not in (*_AT_MESSAGES, *_OUTSIDE))),
    # Forms that only some servers know, such as a grammar.
    keep("response_format"),
    words("role=developer", {"developer": "developer"}, "messages[].role"),
    words("role=function", {"function": "function"}, "messages[].role"),
    rename("message_name", "messages[].name"),
    mapped(
        "stream_options",
        "stream_options.include_usage",
        note="usage is always asked for: answers are charged by it",
    ),
    mapped("extra_headers", "(headers)"),
)

# One field for both limits.
MAX_TOKENS = rename("max_completion_tokens", "max_tokens")
# A server that knows the roles system, user, assistant and tool.
SYSTEM_ROLE = words("role=developer", {"developer": "system"}, "messages[].role")
# Deprecated twins, written as their successors.
FUNCTIONS_AS_TOOLS = (
    *mapped("functions", "tools"),
    *mapped("function_call", "tool_choice"),
    *words("role=function", {"function": "tool"}, "messages[].role", note="with a made-up id"),
)
# Who speaks stands before what is said.
NAME_IN_TEXT = emulate(
    "message_name", path="messages[].content", note="before the text of users; else left out"
)
# One answer to a call.
ONE_CHOICE = emulate("n", unless=Action.REJECT, note="one call for each answer")
# Text is cut where it comes in.
CUT_STOP = emulate("stop", unless=Action.DROP, note="the answer is cut here")
# A model that cannot be made to call a tool, or not to, is asked.
ASKED_CALL = (
    *emulate(
        "tool_choice=required",
        path="messages[]",
        note="asked for in the system prompt; the model may still answer with text",
    ),
    *emulate(
        "tool_choice=named", path="tools", note="offered alone, and asked for in the system prompt"
    ),
)
ASKED_CHOICE = (
    *emulate("tool_choice=none", path="tools", note="no tools are offered"),
    *ASKED_CALL,
)
# Usage comes unasked.
USAGE_ALWAYS = drop("stream_options", note="usage always comes")
TEXT_ALONE = (*reject("modalities", note="it answers with text alone"), *drop("audio"))
# What hardly anyone but OpenAI has.
NO_EXTRAS = (
    *TEXT_ALONE,
    *drop(
        "logit_bias",
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "verbosity",
        "web_search_options",
    ),
)
NO_EFFORT = drop("reasoning_effort")
# What servers that are like OpenAI's do without; and those that are less like it.
NOT_OPENAI = (*NO_EXTRAS, *FUNCTIONS_AS_TOOLS)
PLAIN = (*NOT_OPENAI, *MAX_TOKENS, *SYSTEM_ROLE)

_EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")


def efforts(*taken: str, off: At | None = None) -> Rows:
    """`reasoning_effort` where only these are taken: others become the next one.

    Up to high that is the next higher one, so that nobody gets less than was asked for; above, the
    highest there is. `off` is what "none" becomes; it is dropped where that is not given.
    """
    table: dict[str, str | At] = {}
    for index, effort in enumerate(_EFFORTS):
        above = [other for other in _EFFORTS[index : _EFFORTS.index("high") + 1] if other in taken]
        below = [other for other in _EFFORTS[: index + 1] if other in taken]
        table[effort] = effort if effort in taken else (above[:1] or below[-1:])[0]
    if off is not None or "none" in taken:
        table["none"] = off or "none"
    return words("reasoning_effort", table)


_SAMPLING = (
    # 1 is what they are anyway, and accepted.
    *words("temperature", {1: 1}),
    *words("top_p", {1: 1}),
    *drop("presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs"),
)
_NO_STOP = CUT_STOP
_NEW_LIMIT = rename("max_tokens", "max_completion_tokens")


def _names(models: str) -> str:
    # The end keeps gpt-5 from matching gpt-5.1; snapshots and fine-tuned models go on there.
    return rf"^({models})([-:]|$)"


# Source: OpenAI's API reference and model pages, and recorded refusals.
OPENAI_FAMILIES = (
    family(
        "gpt-3.5, gpt-4, gpt-4o, gpt-4.1",
        _names(r"gpt-3\.5|gpt-4|gpt-4o|gpt-4\.1|chatgpt-4o"),
        drop("reasoning_effort", "verbosity"),
    ),
    family("gpt-5-chat", _names("gpt-5-chat"), drop("reasoning_effort", "verbosity")),
    family(
        "o3-mini",
        _names("o3-mini"),
        _NEW_LIMIT,
        drop("verbosity"),
        reasoning=Reasoning.ALWAYS,
        while_reasoning=_SAMPLING,
    ),
    family(
        "o1, o3, o4-mini",
        _names(r"o\d+"),
        _NEW_LIMIT,
        drop("verbosity"),
        reasoning=Reasoning.ALWAYS,
        while_reasoning=(*_SAMPLING, *_NO_STOP),
    ),
    family(
        "gpt-5, gpt-5-pro, gpt-5.x-chat",
        _names(r"gpt-5\.\d+-chat|gpt-5(\.\d+)?-pro|gpt-5"),
        _NEW_LIMIT,
        reasoning=Reasoning.ALWAYS,
        while_reasoning=(*_SAMPLING, *_NO_STOP),
    ),
    family(
        "gpt-5.1 to gpt-5.4",
        _names(r"gpt-5\.[1-4]"),
        _NEW_LIMIT,
        reasoning=Reasoning.ON_REQUEST,
        while_reasoning=(*_SAMPLING, *_NO_STOP),
    ),
    family(
        "gpt-6-astra, gpt-6.1-sol",
        _names(r"gpt-6-astra|gpt-6\.1-sol"),
        _NEW_LIMIT,
        reasoning=Reasoning.ALWAYS,
        while_reasoning=(*_SAMPLING, *_NO_STOP),
    ),
    family(
        "gpt-5.5 and later",
        _names(r"gpt-5\.\d+|gpt-6(\.\d+)?"),
        _NEW_LIMIT,
        reasoning=Reasoning.BY_DEFAULT,
        while_reasoning=(*_SAMPLING, *_NO_STOP),
    ),
)
