"""Perplexity: api.perplexity.ai. User and assistant take turns, behind one system message."""

from __future__ import annotations

from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import (
    CHAT,
    NAME_IN_TEXT,
    PLAIN,
    USAGE_ALWAYS,
    efforts,
)
from workers.parameters import drop, emulate, keep, mapped
from workers.provider import Provider

PROVIDER = Provider(
    name="perplexity",
    dialect=DIALECT,
    base_url="https://api.perplexity.ai",
    models=("sonar", "sonar-pro", "sonar-reasoning-pro"),
    quirks={"assistant_fields": "plain", "system_messages": "one", "turns": "alternate"},
    parameters=CHAT.but(
        (*PLAIN, *USAGE_ALWAYS, *NAME_IN_TEXT),
        drop("seed", "user"),
        # "Frequency penalty must satisfy p > 0".
        keep("presence_penalty", "frequency_penalty", unless_moot=True),
        keep("web_search_options"),
        mapped("response_format=json_object", "response_format", note="as any object's schema"),
        emulate("tool_choice=named", path="tool_choice", note="required, of this tool alone"),
        efforts("minimal", "low", "medium", "high"),
    ),
)
