"""What an answer costs, by its usage and an offer's prices; pure, in integer nano-dollars.

A class without a price of its own is charged as the class that it is a kind of: cached input as
input, reasoning as output. Rounding is up, and once.
"""

from __future__ import annotations

from broker.catalog.offers import Offer, Prices, Rates
from broker.v1 import event_pb2

_MILLION = 1_000_000
# Class of `Usage` -> the class whose price stands in for a missing one.
_INSTEAD = {
    "cache_read_tokens": "input_tokens",
    "cache_write_tokens": "input_tokens",
    "cache_write_1h_tokens": "cache_write_tokens",
    "input_audio_tokens": "input_tokens",
    "input_image_tokens": "input_tokens",
    "reasoning_tokens": "output_tokens",
    "output_audio_tokens": "output_tokens",
    "output_image_tokens": "output_tokens",
}
# Told beside the classes, and parts of them: not charged again.
_PARTS = frozenset({"accepted_prediction_tokens", "rejected_prediction_tokens", "estimated"})
# Priced one by one, or not in numbers.
_APART = frozenset({"images", "tool_calls"})


def cost(offer: Offer, usage: event_pb2.Usage, *, processing: str = "", images: int = 0) -> int:
    """Nano-dollars for a usage. `processing` is "batch", "priority" or "flex" where it was that."""
    prices = prices_for(offer, usage, processing)
    each = (images or usage.images) * prices.get("images", 0) + prices.get("requests", 0)
    total = each * _MILLION
    for field, value in usage.ListFields():
        name, amount = field.name, value
        if name in _PARTS or name in _APART:
            continue
        if name == "cache_write_tokens":
            # The part that is kept longer has a price of its own.
            amount -= usage.cache_write_1h_tokens
        price = prices.get(name)
        while price is None and name in _INSTEAD:
            name = _INSTEAD[name]
            price = prices.get(name)
        if price:
            total += round(amount * price)
    return -(-total // _MILLION)


def prices_for(offer: Offer, usage: event_pb2.Usage, processing: str = "") -> Prices:
    """The prices that apply: those of the way of processing, by the size of the input."""
    base = _at(offer.rates, usage)
    variant = offer.variants.get(processing)
    return base if variant is None else {**base, **_at(variant, usage)}


def _at(rates: Rates, usage: event_pb2.Usage) -> Prices:
    if not rates.tiers:
        return rates.prices
    return prices_at(
        rates,
        usage.input_tokens
        + usage.cache_read_tokens
        + usage.cache_write_tokens
        + usage.input_audio_tokens
        + usage.input_image_tokens,
    )


def prices_at(rates: Rates, size: int) -> Prices:
    """What holds for an input of `size` tokens."""
    prices = rates.prices
    for tier in rates.tiers:
        if size > tier.above:
            prices = {**prices, **tier.prices}
    return prices


def usd(nano: int) -> str:
    """Nano-dollars as dollars, exactly: 1500 -> "0.0000015"."""
    whole, rest = divmod(nano, 1_000_000_000)
    digits = f"{rest:09d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)
