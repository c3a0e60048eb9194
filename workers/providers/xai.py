"""xAI: api.x.ai. Live search by `search_parameters` is gone (410)."""

from __future__ import annotations

from collections.abc import Callable

from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT, CUT_STOP, NO_EFFORT, NOT_OPENAI, efforts
from workers.dialects.openai_responses import OpenAiResponses
from workers.dialects.openai_responses.parameters import RESPONSES, nested
from workers.dialects.openai_responses.rule import whenever_asked
from workers.parameters import Family, Reasoning, Rows, clamp, drop, family, words
from workers.provider import Alternative, Provider

_REFUSED = (*drop("presence_penalty", "frequency_penalty"), *CUT_STOP)
_TIERS = {"auto": None, "default": "default", "priority": "priority"}
# What its Responses API does without.
_LACKING = ("metadata", "prompt_cache_retention", "safety_identifier", "verbosity")
_ALL = ("low", "medium", "high", "xhigh")


def _thinks(name: str, models: str, effort: Rows, when: Reasoning = Reasoning.ALWAYS) -> Family:
    return family(name, models, effort, reasoning=when, while_reasoning=_REFUSED)


def _families(place: Callable[[Rows], Rows] = lambda rows: rows) -> tuple[Family, ...]:
    """The families; `place` puts the effort where the format has it."""
    return (
        family("non-reasoning", "non-reasoning"),
        _thinks("grok-3-mini", "grok-3-mini", place(efforts("low", "high"))),
        _thinks("grok-4, 4-fast, 4.20, code", r"grok-(4(\.20)?(-|$)|code|build)", NO_EFFORT),
        _thinks("grok-4.3", r"grok-4\.3", place(efforts("none", *_ALL)), Reasoning.BY_DEFAULT),
        _thinks("grok-4.5 and later", r"grok-(4\.[5-9]|[5-9])", place(efforts(*_ALL))),
    )


PROVIDER = Provider(
    name="xai",
    dialect=DIALECT,
    base_url="https://api.x.ai/v1",
    models=("grok-4.7", "grok-4.5", "grok-4.3", "grok-3-mini"),
    quirks={"assistant_fields": "plain", "reasoning_field": "reasoning_content"},
    parameters=CHAT.but(
        (*NOT_OPENAI, *NO_EFFORT),
        (*clamp("top_logprobs", 0, 8), *words("service_tier", _TIERS)),
        families=_families(),
    ),
    alternative=Alternative(
        OpenAiResponses(DIALECT.error),
        whenever_asked(),
        RESPONSES.but(
            (*drop(*_LACKING), *NO_EFFORT),
            drop("stream_options", note="usage always comes"),
            (*clamp("top_logprobs", 0, 8), *words("service_tier", _TIERS)),
            families=_families(nested),
        ),
    ),
)
