"""Groq: api.groq.com. Refuses what it does not know; usage comes unasked, in `x_groq`."""

from __future__ import annotations

from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import (
    CHAT,
    NAME_IN_TEXT,
    NO_EFFORT,
    NO_EXTRAS,
    ONE_CHOICE,
    USAGE_ALWAYS,
    efforts,
)
from workers.dialects.openai_responses import OpenAiResponses
from workers.dialects.openai_responses.parameters import RESPONSES, STATELESS, nested
from workers.dialects.openai_responses.rule import where_needed
from workers.parameters import drop, family, words
from workers.provider import Alternative, Provider

_ALL = ("low", "medium", "high")
_ON = {"none": "none", **dict.fromkeys(("minimal", *_ALL, "xhigh", "max"), "default")}
_TIERS = ("auto", "on_demand", "flex", "performance")
_PARSED = {"reasoning_format": "parsed"}  # raw, the default of some, is refused with tools
PROVIDER = Provider(
    name="groq",
    dialect=DIALECT,
    base_url="https://api.groq.com/openai/v1",
    models=("openai/gpt-oss-120b", "openai/gpt-oss-20b", "qwen/qwen3-32b"),
    quirks={"assistant_fields": "plain", "reasoning_field": "reasoning"},
    parameters=CHAT.but(
        (*NO_EXTRAS, *NO_EFFORT, *ONE_CHOICE, *USAGE_ALWAYS, *NAME_IN_TEXT),
        drop("presence_penalty", "frequency_penalty", "logprobs", "top_logprobs"),
        words("service_tier", {"default": "on_demand", **{tier: tier for tier in _TIERS}}),
        families=(
            family("gpt-oss", "gpt-oss", efforts(*_ALL)),
            family("qwen3.8", r"qwen3\.8", efforts("none", *_ALL), defaults=_PARSED),
            family("qwen3", "qwen3", words("reasoning_effort", _ON), defaults=_PARSED),
            family("DeepSeek R1", "deepseek-r1", defaults=_PARSED),
        ),
    ),
    alternative=Alternative(
        OpenAiResponses(DIALECT.error, plain_reasoning=True),
        where_needed(),
        RESPONSES.but(STATELESS, drop("logprobs", "top_logprobs"), nested(efforts("none", *_ALL))),
    ),
)
