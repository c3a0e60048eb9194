"""Lets calls in at Azure: an API key in its own header, or a token of Entra ID as a bearer."""

from __future__ import annotations

from collections.abc import Mapping

from broker.errors import InferenceError
from workers.provider import Call, Credentials, Provider

# Entra's tokens are JSON web tokens, which begin with an object in base64; API keys never do.
_JWT = "eyJ"


class AzureCredentials:
    """The header for whichever of both a key is."""

    async def headers(self, key: str | None, call: Call, url: str) -> Mapping[str, str]:
        """The one header that carries the key; `InferenceError` for what no header can."""
        if not key:
            return {}
        if not (key.isascii() and key.isprintable()):
            raise InferenceError(
                "upstream_credentials", "the key has characters that no key has", phase="connect"
            )
        if key.startswith(_JWT):
            return {"authorization": f"Bearer {key}"}
        return {"api-key": key}

    def refused(self, key: str | None) -> None:
        """Nothing is kept that could be renewed: whoever set the token renews it."""


def make(_: Provider) -> Credentials:
    """The credentials of any Azure resource."""
    return AzureCredentials()
