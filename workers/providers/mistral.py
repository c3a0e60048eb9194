"""Mistral: api.mistral.ai. A strict list of fields, in the body as in messages: others are 422."""

from __future__ import annotations

from broker.operations import COMPLETE, EMBED, MODERATE, SPEAK, TRANSCRIBE
from broker.routing.residency import Claim
from workers.batches.jobs import jobs
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT, NAME_IN_TEXT, PLAIN, USAGE_ALWAYS
from workers.dialects.openai_completions import ONE_PROMPT, OpenAiCompletions
from workers.dialects.openai_embeddings import OpenAiEmbeddings
from workers.dialects.openai_moderations import OpenAiModerations
from workers.dialects.openai_speech import OpenAiSpeech
from workers.dialects.openai_transcriptions import OpenAiTranscriptions
from workers.parameters import clamp, drop, keep, rename, words
from workers.provider import Most, Provider

_TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
_MOST = Most(512, 16_384)  # source: its errors ("Max is 16384")
_FIM = OpenAiCompletions(
    DIALECT.error,
    "/fim/completions",
    ONE_PROMPT
    | {"n", "echo", "logprobs", "logit_bias", "user", "stream_options"}
    | {"presence_penalty", "frequency_penalty"},
    {"seed": "random_seed"},
    models="codestral",
)
_REGIONAL = "https://docs.mistral.ai/studio/regional-inference"
_RESIDENCY = (
    (r"api\.eu\.mistral\.ai", Claim(frozenset({"EU"}), _REGIONAL, "2026-11-21")),
    (r"api\.us\.mistral\.ai", Claim(frozenset({"US"}), _REGIONAL, "2026-11-21")),
)
_EMBEDDINGS = OpenAiEmbeddings(
    DIALECT.error, dimensions="output_dimension", tokens=False, at_most=_MOST
)

PROVIDER = Provider(
    name="mistral",
    dialect=DIALECT,
    base_url="https://api.mistral.ai/v1",
    models=(
        *("mistral-large-latest", "mistral-medium-latest", "mistral-small-latest"),
        *("mistral-embed", "codestral-embed", "mistral-moderation-latest"),
        *("voxtral-mini-latest", "codestral-latest"),
    ),
    quirks={
        "assistant_fields": "plain",
        "reasoning_field": "content",
        "call_ids": "nine characters",
        "tool_type": "as given",
        "files": "document_url",
        "audio": "bare",
        "prefix": "/chat/completions",
    },
    residency=_RESIDENCY,
    operations={
        TRANSCRIBE: OpenAiTranscriptions(
            DIALECT.error,
            translations="",
            formats=(),
            fields=frozenset({"language", "temperature", "timestamp_granularities"}),
            streamed=True,
        ),
        SPEAK: OpenAiSpeech(
            DIALECT.error,
            formats={name: name for name in ("mp3", "opus", "flac", "wav", "pcm")},
            speed=False,
            instructions=False,
        ),
        COMPLETE: _FIM,
        EMBED: _EMBEDDINGS,
        MODERATE: OpenAiModerations(DIALECT.error, parts=False),
    },
    batches=jobs("/chat/completions", "/fim/completions", "/embeddings", "/moderations"),
    parameters=CHAT.but(
        (*PLAIN, *USAGE_ALWAYS, *NAME_IN_TEXT),
        clamp("temperature", 0, 1.5),
        rename("seed", "random_seed"),
        keep("metadata", "prediction", "prompt_cache_key"),
        drop("user"),
        (*words("service_tier", _TIERS), *words("tool_choice=required", {"required": "any"})),
    ),
)
