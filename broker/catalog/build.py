"""Rebuilds the vendored data from the price data of two packages, and reports where they differ.

    pip download --no-deps litellm genai-prices
    python -m broker.catalog.build litellm-*.whl genai_prices-*.whl 2026-11-21

Both are MIT-licensed and used as data alone: neither is imported at run time. LiteLLM's file has
the limits and abilities, so it leads; genai-prices adds offers that it lacks, and the report lists
each window and price on which they disagree. The date is the day of the download.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import tempfile
import types
import zipfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from broker.catalog.cost import prices_at
from broker.catalog.names import name_of
from broker.catalog.offers import NANO, Data, Offer, Rates, Tier, encode

DATA = Path(__file__).parent / "data"
_MILLION = 1_000_000

# LiteLLM's word for a provider -> ours.
_LITELLM = {
    "anthropic": "anthropic",
    "openai": "openai",
    "text-completion-openai": "openai",
    "azure": "azure",
    "azure_ai": "azure",
    "xai": "xai",
    "cohere": "cohere",
    "cohere_chat": "cohere",
    "gemini": "gemini",
    "bedrock": "bedrock",
    "bedrock_converse": "bedrock",
    "together_ai": "together_ai",
    "groq": "groq",
    "mistral": "mistral",
    "codestral": "mistral",
    "deepseek": "deepseek",
    "openrouter": "openrouter",
    "fireworks_ai": "fireworks",
    "fireworks_ai-embedding-models": "fireworks",
    "cerebras": "cerebras",
    "perplexity": "perplexity",
}
# genai-prices' word -> ours.
_GENAI = {
    "anthropic": "anthropic",
    "openai": "openai",
    "azure": "azure",
    "x-ai": "xai",
    "cohere": "cohere",
    "google": "gemini",
    "aws": "bedrock",
    "together": "together_ai",
    "groq": "groq",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "openrouter": "openrouter",
    "fireworks": "fireworks",
    "cerebras": "cerebras",
    "perplexity": "perplexity",
}
_MODES = {
    "chat": "generate",
    "responses": "generate",
    "completion": "complete",
    "embedding": "embed",
    "image_generation": "image",
    "image_edit": "image",
    "audio_transcription": "transcribe",
    "audio_speech": "speak",
    "moderation": "moderate",
    "rerank": "rerank",
}
_ABILITIES = {
    "supports_function_calling": "tools",
    "supports_parallel_function_calling": "parallel_tools",
    "supports_vision": "images",
    "supports_pdf_input": "pdf",
    "supports_audio_input": "audio_input",
    "supports_audio_output": "audio_output",
    "supports_response_schema": "json_schema",
    "supports_native_structured_output": "json_schema",
    "supports_reasoning": "reasoning",
    "supports_prompt_caching": "prompt_cache",
    "supports_web_search": "web_search",
    "supports_assistant_prefill": "prefill",
}
# LiteLLM's price -> (class of usage, units that one price is for).
_PRICES = {
    "input_cost_per_token": "input_tokens",
    "output_cost_per_token": "output_tokens",
    "cache_read_input_token_cost": "cache_read_tokens",
    "cache_creation_input_token_cost": "cache_write_tokens",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h_tokens",
    "input_cost_per_audio_token": "input_audio_tokens",
    "output_cost_per_audio_token": "output_audio_tokens",
    "input_cost_per_image_token": "input_image_tokens",
    "output_cost_per_image_token": "output_image_tokens",
    "output_cost_per_reasoning_token": "reasoning_tokens",
    "input_cost_per_second": "input_audio_s",
    "input_cost_per_character": "characters",
    "input_cost_per_query": "search_units",
    "output_cost_per_image": "images",
}
_PRICE = re.compile(
    rf"(?P<price>{'|'.join(sorted(_PRICES, key=len, reverse=True))})"
    r"(?:_above_(?P<above>\d+)k_tokens)?(?:_(?P<variant>batches|priority|flex))?"
)
_VARIANTS = {"batches": "batch", "priority": "priority", "flex": "flex"}
# Regions of one model, which its plain entry stands for.
_REGIONAL = re.compile(r"^(azure/(eu|us|global|global-standard|standard|data)/|bedrock/)")


def main(arguments: list[str]) -> None:
    """Write the data, the report and the notices."""
    if len(arguments) != 3:
        sys.exit(__doc__)
    litellm, genai = (zipfile.ZipFile(path) for path in arguments[:2])
    theirs = dict(_from_litellm(litellm))
    others = dict(_from_genai(genai))
    offers = {**others, **theirs}
    DATA.mkdir(exist_ok=True)
    data = Data(arguments[2], tuple(offers[key] for key in sorted(offers)))
    (DATA / "offers.json").write_bytes(encode(data).replace(b'},{"provider"', b'},\n{"provider"'))
    report = "".join(_disagreements(theirs, others))
    (DATA / "disagreements.md").write_text(
        _HEAD.format(theirs=len(theirs), others=len(others)) + report
    )
    (DATA / "NOTICES.md").write_text(_notices(litellm, genai))
    print(f"{len(offers)} offers of {len({p for p, _ in offers})} providers, {data.date}")  # noqa: T201


# --- LiteLLM -----------------------------------------------------------------------------------


def _from_litellm(wheel: zipfile.ZipFile) -> Iterator[tuple[tuple[str, str], Offer]]:
    entries = json.loads(wheel.read("litellm/model_prices_and_context_window_backup.json"))
    source = _label(wheel)
    for key, entry in entries.items():
        word = str(entry.get("litellm_provider", ""))
        provider = "vertex_ai" if word.startswith("vertex_ai") else _LITELLM.get(word)
        operation = _MODES.get(entry.get("mode", ""))
        if provider is None or operation is None or _REGIONAL.match(key):
            continue
        model = _bare(key, word)
        rates, variants = _rates(entry)
        yield (
            (provider, model),
            Offer(
                provider=provider,
                model=model,
                name=name_of(model),
                operations=(operation,),
                max_input=_whole(entry.get("max_input_tokens")),
                max_output=_whole(entry.get("max_output_tokens")),
                abilities=frozenset(word for key, word in _ABILITIES.items() if entry.get(key)),
                rates=rates,
                variants=variants,
                source=str(entry.get("source") or source),
                ends=str(entry.get("deprecation_date") or ""),
            ),
        )


def _bare(key: str, word: str) -> str:
    """The id as the provider knows it: LiteLLM puts its own word for the provider before it."""
    head, slash, rest = key.partition("/")
    own = {word, word.split("-", maxsplit=1)[0], "cohere", "bedrock", "codestral", "vertex_ai"}
    return rest if slash and head in own else key


def _rates(entry: dict[str, Any]) -> tuple[Rates, dict[str, Rates]]:
    found: dict[str, dict[int, dict[str, int]]] = {}
    for key, value in entry.items():
        match = _PRICE.fullmatch(key)
        if match is None or not isinstance(value, (int, float)):
            continue
        variant = _VARIANTS.get(match["variant"] or "", "")
        above = int(match["above"] or 0) * 1000
        prices = found.setdefault(variant, {}).setdefault(above, {})
        name = _PRICES[match["price"]]
        # Pictures are counted, everything else is priced by the million.
        scale = NANO if name == "images" else NANO * _MILLION
        prices[name] = round(Decimal(str(value)) * scale)
    made = {variant: _made(by_size) for variant, by_size in found.items()}
    return made.pop("", Rates()), made


def _made(by_size: dict[int, dict[str, int]]) -> Rates:
    tiers = tuple(Tier(above, by_size[above]) for above in sorted(by_size) if above)
    return Rates(by_size.get(0, {}), tiers)


def _whole(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) else 0


# --- genai-prices ------------------------------------------------------------------------------

_MTOK = {
    "input_mtok": "input_tokens",
    "output_mtok": "output_tokens",
    "cache_read_mtok": "cache_read_tokens",
    "cache_write_mtok": "cache_write_tokens",
    "input_audio_mtok": "input_audio_tokens",
    "output_audio_mtok": "output_audio_tokens",
}


def _from_genai(wheel: zipfile.ZipFile) -> Iterator[tuple[tuple[str, str], Offer]]:
    source = _label(wheel)
    for provider in _genai_providers(wheel):
        ours = _GENAI.get(provider.id)
        if ours is None:
            continue
        for model in provider.models:
            prices = model.prices
            if not _real(ours, model.id):
                continue
            if isinstance(prices, list):  # by date: the last is the newest
                prices = prices[-1].prices
            yield (
                (ours, model.id),
                Offer(
                    provider=ours,
                    model=model.id,
                    name=name_of(model.id),
                    max_input=_whole(model.context_window),
                    rates=_genai_rates(prices),
                    source=source,
                ),
            )


# Where genai-prices has ids of its own making, what the provider's real ones look like.
_REAL = {
    "openrouter": r".+/.+",
    "together_ai": r".+/.+",
    "fireworks": r"accounts/.+",
    "gemini": r"gem|imagen|text-embedding|learnlm|veo",
    "bedrock": r"[a-z0-9]+\.[a-z].+",
}


def _real(provider: str, model: str) -> bool:
    return re.match(_REAL.get(provider, ""), model) is not None


def _genai_providers(wheel: zipfile.ZipFile) -> list[Any]:
    """Its data, without running what the package does on import."""
    with tempfile.TemporaryDirectory() as folder:
        wheel.extractall(folder)
        package = types.ModuleType("genai_prices")
        package.__path__ = [f"{folder}/genai_prices"]
        sys.modules["genai_prices"] = package
        return list(importlib.import_module("genai_prices.data").providers)


def _genai_rates(prices: Any) -> Rates:
    by_size: dict[int, dict[str, int]] = {}
    for field, name in _MTOK.items():
        value = getattr(prices, field, None)
        if value is None:
            continue
        if hasattr(value, "base"):
            for tier in value.tiers:
                by_size.setdefault(int(tier.start), {})[name] = round(tier.price * NANO)
            value = value.base
        by_size.setdefault(0, {})[name] = round(value * NANO)
    return _made(by_size)


# --- What is written beside the data -------------------------------------------------------------

_HEAD = """# Where the two sources disagree

