"""How providers do, for routing: what workers say of their pace, and the fleet's breakers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from broker.bus import Bus
from broker.bus.breakers import SharedBreakers
from broker.errors import InferenceError
from broker.fleet import FleetView
from broker.routing import Target
from broker.routing.breakers import Breakers, Opened, Place
from broker.routing.spread import Spread
from broker.routing.world import Live
from broker.tasks import Tasks, Work

# A large fleet tells something all the time, and what is made of it costs more than a decision.
_NEWS_S = 1.0


class Health:
    """See the module. `own` tells how much of a provider's work is this process's.

    `probes`: its requests find out whether what is half-open has recovered.
    """

    def __init__(
        self,
        bus: Bus,
        fleet: FleetView,
        name: str,
        own: Callable[[str], int],
        *,
        probes: bool = True,
    ) -> None:
        self._fleet = fleet
        self._own = own
        self._breakers = Breakers(probes=probes)
        self._probes = probes
        self._loop = asyncio.get_running_loop()
        self._shared = SharedBreakers(bus, name, self._told)
        # The newest news that routes go by, and since when.
        self._heard = 0
        self._heard_at = -math.inf
        self._tasks = Tasks()
        self._claiming: set[Place] = set()

    @property
    def news(self) -> int:
        """Grows with what workers say of how they do, at most once a second."""
        if self._fleet.news != self._heard:
            now = self._loop.time()
            if now - self._heard_at >= _NEWS_S:
                self._heard, self._heard_at = self._fleet.news, now
        return self._heard

    @property
    def troubled(self) -> bool:
        """Whether anything has failed of which a breaker may be open."""
        return bool(self._breakers)

    async def start(self) -> None:
        """Return once the open breakers are known."""
        await self._shared.start()

    async def close(self) -> None:
        """Stop following."""
        await self._tasks.close()
        await self._shared.close()

    def failed(self, target: Target, error: InferenceError, begun: float) -> None:
        """An attempt with the operator's own key failed; `begun` in seconds of the loop's clock."""
        place, keys = (target.provider, target.model), self._fleet.keys(target.provider)
        opened = self._breakers.failed(place, error, begun, self._loop.time(), keys)
        if opened is not None:
            self._spawn(self._shared.write(opened.entry, opened.rest_s, opened.interval_s))

    def worked(self, target: Target, begun: float) -> None:
        """An attempt was answered."""
        place, keys = (target.provider, target.model), self._fleet.keys(target.provider)
        for entry in self._breakers.worked(place, begun, self._loop.time(), keys):
            self._spawn(self._shared.write(entry, 0))

    def chosen(self, target: Target) -> None:
        """A request goes there first."""
        place, keys = (target.provider, target.model), self._fleet.keys(target.provider)
        self._breakers.probe(place, self._loop.time(), keys)

    def state(self, provider: str, model: str) -> Live:
        """How a model does at a provider."""
        pace = self._fleet.pace(provider, model)
        busy, slots = self._fleet.load(provider)
        return Live(
            pace.first_ms,
            pace.token_ms,
            pace.per_second,
            # Leases are some seconds old: this edge knows its own part of the work better.
            max(busy, self._own(provider)),
            slots,
            bool(self._breakers) and self._resting((provider, model)),
        )

    def spread(self, provider: str, model: str) -> Spread:
        """How its answers of the last five minutes were spread."""
        return self._fleet.spread(provider, model)

    def _resting(self, place: Place) -> bool:
        resting = self._breakers.resting(place, self._loop.time(), self._fleet.keys(place[0]))
        if resting and self._probes and place not in self._claiming:
            # Beside the request: it is sent elsewhere meanwhile, and waits for nobody.
            self._claiming.add(place)
            self._spawn(self._claim_probes(place))
        return resting

    async def _claim_probes(self, place: Place) -> None:
        """Ask for the fleet's probe each time that one is due, as long as there is a use for it."""
        try:
            while True:
                keys = self._fleet.keys(place[0])
                wait = self._breakers.due(place, self._loop.time(), keys)
                if wait is None:
                    return
                if wait > 0:
                    await asyncio.sleep(wait)
                    continue
                won = await self._shared.claim(*place, self._breakers.interval(place, keys))
                self._breakers.claimed(place, self._loop.time(), keys, won=won)
        finally:
            self._claiming.discard(place)

    def _told(self, news: Opened) -> None:
        self._breakers.told(news.entry, news.rest_s, self._loop.time(), news.interval_s)

    def _spawn(self, work: Work) -> None:
        self._tasks.spawn(work, "breaker")
