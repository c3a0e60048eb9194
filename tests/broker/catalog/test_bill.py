"""What answers are charged with, and where the prices are from."""

from __future__ import annotations

import pytest

from broker.catalog.bill import Bill
from broker.catalog.catalog import Catalog
from broker.catalog.cost import usd
from broker.catalog.offers import Offer, Rates
from broker.ledger import Ledger
from broker.v1 import event_pb2, job_pb2, record_pb2

PRICES = {"input_tokens": 2_500_000_000, "output_tokens": 10_000_000_000}
FLEX = {"flex": Rates({"input_tokens": 1_250_000_000, "output_tokens": 5_000_000_000})}
CATALOG = Catalog(
    [
        Offer("openai", "gpt-4o", "openai/gpt-4o", rates=Rates(PRICES), variants=FLEX, source="x"),
        Offer("ollama", "llama", "meta/llama"),
    ],
    date="2026-11-01",
)
USAGE = event_pb2.Usage(input_tokens=1000, output_tokens=100)


def test_a_cost_says_what_prices_it_was_made_of() -> None:
    completed = event_pb2.Completed(usage=USAGE)
    assert Bill(CATALOG).cost("openai", "gpt-4o-2024-08-06", completed) == event_pb2.Cost(
        nano_usd=3_500_000, source="x", date="2026-11-01"
    )


def test_another_service_tier_has_its_own_prices() -> None:
    completed = event_pb2.Completed(usage=USAGE, service_tier="flex")
    found = Bill(CATALOG).cost("openai", "gpt-4o", completed)
    assert found is not None
    assert found.nano_usd == 1_750_000


@pytest.mark.parametrize("place", [("openai", "unheard-of"), ("ollama", "llama"), ("x", "gpt-4o")])
def test_what_has_no_price_has_no_cost(place: tuple[str, str]) -> None:
    assert Bill(CATALOG).cost(*place, event_pb2.Completed(usage=USAGE)) is None


def test_the_ledger_prices_what_was_written_without_and_counts_each_charge_once() -> None:
    ledger = Ledger(price=Bill(CATALOG).price)
    charge = record_pb2.Charge(
        request_id="r", usage=USAGE, route=job_pb2.Route(provider="openai", model="gpt-4o")
    )
    priced = record_pb2.Charge(
        request_id="s", usage=USAGE, route=charge.route, cost=event_pb2.Cost(nano_usd=7)
    )
    group = record_pb2.RecordGroup(charges=[charge, priced])
    for _ in range(2):
        ledger.apply(group)
    assert ledger.total().cost_nano == 3_500_000 + 7


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0"), (1, "0.000000001"), (1500, "0.0000015"), (2_500_000_000, "2.5"), (10**9, "1")],
)
def test_dollars_are_written_exactly(nano: int, text: str) -> None:
    assert usd(nano) == text
