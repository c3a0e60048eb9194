"""Perplexity: api.perplexity.ai. User and assistant take turns, behind one system message."""

from __future__ import annotations

from broker.operations import EMBED
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat import parameters as chat
from workers.dialects.openai_embeddings import OpenAiEmbeddings
from workers.parameters import drop, emulate, keep, mapped
from workers.provider import Most, Provider

PROVIDER = Provider(
    name="perplexity",
    dialect=DIALECT,
    base_url="https://api.perplexity.ai",
    models=("sonar", "sonar-pro", "sonar-reasoning-pro", "pplx-embed-v1-0.6b", "pplx-embed-v1-4b"),
    quirks={
        "assistant_fields": "plain",
        "system_messages": "one",
        "turns": "alternate",
        "files": "file_url",
    },
    operations={
        EMBED: OpenAiEmbeddings(
            DIALECT.error,
            "/v1/embeddings",
            ("base64_int8", "base64_int8"),
            tokens=False,
            int8=True,
            at_most=Most(512, 120_000),
        )
    },
    parameters=chat.CHAT.but(
        (*chat.PLAIN, *chat.USAGE_ALWAYS, *chat.NAME_IN_TEXT),
        drop("seed", "user"),
        # "Frequency penalty must satisfy p > 0".
        keep("presence_penalty", "frequency_penalty", unless_moot=True),
        keep("web_search_options"),
        mapped("response_format=json_object", "response_format", note="as any object's schema"),
        emulate("tool_choice=named", path="tool_choice", note="required, of this tool alone"),
        chat.efforts("minimal", "low", "medium", "high"),
    ),
)
