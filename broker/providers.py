"""The registry of provider names: the one place that lists them.

A worker loads `workers.providers.<name>`; the environment prefix is the name in capitals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Entry:
    """One provider: other spellings of its name, and whether it works without a key.

    One that is not `addressed` has no address of its own: the operator has to give it.
    `options` are settings that only this provider has: `api_version` is AZURE_API_VERSION in the
    environment, else the first of the variables given with it that is set. With the option named
    `ambient` set, it works without a key too: by the credentials of the machine it runs on.
    `keys` are further variables that may hold its key, `secrets` those that belong to the machine's
    credentials: other processes are not given them. `hosted` are hosted tools of the Responses API
    that it runs itself. `continues` is an expression that is found in the names of models whose
    format here can hand them an assistant's message to continue.
    """

    aliases: tuple[str, ...] = ()
    keyless: bool = False
    addressed: bool = True
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ambient: str = ""
    keys: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    hosted: frozenset[str] = frozenset()
    continues: str = ""


REGISTRY: dict[str, Entry] = {
    "openai": Entry(hosted=frozenset({"image_generation"})),
    "azure": Entry(
        aliases=("azure_openai", "azure_ai"),
        addressed=False,
        options={"api_version": ("AZURE_OPENAI_API_VERSION", "OPENAI_API_VERSION")},
        hosted=frozenset({"image_generation"}),
    ),
    "anthropic": Entry(continues="claude"),
    "xai": Entry(aliases=("x_ai",)),
    "cohere": Entry(),
    "vertex_ai": Entry(
        aliases=("vertexai", "vertex"),
        options={
            "project": ("VERTEXAI_PROJECT",),
            "location": ("VERTEXAI_LOCATION",),
            # What is handed over to its batches goes through it.
            "batch_bucket": (),
            "storage_url": (),
        },
        ambient="project",
        continues="claude",
    ),
    "gemini": Entry(aliases=("google", "google_ai")),
    "bedrock": Entry(
        aliases=("aws_bedrock", "amazon_bedrock"),
        options={
            "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
            "profile": (),
            # What its batches need: s3://bucket/folder, and the role that reads and writes it.
            "batch_bucket": (),
            "batch_role": (),
            "control_url": ("AWS_ENDPOINT_URL_BEDROCK",),
            "s3_url": ("AWS_ENDPOINT_URL_S3",),
            # Any value, such as "machine", has AWS's own libraries find credentials.
            "credentials": (
                *("BEDROCK_PROFILE", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"),
                *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            ),
        },
        ambient="credentials",
        keys=("AWS_BEARER_TOKEN_BEDROCK",),
        secrets=("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
        continues="claude",
    ),
    "together_ai": Entry(aliases=("together", "togetherai")),
    "groq": Entry(),
    "mistral": Entry(aliases=("mistralai", "mistral_ai"), continues="."),
    "deepseek": Entry(continues="."),
    "openrouter": Entry(aliases=("open_router",)),
    "fireworks": Entry(aliases=("fireworks_ai", "fireworksai")),
    "cerebras": Entry(),
    "perplexity": Entry(aliases=("perplexity_ai",)),
    "ollama": Entry(keyless=True),
    "vllm": Entry(aliases=("hosted_vllm",), keyless=True),
    "huggingface": Entry(aliases=("hugging_face", "hf")),
    "openai_compatible": Entry(keyless=True),
    "sim": Entry(keyless=True),
}

_SPELLINGS = {alias: name for name, entry in REGISTRY.items() for alias in (name, *entry.aliases)}


def canonical(name: str) -> str | None:
    """The registry's name for any accepted spelling, or None; case and - for _ do not matter."""
    return _SPELLINGS.get(name.lower().replace("-", "_"))


def continues(provider: str, model: str) -> bool:
    """Whether the format of a model there has a way to hand it a message to continue."""
    entry = REGISTRY.get(provider)
    return bool(entry and entry.continues and re.search(entry.continues, model))
