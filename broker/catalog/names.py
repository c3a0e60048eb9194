"""A model's common name, `maker/model`, found out from any provider's id for it; pure."""

from __future__ import annotations

import re

# What an id begins with (after its path and region) -> who made the model.
_MAKERS = {
    "anthropic": "claude",
    "openai": "chatgpt|gpt|o1|o3|o4|davinci|babbage|text-embedding-3|text-embedding-ada"
    "|text-moderation|omni-moderation|whisper|tts|dall-e|codex|computer-use",
    "google": "gemini|gemma|imagen|text-embedding-00|text-multilingual-embedding|veo|learnlm",
    "meta": "llama|codellama",
    "mistral": "mistral|mixtral|codestral|ministral|magistral|devstral|pixtral|voxtral|open-mi",
    "deepseek": "deepseek",
    "qwen": "qwen|qwq|qvq",
    "cohere": "command|c4ai|aya|embed-|rerank-",
    "xai": "grok",
    "amazon": "nova|titan",
    "perplexity": "sonar|pplx|r1-1776",
    "moonshot": "kimi|moonshot",
    "zai": "glm",
    "ai21": "jamba|j2",
    "microsoft": "phi|wizardlm",
    "nvidia": "nemotron|nvidia",
    "minimax": "minimax",
    "black-forest-labs": "flux",
    "stability": "sdxl|stable-diffusion|stable-image",
}
_NAMES = tuple(_MAKERS)
_MAKER = re.compile("|".join(f"({words})" for words in _MAKERS.values()))
# Regions and makers that stand before Bedrock's names.
_BEFORE = re.compile(
    r"^((us|eu|apac|au|ca|jp|global|us-gov)\.)?"
    r"((anthropic|meta|mistral|cohere|amazon|ai21|deepseek|openai|qwen|google|minimax|moonshotai"
    r"|moonshot|nvidia|zai|writer|stability|twelvelabs|luma)\.)?"
)
# Versions and dates that tell snapshots of one model apart.
_AFTER = re.compile(
    r"(@.*|:\d+k?|-v\d+:\d+(:\d+k)?|-\d{4}-\d{2}-\d{2}|-\d{8}|@default|-latest|-\d{2}-\d{4}|-preview"
    r"|-instruct|-it|-exp|-\d{2}-\d{2})$"
)


def name_of(model: str) -> str:
    """`maker/model` for a provider's id; the maker is "other" when the id does not say."""
    slug = slug_of(model)
    return f"{maker_of(slug)}/{slug}"


def slug_of(model: str) -> str:
    """The id without path, region, maker, date and version, in lower case, with dashes alone."""
    slug = _BEFORE.sub("", model.lower().rstrip("/").rpartition("/")[2])
    while (shorter := _AFTER.sub("", slug)) != slug and shorter:
        slug = shorter
    slug = re.sub(r"^meta-(?=llama)", "", slug)
    # Llama 3.1 and Llama-3p1 and llama3-1 are one.
    slug = re.sub(r"(?<=\d)p(?=\d)", "-", slug)
    slug = re.sub(r"[._\s]+", "-", slug)
    return re.sub(r"^(llama|qwen|phi)-?v?(?=\d)", r"\1-", slug)


def maker_of(slug: str) -> str:
    """Who made a model, by the beginning of its slug."""
    found = _MAKER.match(slug)
    return "other" if found is None else _NAMES[(found.lastindex or 1) - 1]
