"""Amazon Bedrock: the runtime of a region, by an API key or AWS's own credentials.

Options: `region`, and `profile` of AWS's configuration files.
"""

from __future__ import annotations

from dataclasses import replace

from broker.operations import COUNT_TOKENS, EMBED, IMAGE, RERANK
from broker.routing.residency import Claim
from workers.dialects.anthropic_messages.on_bedrock import (
    PARAMETERS,
    AnthropicOnBedrock,
    in_its_own_format,
)
from workers.dialects.bedrock_converse import DIALECT
from workers.dialects.bedrock_converse.errors import error_in_answer
from workers.dialects.bedrock_converse.table import TABLE
from workers.dialects.bedrock_embeddings import BedrockEmbeddings
from workers.dialects.bedrock_images import BedrockImages
from workers.dialects.bedrock_rerank import BedrockRerank
from workers.dialects.token_counts import TokenCounts, of_converse
from workers.provider import Alternative, Provider
from workers.regions import host_of

_REGION = "us-east-1"


def _configure(declared: Provider) -> Provider:
    """The host of the region."""
    return replace(declared, base_url=host_of(declared.quirks.get("region", _REGION)))


# Of models that several regions of one part of the world answer. Callers choose the host's region.
_RESIDENCY = (
    "https://docs.aws.amazon.com/bedrock/latest/userguide/geographic-cross-region-inference.html"
)

PROVIDER = Provider(
    name="bedrock",
    dialect=DIALECT,
    base_url=host_of(_REGION),
    credentials="aws",
    configure=_configure,
    residency=tuple(
        (
            r"bedrock-runtime(-fips)?\.[a-z0-9-]+\.amazonaws\.com",
            Claim(frozenset({place.upper()}), _RESIDENCY, "2026-11-21", f"{place}."),
        )
        for place in ("us", "eu")
    ),
    operations={
        COUNT_TOKENS: TokenCounts(DIALECT.error, of_converse),
        EMBED: BedrockEmbeddings(DIALECT.error),
        RERANK: BedrockRerank(DIALECT.error),
        IMAGE: BedrockImages(DIALECT.error),
    },
    # Source: AWS's list of models; those that answer from several regions by their global profile.
    models=(
        "global.anthropic.claude-opus-5-5",
        "global.anthropic.claude-sonnet-5-5",
        "global.anthropic.claude-haiku-5-5",
        "global.anthropic.claude-opus-4-8",
        "global.anthropic.claude-sonnet-4-6",
        "global.anthropic.claude-haiku-4-5-20251001-v1:0",
        "global.amazon.nova-2-lite-v1:0",
        "global.openai.gpt-6.1-sol",
        "global.openai.gpt-6-luna",
        "global.xai.grok-4.7",
        "global.moonshotai.kimi-k3.1",
        "global.zai.glm-5.3",
        "openai.gpt-oss-120b-1:0",
        "openai.gpt-oss-20b-1:0",
        "deepseek.v3.2",
        "qwen.qwen3-next-80b-a3b",
        "qwen.qwen3-vl-235b-a22b",
        "mistral.mistral-large-3-675b-instruct",
        "minimax.minimax-m2.5",
        "amazon.titan-embed-text-v2:0",
        "amazon.titan-embed-text-v1",
        "amazon.nova-2-multimodal-embeddings-v1:0",
        "cohere.embed-v4:0",
        "cohere.embed-english-v3",
        "cohere.embed-multilingual-v3",
        "cohere.rerank-v3-5:0",
        "amazon.rerank-v1:0",
        "amazon.nova-canvas-v1:0",
        "stability.sd3-5-large-v1:0",
    ),
    parameters=TABLE,
    alternative=Alternative(
        "Messages",
        AnthropicOnBedrock(DIALECT.error, error_in_answer),
        PARAMETERS,
        in_its_own_format,
    ),
)