Prices in USD per million tokens, `max_input` in tokens. {theirs} offers are from LiteLLM, {others}
from genai-prices; offers that both have are listed when a price or the window differs by more than
1 %. Prices of long inputs are compared where either source has other ones. LiteLLM's is used.

| offer | class | LiteLLM | genai-prices |
|---|---|---|---|
"""


def _disagreements(
    theirs: dict[tuple[str, str], Offer], others: dict[tuple[str, str], Offer]
) -> Iterator[str]:
    for key in sorted(theirs.keys() & others.keys()):
        mine, other = _facts(theirs[key], others[key])
        for name in sorted(mine.keys() & other.keys()):
            if abs(mine[name] - other[name]) * 100 > max(mine[name], other[name]):
                yield f"| {'/'.join(key)} | {name} | {mine[name]:.10g} | {other[name]:.10g} |\n"


def _facts(*offers: Offer) -> Iterator[dict[str, float]]:
    """Of each offer what there is to compare, by what it is: the window, and USD by class."""
    sizes = {tier.above for offer in offers for tier in offer.rates.tiers}
    for offer in offers:
        facts = {"max_input": float(offer.max_input)} if offer.max_input else {}
        for name, price in offer.rates.prices.items():
            facts[name] = price / NANO
        for size in sizes:
            for name, price in prices_at(offer.rates, size + 1).items():
                facts[f"{name} above {size}"] = price / NANO
        yield facts


def _label(wheel: zipfile.ZipFile) -> str:
    name, version, *_ = Path(wheel.filename or "").name.split("-")
    return f"{name.replace('_', '-')} {version}"


def _notices(*wheels: zipfile.ZipFile) -> str:
    parts = ["# Notices\n\nThe price data in this folder was taken from these packages.\n"]
    for wheel in wheels:
        licence = next(name for name in wheel.namelist() if name.endswith("licenses/LICENSE"))
        text = wheel.read(licence).decode()
        parts.append(f"\n## {_label(wheel)}\n\n```\n{text.strip()}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    main(sys.argv[1:])
