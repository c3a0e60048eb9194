"""Decides where requests go, from what this edge knows of the fleet and from the catalogue."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Hashable

from broker import operations, routing
from broker.catalog.catalog import Catalog
from broker.errors import InferenceError
from broker.fleet import FleetView
from broker.health import Health
from broker.routing import reading
from broker.routing.world import Rules
from broker.v1 import generation_pb2

# Callers choose names: they must not fill the memory.
_MOST_KEPT = 10_000
_LONGEST = 1000


class Router:
    """See the module. `fresh` reads the fleet anew."""

    def __init__(
        self,
        fleet: FleetView,
        fresh: Callable[[], Awaitable[routing.Fleet]],
        catalog: Catalog,
        rules: Rules,
        health: Health,
    ) -> None:
        self._fleet = fleet
        self._fresh = fresh
        self._catalog = catalog
        self._rules = rules
        self._health = health
        self._dice = random.Random().random
        # For this fleet: names with one candidate, and who answers what asks alike.
        self._plain: dict[tuple[str, str], routing.Decision] = {}
        self._slates: dict[tuple[Hashable, ...], routing.Slate] = {}
        self._seen: routing.Fleet | None = None
        self._known = routing.World()

    async def decide(self, request: generation_pb2.Request) -> routing.Decision:
        """Where a request goes. Raises `InferenceError` as `routing.decide` does."""
        fleet = self._fleet.fleet
        if fleet is not self._seen:
            self._plain.clear()
            self._slates.clear()
            self._seen = fleet
        platform = request.platform
        named = not (platform.provider or platform.models)
        plain = operations.name(request), operations.model(request)
        if named and (known := self._plain.get(plain)) is not None:
            return known
        try:
            decision = self._decide(request, fleet)
        except InferenceError as exc:
            return await self._afresh(request, exc)
        alone = len(decision.chosen) == 1 and not decision.left_out
        lasting = named and alone and not decision.chosen[0].wish.limits
        if lasting and len(self._plain) < _MOST_KEPT and len(plain[1]) < _LONGEST:
            self._plain[plain] = decision
        return decision

    @property
    def whole(self) -> bool:
        """Whether every provider that is known has a worker now."""
        fleet = self._fleet.fleet
        return bool(fleet.live) and fleet.known <= fleet.live.keys()

    async def explain(self, request: generation_pb2.Request) -> routing.Decision:
        """The same, with what is known at this moment of every candidate."""
        try:
            decision = self._decide(request, self._fleet.fleet)
        except InferenceError as exc:
            decision = await self._afresh(request, exc)
        return routing.present(decision, self._world(self._fleet.fleet))

    async def _afresh(
        self, request: generation_pb2.Request, exc: InferenceError
    ) -> routing.Decision:
        """The decision where workers seem to be absent: of this moment, and never kept."""
        if exc.reason != "no_worker":
            raise exc
        return self._decide(request, await self._fresh())

    def _decide(self, request: generation_pb2.Request, fleet: routing.Fleet) -> routing.Decision:
        ask = reading.read(request)
        if ask.preferences.require_parameters:
            # Which parameters a provider lacks its worker knows: it refuses, and the next is tried.
            request.platform.drop_params = False
        world = self._world(fleet)
        preferences = request.platform.provider
        alike = ask.model, ask.models, preferences, ask.operation, ask.needs, ask.region
        slate = self._slates.get(alike) if fleet is self._seen else None
        if slate is None:
            slate = routing.slate(ask, world)
            long = len(ask.model) + len(preferences) + sum(map(len, ask.models)) + len(ask.region)
            if fleet is self._seen and len(self._slates) < _MOST_KEPT and long < _LONGEST:
                self._slates[alike] = slate
        return routing.decide(ask, world, self._dice, slate)

    def _world(self, fleet: routing.Fleet) -> routing.World:
        """What is decided from: the same until there is news."""
        health, known = self._health, self._known
        news, troubled = health.news, health.troubled
        if known.fleet is fleet and known.news == news and known.troubled == troubled:
            return known
        self._known = known = routing.World(
            fleet, self._catalog, self._rules, health.state, health.spread, news, troubled
        )
        return known
