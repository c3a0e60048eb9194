"""Amazon Bedrock: the runtime of a region, by an API key or AWS's own credentials.

Options: `region`, and `profile` of AWS's configuration files; `batch_bucket` (`s3://bucket/folder`)
and `batch_role` (an ARN) for batches, with `control_url` and `s3_url` where those services are not
at AWS's own addresses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from broker.operations import COUNT_TOKENS, EMBED, IMAGE, RERANK
from broker.routing.residency import Claim
from workers.batches.invocations import InvocationJobs
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
from workers.regions import beside, host_of

_REGION = "us-east-1"
# Characters that stand in an address as they are.
_BUCKET = re.compile(
    r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)/?"
)
_URL = re.compile(r"https?://[^\s/?#]+[^\s?#]*")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[!-~]+")


def _configure(declared: Provider) -> Provider:
    """The host of the region, and its batches where they have a bucket."""
    base_url, options = host_of(declared.quirks.get("region", _REGION)), declared.quirks
    # An address that was given stands in for it.
    there = base_url if declared.base_url == host_of(_REGION) else declared.base_url
    return replace(declared, base_url=base_url, batches=_batches(there, options))


def _batches(base_url: str, options: Mapping[str, str]) -> InvocationJobs | None:
    bucket, role = options.get("batch_bucket", ""), options.get("batch_role", "")
    if not bucket and not role:
        return None
    place = _BUCKET.fullmatch(bucket)
    if place is None:
        raise ValueError(
            f"the option batch_bucket is not of the form s3://bucket/folder: {bucket!r}"
        )
    if not _ROLE.fullmatch(role):
        raise ValueError(f"the option batch_role is no ARN of a role: {role!r}")
    for option in ("control_url", "s3_url"):
        if not _URL.fullmatch(options.get(option, "https://x")):
            raise ValueError(f"the option {option} is no http:// or https:// URL")
    control = options.get("control_url") or beside(base_url, "bedrock")
    own, storage = options.get("s3_url", ""), beside(base_url, "s3")
    if not (control and (own or storage)):
        raise ValueError(
            f"batches need the options control_url and s3_url, beside an address like {base_url}"
        )
    name, folder = place.groups()
    if own or "." in name:  # no certificate covers such a name
        storage = f"{(own or storage).rstrip('/')}/{name}"
    else:
        storage = storage.replace("//", f"//{name}.")
    return InvocationJobs(
        control=control.rstrip("/"),
        bucket=storage,
        uri=f"s3://{name}{folder}",
        folder=folder,
        role=role,
    )


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
