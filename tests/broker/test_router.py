"""What the router keeps of its decisions, and what it decides anew each time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from broker.catalog.catalog import Catalog
from broker.catalog.offers import NANO, Offer, Rates
from broker.errors import InferenceError
from broker.router import Router
from broker.routing import Fleet
from broker.routing.spread import Spread
from broker.routing.world import Live, Rules
from broker.v1 import generation_pb2

CATALOG = Catalog(
    [Offer("groq", "m", "maker/m", rates=Rates({"input_tokens": NANO, "output_tokens": NANO}))]
)
UP = Fleet({"groq": {"main": frozenset({"m"})}}, frozenset({"groq"}))
DOWN = Fleet({}, frozenset({"groq"}))


class Edge:
    """A router with a fleet and a state that tests change."""

    def __init__(self, fleet: Fleet = UP, rules: Rules | None = None) -> None:
        self.view = SimpleNamespace(fleet=fleet)
        self.linked = fleet
        self.live = Live(first_ms=10)
        health: Any = SimpleNamespace(
            state=lambda _provider, _model: self.live,
            spread=lambda *_: Spread(),
            news=0,
            troubled=False,
        )
        view: Any = self.view
        self.router = Router(view, self.fresh, CATALOG, rules or Rules(), health)

    async def fresh(self) -> Fleet:
        return self.linked

    async def providers(self, request: generation_pb2.Request) -> list[str]:
        return [t.provider for t in (await self.router.decide(request)).targets]

    async def reason(self, request: generation_pb2.Request) -> str:
        with pytest.raises(InferenceError) as told:
            await self.router.decide(request)
        return told.value.reason


def chat(model: str = "groq/m") -> generation_pb2.Request:
    return generation_pb2.Request(generate=generation_pb2.GenerateRequest(model=model))


async def test_a_plain_name_is_decided_once_for_each_fleet() -> None:
    edge = Edge()
    assert await edge.router.decide(chat()) is await edge.router.decide(chat())
    edge.view.fleet = edge.linked = DOWN
    assert await edge.reason(chat()) == "no_worker"


async def test_another_operation_is_another_decision() -> None:
    edge = Edge()
    embed = generation_pb2.Request()
    embed.embed.model = "groq/m"
    assert await edge.providers(chat()) == ["groq"]
    assert await edge.reason(embed) == "unsupported_operation"


async def test_the_region_of_a_request_counts_each_time() -> None:
    edge = Edge(rules=Rules(compliance={"groq": frozenset({"EU"})}))
    asked = chat()
    asked.platform.provider = b'{"compliance": "EU"}'
    assert await edge.providers(asked) == ["groq"]
    asked.platform.region = "us-east-1"
    assert await edge.reason(asked) == "no_compliant_provider"


async def test_limits_are_held_against_the_present_state() -> None:
    edge = Edge()
    assert await edge.providers(chat("m@ttft<50ttft")) == ["groq"]
    edge.live = Live(first_ms=9999)
    assert await edge.reason(chat("m@ttft<50ttft")) == "no_matching_provider"


async def test_a_worker_that_only_its_link_shows_is_looked_for_each_time() -> None:
    edge = Edge(DOWN)
    edge.linked = UP
    assert await edge.providers(chat()) == ["groq"]
    edge.linked = DOWN
    assert await edge.reason(chat()) == "no_worker"


async def test_preferences_are_never_taken_for_a_plain_name() -> None:
    edge = Edge()
    assert await edge.providers(chat()) == ["groq"]
    picky = chat()
    picky.platform.provider = b'{"ignore": ["groq"]}'
    assert await edge.reason(picky) == "no_matching_provider"


@pytest.mark.parametrize("name", ["m", "maker/m"])
async def test_a_name_whose_only_host_is_away_is_not_unknown(name: str) -> None:
    edge = Edge(DOWN)
    assert await edge.reason(chat(name)) == "no_worker"
    assert await edge.reason(chat("nobody")) == "model_not_found"
    assert not edge.router.whole
    edge.view.fleet = edge.linked = UP
    assert await edge.providers(chat(name)) == ["groq"]
    assert edge.router.whole


async def test_of_several_names_one_that_is_only_away_decides() -> None:
    edge = Edge(DOWN)
    request = chat("nobody")
    request.platform.models.append("m")
    assert await edge.reason(request) == "no_worker"


async def test_a_refusal_for_want_of_workers_is_believed_after_a_fresh_read() -> None:
    both = frozenset({"groq", "mistral"})
    edge = Edge(Fleet({"mistral": {"main": frozenset({"m"})}}, both))
    picky = chat("m")
    picky.platform.provider = b'{"only": ["groq"]}'
    assert await edge.reason(picky) == "no_worker"
    edge.linked = Fleet({name: {"main": frozenset({"m"})} for name in both}, both)
    assert await edge.providers(picky) == ["groq"]
