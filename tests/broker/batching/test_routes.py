"""Where lines of batches go while workers come and go: a short absence fails no line."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from broker.batch.lines import Head
from broker.batching import routes
from broker.batching.routes import Routes
from broker.catalog.catalog import Catalog
from broker.catalog.offers import Offer
from broker.errors import InferenceError
from broker.router import Router
from broker.routing import Fleet
from broker.routing.spread import Spread
from broker.routing.world import Live, Rules

CHAT = "/v1/chat/completions"
UP = Fleet(
    {"vllm": {"main": frozenset({"own-7b"})}, "openai": {"main": frozenset()}},
    frozenset({"vllm", "openai"}),
)
DOWN = Fleet({}, UP.known)


class World:
    """Routes of a fleet that tests change."""

    def __init__(self) -> None:
        self.view = SimpleNamespace(fleet=UP)
        view: Any = self.view
        health: Any = SimpleNamespace(
            state=lambda _provider, _model: Live(),
            spread=lambda *_: Spread(),
            news=0,
            troubled=False,
        )
        catalog = Catalog([Offer("openai", "gpt-4o", "openai/gpt-4o")])
        self.routes = Routes(Router(view, self.fresh, catalog, Rules(), health))

    async def fresh(self) -> Fleet:
        fleet: Fleet = self.view.fleet
        return fleet

    async def reason(self, model: str) -> str:
        """Why nobody is there; empty = somebody is."""
        decided = await self.routes.decide(CHAT, Head(model), b"{}")
        return decided.reason if isinstance(decided, InferenceError) else ""


@pytest.fixture(autouse=True)
def _always_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_FRESH_S", -1.0)


@pytest.mark.parametrize("model", ["gpt-4o", "openai/gpt-4o", "own-7b"])
async def test_lines_wait_for_workers_that_are_away_for_a_while(model: str) -> None:
    world = World()
    assert not await world.reason(model)
    world.view.fleet = DOWN
    assert await world.reason(model) == "no_worker"
    world.view.fleet = UP
    assert not await world.reason(model)


async def test_an_unknown_model_is_refused_at_once_while_everybody_is_there() -> None:
    assert await World().reason("nobody") == "model_not_found"


async def test_an_unknown_model_is_refused_in_the_end_though_somebody_stays_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(routes, "_BELIEVED_S", 0.3)
    world = World()
    world.view.fleet = DOWN
    assert await world.reason("nobody") == "no_worker"
    async with asyncio.timeout(30):
        while await world.reason("nobody") != "model_not_found":
            await asyncio.sleep(0.01)
