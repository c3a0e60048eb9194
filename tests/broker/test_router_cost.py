"""What a decision costs: the whole path of a request through the router, by CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

import msgspec
import pytest

from broker import presence
from broker.catalog.catalog import Catalog
from broker.catalog.offers import NANO, Offer, Rates
from broker.fleet import FleetView
from broker.health import Health
from broker.presence import Pace, WorkerLease
from broker.router import Router
from broker.routing.world import Rules
from broker.v1 import generation_pb2

HOSTS = 20
MODEL = "maker/m7"
# Microseconds, of a decision among all hosts of a model.
LIMIT_US = 30.0
# What the yardstick takes where the limit can be told; a machine that does much else is slower.
QUIET_US = 22.0
PREFERENCES: list[dict[str, Any]] = [
    {},
    {"sort": "price", "ignore": ["p3"], "max_price": {"prompt": 100}},
    {"sort": "throughput"},
]


def catalog(*, equal: bool) -> Catalog:
    """4,000 offers, 20 of each model; `equal`: at one price."""
    return Catalog(
        Offer(
            f"p{n % HOSTS}",
            f"m{n}",
            f"maker/m{n // HOSTS}",
            max_input=128_000,
            rates=Rates(dict.fromkeys(("input_tokens", "output_tokens"), price(n, equal))),
        )
        for n in range(4000)
    )


def price(number: int, equal: bool) -> int:
    return NANO * (1 if equal else 1 + number % 7)


def router(offers: Catalog) -> Router:
    """One that knows a live worker of each host, with its pace, load and keys."""
    bus: Any = None
    view = FleetView(bus, lambda: None)
    for n in range(HOSTS):
        models = tuple(offer.model for offer in offers if offer.provider == f"p{n}")
        paces = {model: Pace(100 + n, 10, 80) for model in models[:64]}
        lease = WorkerLease(
            f"w{n}", f"p{n}", "main", 64, models, busy=n, paces=paces, keys=(f"k{n}",)
        )
        view._leases.entries[f"w.p{n}.w{n}"] = presence.encode(lease)
    view._rebuild()
    health = Health(bus, view, "edge", lambda _: 3)
    return Router(view, cast("Any", None), offers, Rules(), health)


def request(preferences: dict[str, Any]) -> generation_pb2.Request:
    asked = generation_pb2.Request()
    asked.generate.model = MODEL
    for text in ("You are a helpful assistant.", "Say something about the weather. " * 20):
        asked.generate.messages.add().parts.add().text.text = text
    if preferences:
        asked.platform.provider = msgspec.json.encode(preferences)
    return asked


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of what waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a decision waited for something")


def microseconds(work: Callable[[], object], times: int) -> float:
    """CPU time of one call."""
    begun = time.thread_time()
    for _ in range(times):
        work()
    return (time.thread_time() - begun) / times * 1e6


def yardstick() -> object:
    """Work of a fixed size, which takes as long as this machine makes of it."""
    return sorted(range(200), key=str)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("preferences", PREFERENCES)
async def test_a_decision_among_4000_models_costs_less_than_30_us(
    preferences: dict[str, Any], equal: bool, record_property: Callable[[str, object], None]
) -> None:
    deciding, asked = router(catalog(equal=equal)), request(preferences)
    decision = run(deciding.decide(asked))
    assert len(decision.chosen) + len(decision.left_out) >= HOSTS - 4
    best = yard = float("inf")
    for _ in range(200):
        # Once in fifty there is news of how workers do.
        deciding._fleet.news += 1
        deciding._health._heard_at = -1e9
        best = min(best, microseconds(lambda: run(deciding.decide(asked)), 50))
        yard = min(yard, microseconds(yardstick, 10))
    record_property("decision", f"{best:.1f} us, {best / yard:.2f} yardsticks of {yard:.1f} us")
    if yard < QUIET_US:
        assert best < LIMIT_US
    # 0.85 to 1.1 were measured: where machines are fast enough for twice the work, it fails too.
    assert best / yard < 1.6
