"""Hugging Face's router: models of many providers as `org/name` or `org/name:provider`.

Another address is an endpoint of the operator's own, with embeddings of OpenAI's and reranking.
"""

from __future__ import annotations

from dataclasses import replace

from broker.operations import EMBED, RERANK
from workers.dialects.feature_extraction import FeatureExtraction
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT, PLAIN
from workers.dialects.openai_embeddings import OpenAiEmbeddings
from workers.dialects.tei_rerank import TeiRerank
from workers.parameters import drop, keep
from workers.provider import Most, Provider

_ROUTER = "https://router.huggingface.co/v1"
_MOST = Most(32)  # what its servers take unless they are told otherwise
_ENDPOINT = OpenAiEmbeddings(DIALECT.error, tokens=False, at_most=_MOST)


def _configure(declared: Provider) -> Provider:
    """What an endpoint offers, and the router does not."""
    if declared.base_url.rstrip("/") == _ROUTER:
        return declared
    return replace(declared, operations={EMBED: _ENDPOINT, RERANK: TeiRerank(DIALECT.error)})


PROVIDER = Provider(
    name="huggingface",
    dialect=DIALECT,
    base_url=_ROUTER,
    models=("openai/gpt-oss-120b", "deepseek-ai/DeepSeek-R1", "intfloat/multilingual-e5-large"),
    quirks={"assistant_fields": "plain"},
    configure=_configure,
    operations={EMBED: FeatureExtraction(DIALECT.error)},
    parameters=CHAT.but(PLAIN, drop("user", "parallel_tool_calls"), keep("logit_bias")),
)
