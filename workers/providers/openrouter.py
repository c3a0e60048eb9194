"""OpenRouter: openrouter.ai. Drops by itself what the provider behind it does not take."""

from __future__ import annotations

from typing import Any

from broker.operations import COMPLETE, EMBED, IMAGE, RERANK, SPEAK, TRANSCRIBE
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT, FUNCTIONS_AS_TOOLS, ONE_CHOICE
from workers.dialects.openai_completions import ONE_PROMPT, OpenAiCompletions
from workers.dialects.openai_embeddings import OpenAiEmbeddings
from workers.dialects.openai_images import EVERYTHING, Edits, OpenAiImages
from workers.dialects.openai_responses.parameters import USAGE_ALWAYS
from workers.dialects.openai_responses.second import second_format
from workers.dialects.openai_speech import OpenAiSpeech
from workers.dialects.openai_transcriptions import OpenAiTranscriptions
from workers.dialects.rerank import Rerank
from workers.parameters import drop
from workers.provider import Provider

_LACKING = drop("prompt_cache_retention", "safety_identifier")


def _sources(body: dict[str, Any], addresses: list[str]) -> None:
    body["input_references"] = [
        {"type": "image_url", "image_url": {"url": address}} for address in addresses
    ]


_IMAGES = OpenAiImages(
    DIALECT.error,
    path="/images",
    takes=EVERYTHING - {"style", "moderation", "input_fidelity", "user"},
    edits=Edits("/images", _sources),
)
PROVIDER = Provider(
    name="openrouter",
    dialect=DIALECT,
    base_url="https://openrouter.ai/api/v1",
    models=(
        *("openai/gpt-5.2", "anthropic/claude-sonnet-4.6", "google/gemini-2.5-flash"),
        "openai/text-embedding-3-small",
    ),
    quirks={
        "top_k": "send",
        "assistant_fields": "plain",
        "cache_control": "send",
        "file_addresses": "send",
        "reasoning_field": "reasoning_details",
    },
    operations={
        IMAGE: _IMAGES,
        TRANSCRIBE: OpenAiTranscriptions(
            DIALECT.error,
            translations="",
            formats=("json",),
            timed=False,
            fields=frozenset({"language", "temperature"}),
        ),
        SPEAK: OpenAiSpeech(DIALECT.error, formats={"mp3": "mp3", "pcm": "pcm"}),
        COMPLETE: OpenAiCompletions(DIALECT.error, without=ONE_PROMPT | {"n", "echo", "suffix"}),
        RERANK: Rerank(DIALECT.error),
        EMBED: OpenAiEmbeddings(DIALECT.error, user=True, input_type=True),
    },
    parameters=CHAT.but(FUNCTIONS_AS_TOOLS, ONE_CHOICE, _LACKING, drop("store")),
    alternative=second_format(
        DIALECT.error, _LACKING, USAGE_ALWAYS, hosted_in_chat=True, plain_reasoning=True
    ),
)
