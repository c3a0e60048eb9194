"""vLLM, and servers made from it: the operator's own."""

from __future__ import annotations

from broker.operations import COMPLETE, EMBED, RERANK, TRANSCRIBE
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT, NOT_OPENAI, SYSTEM_ROLE
from workers.dialects.openai_completions import OpenAiCompletions
from workers.dialects.openai_embeddings import OpenAiEmbeddings
from workers.dialects.openai_transcriptions import OpenAiTranscriptions
from workers.dialects.rerank import Rerank
from workers.parameters import drop, keep
from workers.provider import Provider

PROVIDER = Provider(
    name="vllm",
    dialect=DIALECT,
    base_url="",  # the operator's: http://HOST:8000/v1
    keyless=True,
    # Chat templates of some models refuse a second system message.
    quirks={
        "top_k": "send",
        "assistant_fields": "plain",
        "reasoning_field": "reasoning",
        "system_messages": "one",
    },
    operations={
        TRANSCRIBE: OpenAiTranscriptions(DIALECT.error),
        COMPLETE: OpenAiCompletions(DIALECT.error, without=frozenset({"suffix", "best_of"})),
        RERANK: Rerank(DIALECT.error),
        EMBED: OpenAiEmbeddings(DIALECT.error, user=True),
    },
    parameters=CHAT.but(
        (*NOT_OPENAI, *SYSTEM_ROLE),
        drop("user", "parallel_tool_calls", note="it would be ignored"),
        keep("logit_bias"),
    ),
)
