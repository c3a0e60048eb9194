"""Azure OpenAI and Azure AI Foundry: the v1 API, and the dated one where an api-version is set."""

from __future__ import annotations

import re
from dataclasses import replace

from broker.operations import COMPLETE, EMBED, IMAGE, SPEAK, TRANSCRIBE
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT, MAX_TOKENS, OPENAI_FAMILIES
from workers.dialects.openai_completions import OpenAiCompletions
from workers.dialects.openai_embeddings import OpenAiEmbeddings
from workers.dialects.openai_images import FORM, OpenAiImages
from workers.dialects.openai_responses.parameters import OPENAI_FAMILIES as RESPONSES_FAMILIES
from workers.dialects.openai_responses.second import second_format
from workers.dialects.openai_speech import OpenAiSpeech
from workers.dialects.openai_transcriptions import OpenAiTranscriptions
from workers.parameters import family
from workers.provider import Provider

_CALL = "/chat/completions"
_RESPONSES = "/responses"
# Deployments are named at will; these are the names of models of others.
_OTHERS = "mistral|llama|phi-|cohere|command|jamba|deepseek|grok|kimi|qwen"
_RESPONSES_ONLY = r"o\d+-pro|deep-research|gpt-\d+(\.\d+)?-(pro|codex)|codex|computer-use"
_V1 = ("", "v1", "preview", "latest")


def _configured(provider: Provider) -> Provider:
    """The paths behind whichever part of Azure's addresses the base URL already has."""
    version = provider.quirks.get("api_version", "")
    base, prefix = re.sub(r"^https?://[^/]*", "", provider.base_url).rstrip("/"), ""
    alternative, responses = provider.alternative, ""
    if base.endswith("/models") or "/deployments/" in base:
        alternative = None  # these addresses are chat's alone
    if base.endswith("/models"):
        version = version or "2024-05-01-preview"
    if not base or base.endswith("/openai"):
        responses, prefix = ("/v1", "/v1") if version in _V1 else ("", "/deployments/{model}")
        above = "" if base else "/openai"
        responses, prefix = above + responses, above + prefix
    query = f"?api-version={version}" if version else ""
    paths = f"{prefix}{{call}}{query}"
    quirks = {
        "path": paths.replace("{call}", _CALL),
        "paths": paths,
        "responses_path": f"{responses}{_RESPONSES}{query}",
    }
    return replace(provider, quirks={**provider.quirks, **quirks}, alternative=alternative)


PROVIDER = Provider(
    name="azure",
    dialect=DIALECT,
    base_url="",  # https://RESOURCE.openai.azure.com
    credentials="azure",
    configure=_configured,
    quirks={"allowed_tools": "send"},
    operations={
        EMBED: OpenAiEmbeddings(DIALECT.error, user=True),
        IMAGE: OpenAiImages(DIALECT.error, edits=FORM, formats="dall-e", streams=True),
        TRANSCRIBE: OpenAiTranscriptions(
            DIALECT.error, formats=("json", "verbose_json", "diarized_json"), streamed=True
        ),
        SPEAK: OpenAiSpeech(DIALECT.error, events=True),
        COMPLETE: OpenAiCompletions(DIALECT.error, models="instruct|davinci|babbage"),
    },
    parameters=CHAT.but(families=(family("Mistral", "mistral", MAX_TOKENS), *OPENAI_FAMILIES)),
    alternative=second_format(
        DIALECT.error,
        only=_RESPONSES_ONLY,
        never=_OTHERS,
        families=RESPONSES_FAMILIES,
        hides_thoughts=True,
    ),
)
