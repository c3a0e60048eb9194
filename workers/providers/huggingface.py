"""Hugging Face's router: models of many providers as `org/name` or `org/name:provider`."""

from __future__ import annotations

from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT, PLAIN
from workers.parameters import drop, keep
from workers.provider import Provider

PROVIDER = Provider(
    name="huggingface",
    dialect=DIALECT,
    base_url="https://router.huggingface.co/v1",
    models=("openai/gpt-oss-120b", "deepseek-ai/DeepSeek-R1"),
    quirks={"assistant_fields": "plain"},
    parameters=CHAT.but(PLAIN, drop("user", "parallel_tool_calls"), keep("logit_bias")),
)
