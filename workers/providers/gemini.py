"""Google's Gemini by the key of AI Studio: generativelanguage.googleapis.com."""

from __future__ import annotations

from dataclasses import replace

from broker.operations import COUNT_TOKENS, EMBED, IMAGE, SPEAK, TRANSCRIBE
from workers.batches.gemini import GeminiBatches
from workers.dialects.gemini import (
    AI_STUDIO,
    AI_STUDIO_TABLE,
    Gemini,
    GeminiImages,
    GeminiSpeech,
    GeminiTranscriptions,
)
from workers.dialects.gemini.embeddings import AiStudioEmbeddings
from workers.dialects.token_counts import TokenCounts, of_contents
from workers.paths import unversioned
from workers.provider import Provider

_DIALECT = Gemini(AI_STUDIO)


def _configure(declared: Provider) -> Provider:
    """The version in the base URL is not the first word of every path of the Files API."""
    site, version = unversioned(declared.base_url)
    if not version:
        return declared
    return replace(declared, batches=GeminiBatches(site, version))


PROVIDER = Provider(
    name="gemini",
    dialect=_DIALECT,
    base_url="https://generativelanguage.googleapis.com",
    auth_header="x-goog-api-key",
    auth_prefix="",
    # Source: recorded traffic and the model names in the official SDK.
    models=(
        "gemini-3.6-flash",
        "gemini-3.1-pro-preview",
        "gemini-3-flash-preview",
        "gemini-3.1-flash-lite",
        "gemini-3-pro-image",
        "gemini-3.1-flash-image",
        "gemini-2.5-pro",
        "gemini-2.5-flash",
        "gemini-2.5-flash-lite",
        "gemini-2.5-flash-image",
        "gemini-2.5-flash-preview-tts",
        "gemini-3.8-flash-tts",
        "gemini-embedding-2",
        "gemini-embedding-001",
    ),
    operations={
        COUNT_TOKENS: TokenCounts(_DIALECT.error, of_contents),
        EMBED: AiStudioEmbeddings(),
        IMAGE: GeminiImages(AI_STUDIO),
        SPEAK: GeminiSpeech(AI_STUDIO),
        TRANSCRIBE: GeminiTranscriptions(AI_STUDIO),
    },
    parameters=AI_STUDIO_TABLE,
    batches=GeminiBatches(),
    configure=_configure,
)
