"""Google's Vertex AI: Gemini and Claude in a project's region, by OAuth tokens or an API key.

Options: `project`, and `location` (a region, `us`, `eu` or `global`). Without a project models are
asked for outside of any, which takes an API key ("express mode"). With a
`batch_bucket` (`gs://name`, or `gs://name/folder`) lines of batches can be handed over;
`storage_url` is Cloud Storage's address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from broker.errors import InferenceError
from broker.operations import COUNT_TOKENS, EMBED, IMAGE, RERANK, SPEAK, TRANSCRIBE
from broker.routing.residency import Claim
from workers.batches.vertex_ai import STORAGE, VertexBatches
from workers.dialects.anthropic_messages import ON_VERTEX_AI
from workers.dialects.anthropic_messages.table import TABLE
from workers.dialects.gemini import (
    VERTEX_AI,
    VERTEX_AI_TABLE,
    Gemini,
    GeminiImages,
    GeminiSpeech,
    GeminiTranscriptions,
)
from workers.dialects.gemini.embeddings import VertexAiEmbeddings
from workers.dialects.token_counts import TokenCounts, of_publishers
from workers.dialects.vertex_ranking import VertexRanking
from workers.locations import GLOBAL, HOSTS, at
from workers.paths import versioned
from workers.provider import Alternative, Provider

_NAME = re.compile(r"[a-z][a-z0-9.:-]{0,62}")
_BUCKET = re.compile(r"(?:gs://)?(?P<name>[a-z0-9][a-z0-9._-]+)/?(?P<folder>[\w./-]*)")


def _configure(declared: Provider) -> Provider:
    """The host of the location, and the resource that the models belong to."""
    project = declared.quirks.get("project", "")
    location = declared.quirks.get("location", GLOBAL).lower()
    for option, value in (("project", project), ("location", location)):
        if value and not _NAME.fullmatch(value):
            raise ValueError(f"the option {option} is no name of Google Cloud's: {value!r}")
    there = at(declared, project, location)
    return replace(there, batches=_batches(declared, there.quirks["parent"]))


def _batches(declared: Provider, parent: str) -> VertexBatches | None:
    """Batches of a project, over the bucket, if there is one."""
    if "batch_bucket" not in declared.quirks:
        return None
    given = declared.quirks["batch_bucket"]
    bucket = _BUCKET.fullmatch(given)
    if bucket is None:
        raise ValueError(f"the option batch_bucket is no gs://name/folder: {given!r}")
    if not parent:
        raise ValueError("the option batch_bucket needs the option project")
    storage = declared.quirks.get("storage_url", STORAGE).rstrip("/")
    if not storage.startswith(("https://", "http://")):
        raise ValueError(f"the option storage_url is no address: {storage!r}")
    folder = bucket["folder"].strip("/")
    version = versioned(declared.base_url, VERTEX_AI.version)
    return VertexBatches(
        parent,
        bucket["name"],
        folder=folder and f"{folder}/",
        version=version,
        storage=storage,
    )


_DIALECT = Gemini(VERTEX_AI)


def _error(status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
    """Claude's errors, or Google's own."""
    dialect = ON_VERTEX_AI if b'"type"' in body[:20] else _DIALECT
    return dialect.error(status, headers, body)


_RESIDENCY = "https://docs.cloud.google.com/vertex-ai/generative-ai/docs/learn/data-residency"
PROVIDER = Provider(
    name="vertex_ai",
    dialect=_DIALECT,
    base_url=f"https://{HOSTS[GLOBAL]}",
    credentials="google",
    configure=_configure,
    residency=tuple(
        (re.escape(HOSTS[place]), Claim(frozenset({place.upper()}), _RESIDENCY, "2026-11-21"))
        for place in ("us", "eu")
    ),
    operations={
        COUNT_TOKENS: TokenCounts(_error, of_publishers),
        EMBED: VertexAiEmbeddings(),
        IMAGE: GeminiImages(VERTEX_AI),
        SPEAK: GeminiSpeech(VERTEX_AI),
        TRANSCRIBE: GeminiTranscriptions(VERTEX_AI),
        RERANK: VertexRanking(_DIALECT.error),
    },
    # Source: recorded traffic and the model names in the official SDKs.
    models=(
        "gemini-3.1-pro-preview",
        "gemini-3-flash-preview",
        "gemini-2.5-pro",
        "gemini-2.5-flash",
        "gemini-2.5-flash-lite",
        "gemini-3-pro-image",
        "gemini-2.5-flash-image",
        "claude-opus-4-8",
        "claude-sonnet-4-6",
        "claude-haiku-4-5",
        "gemini-embedding-001",
        "text-embedding-005",
        "text-multilingual-embedding-002",
        "semantic-ranker-default-004",
    ),
    parameters=VERTEX_AI_TABLE,
    alternative=Alternative(
        "Messages", ON_VERTEX_AI, TABLE, models=r"^(publishers/anthropic/models/)?claude-"
    ),
)
