"""An offer is one model at one provider: its limits, abilities and prices; pure.

Prices are integers: nano-dollars for a million units of a class of `Usage`, so that 2.5 dollars
per million tokens are 2_500_000_000, and a price below a nano-dollar per token is one too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

# USD -> nano-dollars.
NANO = 1_000_000_000
# Class of `Usage` -> price. Beside its token classes: input_audio_s, search_units, characters, and
# `images` for each picture drawn and `requests` for each request, which are nano-dollars for one.
Prices = Mapping[str, int]


class Tier(msgspec.Struct, frozen=True):
    """Prices of requests whose whole input is more than `above` tokens."""

    above: int
    prices: Prices


class Rates(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one way of processing costs; tiers by rising size."""

    prices: Prices = {}
    tiers: tuple[Tier, ...] = ()


class Offer(msgspec.Struct, frozen=True, omit_defaults=True):
    """See the module. `model` is the provider's own id."""

    provider: str
    model: str
    # maker/model, the same at every provider that serves it, such as "anthropic/claude-sonnet-4-5".
    name: str
    # What it is for: operations of the hub, and "complete" for the legacy form of completions.
    operations: tuple[str, ...] = ("generate",)
    # Tokens; 0 = not known.
    max_input: int = 0
    max_output: int = 0
    # tools, parallel_tools, images, pdf, audio_input, audio_output, json_schema, reasoning,
    # prompt_cache, web_search, prefill.
    abilities: frozenset[str] = frozenset()
    rates: Rates = Rates()
    # "batch", "priority", "flex": what differs then.
    variants: Mapping[str, Rates] = {}
    # Where the prices are from.
    source: str = ""
    # The last day on which the provider serves it (YYYY-MM-DD).
    ends: str = ""

    @property
    def sort_price(self) -> float:
        """Nano-dollars for a million tokens in and a million out; infinite where one is unknown."""
        prices = self.rates.prices
        into, out = prices.get("input_tokens"), prices.get("output_tokens")
        return math.inf if into is None or out is None else into + out


class Data(msgspec.Struct, frozen=True):
    """The vendored file: `date` (YYYY-MM-DD) is when its sources were taken."""

    date: str
    offers: tuple[Offer, ...]


encode = msgspec.json.Encoder(order="deterministic").encode
decode = msgspec.json.Decoder(Data).decode
