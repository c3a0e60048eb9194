"""Azure OpenAI and Azure AI Foundry: the v1 API, and the dated one where an api-version is set."""

from __future__ import annotations

import re
from dataclasses import replace

from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT, MAX_TOKENS, OPENAI_FAMILIES
from workers.parameters import family
from workers.provider import Provider

_CALL = "/chat/completions"
_V1 = ("", "v1", "preview", "latest")


def _configured(provider: Provider) -> Provider:
    """The path behind whichever part of Azure's addresses the base URL already has."""
    version = provider.quirks.get("api_version", "")
    base, path = re.sub(r"^https?://[^/]*", "", provider.base_url).rstrip("/"), _CALL
    if base.endswith("/models"):
        version = version or "2024-05-01-preview"
    if not base or base.endswith("/openai"):
        path = ("/v1" if version in _V1 else "/deployments/{model}") + _CALL
        path = path if base else "/openai" + path
    query = f"?api-version={version}" if version else ""
    return replace(provider, quirks={**provider.quirks, "path": path + query})


PROVIDER = Provider(
    name="azure",
    dialect=DIALECT,
    base_url="",  # https://RESOURCE.openai.azure.com
    credentials="azure",
    configure=_configured,
    quirks={"allowed_tools": "send"},
    parameters=CHAT.but(families=(family("Mistral", "mistral", MAX_TOKENS), *OPENAI_FAMILIES)),
)
