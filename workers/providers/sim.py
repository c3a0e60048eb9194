"""The simulated provider that comes with the broker: works offline, without a key."""

from __future__ import annotations

from broker.operations import EMBED, MODERATE, RERANK
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT
from workers.dialects.openai_embeddings import OpenAiEmbeddings
from workers.dialects.openai_moderations import OpenAiModerations
from workers.dialects.rerank import Rerank
from workers.provider import Provider

PROVIDER = Provider(
    name="sim",
    dialect=DIALECT,
    base_url="http://127.0.0.1:9000/v1",
    models=("sim", "echo"),
    keyless=True,
    operations={
        MODERATE: OpenAiModerations(DIALECT.error),
        RERANK: Rerank(DIALECT.error),
        EMBED: OpenAiEmbeddings(DIALECT.error, user=True),
    },
    parameters=CHAT,
)
