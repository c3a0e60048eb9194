"""xAI: api.x.ai. Live search by `search_parameters` is gone (410)."""

from __future__ import annotations

from typing import Any

from broker.operations import IMAGE
from broker.routing.residency import Claim
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT, CUT_STOP, NO_EFFORT, NOT_OPENAI, efforts
from workers.dialects.openai_images import Edits, OpenAiImages, as_ratio
from workers.dialects.openai_responses.parameters import USAGE_ALWAYS
from workers.dialects.openai_responses.second import second_format
from workers.parameters import Family, Reasoning, Rows, clamp, drop, family, words
from workers.provider import Provider

_REFUSED = (*drop("presence_penalty", "frequency_penalty"), *CUT_STOP)
_TIERS = {"auto": None, "default": "default", "priority": "priority"}
_LIMITED = (*NO_EFFORT, *clamp("top_logprobs", 0, 8), *words("service_tier", _TIERS))
# What its Responses API does without.
_LACKING = drop("metadata", "prompt_cache_retention", "safety_identifier", "verbosity")
_ALL = ("low", "medium", "high", "xhigh")


def _thinks(name: str, models: str, effort: Rows, when: Reasoning = Reasoning.ALWAYS) -> Family:
    return family(name, models, effort, reasoning=when, while_reasoning=_REFUSED)


_FAMILIES = (
    family("non-reasoning", "non-reasoning"),
    _thinks("grok-3-mini", "grok-3-mini", efforts("low", "high")),
    _thinks("grok-4, 4-fast, 4.20, code", r"grok-(4(\.20)?(-|$)|code|build)", NO_EFFORT),
    _thinks("grok-4.3", r"grok-4\.3", efforts("none", *_ALL), Reasoning.BY_DEFAULT),
    _thinks("grok-4.5 and later", r"grok-(4\.[5-9]|[5-9])", efforts(*_ALL)),
)


def _sources(body: dict[str, Any], addresses: list[str]) -> None:
    body["images"] = [{"type": "image_url", "url": address} for address in addresses]


_IMAGES = OpenAiImages(
    DIALECT.error,
    takes=frozenset({"n"}),
    size=as_ratio("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "2:1", "1:2"),
    edits=Edits("/images/edits", _sources, most=3),
    formats=".",
)
_REGIONS = "https://docs.x.ai/developers/advanced-api-usage/regions"
PROVIDER = Provider(
    name="xai",
    dialect=DIALECT,
    base_url="https://api.x.ai/v1",
    residency=((r"us\.api\.x\.ai", Claim(frozenset({"US"}), _REGIONS, "2026-11-21")),),
    models=("grok-4.7", "grok-4.5", "grok-4.3", "grok-3-mini", "grok-imagine-image"),
    operations={IMAGE: _IMAGES},
    quirks={"assistant_fields": "plain", "reasoning_field": "reasoning_content"},
    parameters=CHAT.but((*NOT_OPENAI, *_LIMITED), families=_FAMILIES),
    alternative=second_format(DIALECT.error, _LACKING, _LIMITED, USAGE_ALWAYS, families=_FAMILIES),
)
