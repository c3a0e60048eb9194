"""Fireworks AI: api.fireworks.ai. Shortens the answer rather than refusing a long prompt."""

from __future__ import annotations

from broker.operations import COMPLETE, EMBED, IMAGE, RERANK, TRANSCRIBE
from workers.dialects.fireworks_images import FireworksImages
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT, SYSTEM_ROLE, TEXT_ALONE, efforts
from workers.dialects.openai_completions import OpenAiCompletions
from workers.dialects.openai_embeddings import OpenAiEmbeddings
from workers.dialects.openai_transcriptions import WHISPER, OpenAiTranscriptions
from workers.dialects.rerank import Rerank
from workers.parameters import drop
from workers.provider import Provider

_BASE = "https://api.fireworks.ai/inference/v1"
_AUDIO = "https://audio-{}.us-virginia-1.direct.fireworks.ai/v1"
PROVIDER = Provider(
    name="fireworks",
    dialect=DIALECT,
    base_url=_BASE,
    models=(
        *("accounts/fireworks/models/glm-5p3", "accounts/fireworks/models/flux-1-schnell-fp8"),
        *("whisper-v3", "whisper-v3-turbo"),
    ),
    quirks={"top_k": "send", "assistant_fields": "plain", "reasoning_field": "reasoning_content"},
    operations={
        EMBED: OpenAiEmbeddings(DIALECT.error, words=None),
        RERANK: Rerank(DIALECT.error),
        IMAGE: FireworksImages(DIALECT.error),
        TRANSCRIBE: OpenAiTranscriptions(
            DIALECT.error,
            fields=WHISPER,
            home=_BASE,
            hosts={"whisper-v3": _AUDIO.format("prod"), "whisper-v3-turbo": _AUDIO.format("turbo")},
        ),
        COMPLETE: OpenAiCompletions(DIALECT.error, without=frozenset({"suffix", "best_of"})),
    },
    parameters=CHAT.but(
        (*TEXT_ALONE, *SYSTEM_ROLE),
        drop("prompt_cache_retention", "safety_identifier", "store", "verbosity"),
        drop("web_search_options"),
        efforts("none", "low", "medium", "high"),
        # Its own way is to lower max_tokens until the prompt fits.
        defaults={"context_length_exceeded_behavior": "error"},
    ),
)
