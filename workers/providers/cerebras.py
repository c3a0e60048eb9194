"""Cerebras: api.cerebras.ai. A strict list of fields in body and messages; others are 400."""

from __future__ import annotations

from broker.operations import COMPLETE
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT, NOT_OPENAI, efforts
from workers.dialects.openai_completions import OpenAiCompletions
from workers.parameters import family, keep
from workers.provider import Provider

PROVIDER = Provider(
    name="cerebras",
    dialect=DIALECT,
    base_url="https://api.cerebras.ai/v1",
    models=("gpt-oss-120b", "zai-glm-4.7", "llama-3.3-70b"),
    quirks={"assistant_fields": "plain", "reasoning_field": "reasoning"},
    operations={COMPLETE: OpenAiCompletions(DIALECT.error)},
    parameters=CHAT.but(
        NOT_OPENAI,
        keep("prediction", "prompt_cache_key", "service_tier"),
        efforts("none", "low", "medium", "high"),
        families=(family("gpt-oss", "gpt-oss", efforts("low", "medium", "high")),),
    ),
)
