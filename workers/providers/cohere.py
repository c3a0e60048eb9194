"""Cohere itself: api.cohere.com."""

from __future__ import annotations

from broker.operations import EMBED, RERANK, TRANSCRIBE
from workers.dialects.cohere_chat import DIALECT
from workers.dialects.cohere_chat.table import TABLE
from workers.dialects.cohere_embeddings import CohereEmbeddings
from workers.dialects.openai_transcriptions import OpenAiTranscriptions
from workers.dialects.rerank import Rerank
from workers.provider import Provider

PROVIDER = Provider(
    name="cohere",
    dialect=DIALECT,
    base_url="https://api.cohere.com",
    # Source: Cohere's list of models, without those that are retired.
    models=(
        "command-a-plus-05-2026",
        "command-a-reasoning-08-2025",
        "command-a-vision-07-2025",
        "command-a-03-2025",
        "command-r7b-12-2024",
        "command-r-plus-08-2024",
        "command-r-08-2024",
        "embed-v4.0",
        "embed-english-v3.0",
        "embed-multilingual-v3.0",
        "rerank-v4.0-pro",
        "rerank-v4.0-fast",
        "rerank-v3.5",
    ),
    operations={
        TRANSCRIBE: OpenAiTranscriptions(
            DIALECT.error,
            "/v2/audio/transcriptions",
            translations="",
            formats=(),
            timed=False,
            fields=frozenset({"language", "temperature"}),
            needed=("language",),
        ),
        EMBED: CohereEmbeddings(DIALECT.error),
        RERANK: Rerank(DIALECT.error, "/v2/rerank", limits=("max_tokens_per_doc",)),
    },
    parameters=TABLE,
)
