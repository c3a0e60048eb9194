"""What surrounds a request: the API's own path and headers, or those of a platform with Claude.

Source: the clients for the platforms in the official SDK (anthropic 2.11).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.paths import segment, versioned
from workers.provider import Provider

_DATE = re.compile(r"-(\d{8})$")


@dataclass(frozen=True, slots=True)
class Envelope:
    """One platform. With a `body_version` the model is named in the path, not in the body."""

    headers: Mapping[str, str] = field(default_factory=dict)
    body_version: str = ""
    # Beta features that the platform has not, without their dates: naming one is an error there.
    lacks: frozenset[str] = frozenset()
    # Whether images and documents may be given by their addresses.
    reads_addresses: bool = True
    # Beta features are listed in the body.
    betas_in_body: bool = False
    # Claude's own web search is there.
    searches: bool = True

    def begin(self, model: str) -> dict[str, str]:
        """The fields that a body begins with."""
        return {"anthropic_version": self.body_version} if self.body_version else {"model": model}

    def path(self, model: str, provider: Provider, *, streams: bool) -> str:
        """The path of a call; the quirk `parent` is the resource that models belong to."""
        version = versioned(provider.base_url, "v1")
        if not self.body_version:
            return f"{version}/messages"
        parent = provider.quirks.get("parent", "")
        # Dates of versions are written claude-opus-4-5@20251101 there.
        name = segment(_DATE.sub(r"@\1", model.rpartition("/")[2]))
        method = "streamRawPredict" if streams else "rawPredict"
        return f"{version}/{parent}publishers/anthropic/models/{name}:{method}"


# The later version refuses temperature, top_p and top_k on every model.
DIRECT = Envelope(headers={"anthropic-version": "2023-06-01"})
VERTEX_AI = Envelope(
    body_version="vertex-2023-10-16",
    lacks=frozenset({"files-api", "mcp-client"}),
    reads_addresses=False,
)
BEDROCK = Envelope(
    body_version="bedrock-2023-05-31",
    lacks=frozenset({"files-api", "mcp-client"}),
    reads_addresses=False,
    betas_in_body=True,
    searches=False,
)
