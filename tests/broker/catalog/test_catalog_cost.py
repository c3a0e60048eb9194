"""What an answer costs: every class by its own price, tiers and ways of processing."""

from __future__ import annotations

import time

import pytest

from broker.catalog.cost import cost
from broker.catalog.offers import NANO, Offer, Rates, Tier
from broker.v1 import event_pb2

PRICES = {
    "input_tokens": 3 * NANO,
    "output_tokens": 15 * NANO,
    "cache_read_tokens": 3 * NANO // 10,
    "cache_write_tokens": 15 * NANO // 4,
    "cache_write_1h_tokens": 6 * NANO,
}
OFFER = Offer(
    provider="p",
    model="m",
    name="other/m",
    rates=Rates(PRICES, (Tier(200_000, {"input_tokens": 6 * NANO, "output_tokens": 22 * NANO}),)),
    variants={"batch": Rates({"input_tokens": NANO, "output_tokens": 7 * NANO})},
)


def usage(**classes: int) -> event_pb2.Usage:
    return event_pb2.Usage(**classes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("classes", "nano"),
    [
        ({}, 0),
        ({"input_tokens": 1}, 3_000),
        ({"output_tokens": 2}, 30_000),
        ({"cache_read_tokens": 10}, 3_000),
        # 4 of the 10 that were written are kept for an hour.
        ({"cache_write_tokens": 10, "cache_write_1h_tokens": 4}, 6 * 3_750 + 4 * 6_000),
        # Without a price of their own they cost what they are kinds of.
        ({"reasoning_tokens": 3}, 45_000),
        ({"input_audio_tokens": 3}, 9_000),
        ({"output_tokens": 5, "accepted_prediction_tokens": 5}, 75_000),
        # Above the tier all of it has the tier's prices, the cache its own.
        ({"input_tokens": 200_000, "output_tokens": 1}, 200_000 * 3_000 + 15_000),
        ({"input_tokens": 200_001, "output_tokens": 1}, 200_001 * 6_000 + 22_000),
        ({"input_tokens": 1, "cache_read_tokens": 200_000}, 6_000 + 200_000 * 300),
    ],
)
def test_a_usage_costs_the_sum_of_its_classes(classes: dict[str, int], nano: int) -> None:
    assert cost(OFFER, usage(**classes)) == nano


def test_batch_has_its_own_prices_and_the_rest_stays() -> None:
    asked = usage(input_tokens=1, output_tokens=1, cache_read_tokens=10)
    assert cost(OFFER, asked, processing="batch") == 1_000 + 7_000 + 3_000
    assert cost(OFFER, asked, processing="unknown") == cost(OFFER, asked)


def test_fractions_of_a_nano_dollar_are_rounded_up_once() -> None:
    cheap = Offer(provider="p", model="m", name="n", rates=Rates({"input_tokens": 1_500_000}))
    assert cost(cheap, usage(input_tokens=1)) == 2
    assert cost(cheap, usage(input_tokens=2)) == 3


def test_seconds_searches_and_pictures_are_charged() -> None:
    prices = {"input_audio_s": 100 * NANO, "search_units": 2000 * NANO, "images": 40_000_000}
    offer = Offer(provider="p", model="m", name="n", rates=Rates(prices))
    assert cost(offer, event_pb2.Usage(input_audio_s=2.5)) == 250_000
    assert cost(offer, event_pb2.Usage(search_units=1)) == 2_000_000
    assert cost(offer, event_pb2.Usage(), images=3) == 120_000_000


def test_a_calculation_takes_less_than_10_us() -> None:
    asked = usage(
        input_tokens=900, output_tokens=50, cache_read_tokens=10, cache_write_tokens=5,
        reasoning_tokens=7,
    )  # fmt: skip
    best = 1.0
    for _ in range(20):
        begun = time.process_time()
        for _ in range(200):
            cost(OFFER, asked)
        best = min(best, (time.process_time() - begun) / 200)
    assert best < 10e-6


def test_a_request_may_have_a_price_of_its_own() -> None:
    offer = Offer("p", "m", "o/m", rates=Rates({**PRICES, "requests": NANO // 100}))
    assert cost(offer, usage(input_tokens=1)) == 10_000_000 + 3_000
