"""Together AI: api.together.ai. Counts log probabilities in one number; usage comes unasked."""

from __future__ import annotations

from broker.operations import EMBED, RERANK
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT, NAME_IN_TEXT, PLAIN, USAGE_ALWAYS, efforts
from workers.dialects.openai_embeddings import OpenAiEmbeddings
from workers.dialects.rerank import Rerank
from workers.parameters import At, drop, keep, mapped
from workers.provider import Provider

PROVIDER = Provider(
    name="together_ai",
    dialect=DIALECT,
    base_url="https://api.together.ai/v1",
    models=(
        *("meta-llama/Llama-3.3-70B-Instruct-Turbo", "deepseek-ai/DeepSeek-R1"),
        "intfloat/multilingual-e5-large-instruct",
    ),
    quirks={"top_k": "send", "assistant_fields": "plain"},
    operations={
        RERANK: Rerank(DIALECT.error, objects=True),
        EMBED: OpenAiEmbeddings(DIALECT.error, words=None, dimensions="", tokens=False),
    },
    parameters=CHAT.but(
        (*PLAIN, *USAGE_ALWAYS, *NAME_IN_TEXT),
        drop("user", "parallel_tool_calls"),
        keep("logit_bias"),
        mapped("logprobs", "logprobs", note="as a number"),
        mapped("top_logprobs", "logprobs", note="with logprobs"),
        efforts("low", "medium", "high", off=At("reasoning.enabled", False)),
    ),
)
