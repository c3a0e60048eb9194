"""Ollama, on the operator's machine or in its cloud: what it does not know it ignores."""

from __future__ import annotations

from broker.operations import COMPLETE, EMBED
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import (
    ASKED_CHOICE,
    CHAT,
    NAME_IN_TEXT,
    ONE_CHOICE,
    PLAIN,
)
from workers.dialects.openai_completions import ONE_PROMPT, OpenAiCompletions
from workers.dialects.openai_embeddings import OpenAiEmbeddings
from workers.parameters import drop
from workers.provider import Provider

PROVIDER = Provider(
    name="ollama",
    dialect=DIALECT,
    base_url="",  # the operator's: http://localhost:11434/v1
    keyless=True,
    quirks={
        "assistant_fields": "plain",
        "reasoning_field": "reasoning",
        "image_addresses": "fetch",
    },
    operations={
        COMPLETE: OpenAiCompletions(
            DIALECT.error, without=ONE_PROMPT | {"n", "echo", "logprobs", "logit_bias", "user"}
        ),
        EMBED: OpenAiEmbeddings(DIALECT.error, tokens=False),
    },
    parameters=CHAT.but(
        (*PLAIN, *ONE_CHOICE, *NAME_IN_TEXT),
        drop("user", "parallel_tool_calls"),
        ASKED_CHOICE,  # it reads no tool_choice
    ),
)
