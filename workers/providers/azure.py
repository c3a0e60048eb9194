"""Azure OpenAI and Azure AI Foundry: the v1 API, and the dated one where an api-version is set."""

from __future__ import annotations

import re
from dataclasses import replace

from broker.operations import EMBED
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT, MAX_TOKENS, OPENAI_FAMILIES
from workers.dialects.openai_embeddings import OpenAiEmbeddings
from workers.parameters import family
from workers.provider import Provider

_CALL = "/chat/completions"
_V1 = ("", "v1", "preview", "latest")


def _configured(provider: Provider) -> Provider:
    """The paths behind whichever part of Azure's addresses the base URL already has."""
    version = provider.quirks.get("api_version", "")
    base, prefix = re.sub(r"^https?://[^/]*", "", provider.base_url).rstrip("/"), ""
    if base.endswith("/models"):
        version = version or "2024-05-01-preview"
    if not base or base.endswith("/openai"):
        prefix = "/v1" if version in _V1 else "/deployments/{model}"
        prefix = prefix if base else "/openai" + prefix
    query = f"?api-version={version}" if version else ""
    paths = f"{prefix}{{call}}{query}"
    path = paths.replace("{call}", _CALL)
    return replace(provider, quirks={**provider.quirks, "path": path, "paths": paths})


PROVIDER = Provider(
    name="azure",
    dialect=DIALECT,
    base_url="",  # https://RESOURCE.openai.azure.com
    credentials="azure",
    configure=_configured,
    quirks={"allowed_tools": "send"},
    operations={EMBED: OpenAiEmbeddings(DIALECT.error, user=True)},
    parameters=CHAT.but(families=(family("Mistral", "mistral", MAX_TOKENS), *OPENAI_FAMILIES)),
)
