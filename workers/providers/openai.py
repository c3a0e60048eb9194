"""OpenAI itself: api.openai.com."""

from __future__ import annotations

from broker.operations import COMPLETE, EMBED, IMAGE, MODERATE, SPEAK, TRANSCRIBE
from broker.routing.residency import Claim
from workers.batches.files import FileBatches
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT, OPENAI_FAMILIES
from workers.dialects.openai_completions import OpenAiCompletions
from workers.dialects.openai_embeddings import OpenAiEmbeddings
from workers.dialects.openai_images import FORM, OpenAiImages
from workers.dialects.openai_moderations import OpenAiModerations
from workers.dialects.openai_responses.parameters import OPENAI_FAMILIES as RESPONSES_FAMILIES
from workers.dialects.openai_responses.second import second_format
from workers.dialects.openai_speech import OpenAiSpeech
from workers.dialects.openai_transcriptions import OpenAiTranscriptions
from workers.provider import Provider

# Models that chat does not take.
_RESPONSES_ONLY = (
    r"^(o\d+-pro|o\d+(-mini)?-deep-research|gpt-\d+(\.\d+)?-(pro|codex)|codex|computer-use)"
)
# What its Europe takes in is not said there.
_RESIDENCY = "https://developers.openai.com/api/docs/guides/data-residency"

PROVIDER = Provider(
    name="openai",
    dialect=DIALECT,
    base_url="https://api.openai.com/v1",
    residency=((r"us\.api\.openai\.com", Claim(frozenset({"US"}), _RESIDENCY, "2026-11-21")),),
    # Source: the model names in the official SDK that chat takes and no shutdown date has passed.
    models=(
        "gpt-6.1-sol",
        "gpt-6.1-terra",
        "gpt-6-astra",
        "gpt-6-sol",
        "gpt-6-luna",
        "gpt-5.6-sol",
        "gpt-5.6-terra",
        "gpt-5.6-luna",
        "gpt-5.5",
        "gpt-5.4",
        "gpt-5.4-mini",
        "gpt-5.4-nano",
        "gpt-5.2",
        "gpt-5.1",
        "gpt-5",
        "gpt-5-mini",
        "gpt-5-nano",
        "gpt-4.1",
        "gpt-4.1-mini",
        "gpt-4o",
        "gpt-4o-mini",
        "gpt-audio-mini",
        "o3",
        "gpt-3.5-turbo-instruct",
        "text-embedding-3-large",
        "omni-moderation-latest",
        "gpt-image-2.5-sunburst",
        "gpt-image-2.5-flare",
        "gpt-image-2",
        "gpt-image-1.5",
        "gpt-image-1-mini",
        "chatgpt-image-latest",
        "text-embedding-3-small",
        "text-embedding-ada-002",
        "whisper-1",
        "gpt-4o-transcribe",
        "gpt-4o-mini-transcribe",
        "gpt-4o-transcribe-diarize",
        "tts-1",
        "tts-1-hd",
        "gpt-4o-mini-tts",
        "o3-pro",
        "o1-pro",
        "gpt-5.5-pro",
        "gpt-5-pro",
    ),
    quirks={"allowed_tools": "send"},
    operations={
        TRANSCRIBE: OpenAiTranscriptions(
            DIALECT.error, formats=("json", "verbose_json", "diarized_json"), streamed=True
        ),
        SPEAK: OpenAiSpeech(DIALECT.error, events=True),
        COMPLETE: OpenAiCompletions(DIALECT.error, models="instruct|davinci|babbage"),
        MODERATE: OpenAiModerations(DIALECT.error),
        EMBED: OpenAiEmbeddings(DIALECT.error, user=True),
        IMAGE: OpenAiImages(
            DIALECT.error, edits=FORM, variations=True, formats="dall-e", streams=True
        ),
    },
    parameters=CHAT.but(families=OPENAI_FAMILIES),
    batches=FileBatches(
        frozenset(
            {
                "/chat/completions",
                "/completions",
                "/embeddings",
                "/responses",
                "/moderations",
                "/images/generations",
            }
        ),
        expiring=True,
    ),
    alternative=second_format(
        DIALECT.error, only=_RESPONSES_ONLY, families=RESPONSES_FAMILIES, hides_thoughts=True
    ),
)
