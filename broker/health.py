"""How providers do, for routing: what workers say of their pace, and the fleet's breakers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.bus import Bus
from broker.bus.breakers import SharedBreakers
from broker.errors import InferenceError
from broker.fleet import FleetView
from broker.routing import Target
from broker.routing.breakers import Breakers
from broker.routing.world import Live


class Health:
    """See the module. `own` tells how much of a provider's work is this edge's."""

    def __init__(self, bus: Bus, fleet: FleetView, name: str, own: Callable[[str], int]) -> None:
        self._fleet = fleet
        self._own = own
        self._breakers = Breakers()
        self._loop = asyncio.get_running_loop()
        self._shared = SharedBreakers(bus, name, self._told)
        self._writing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Return once the open breakers are known."""
        await self._shared.start()

    async def close(self) -> None:
        """Stop following."""
        await self._shared.close()

    def failed(self, target: Target, error: InferenceError, begun: float) -> None:
        """An attempt with the operator's own key failed; `begun` in seconds of the loop's clock."""
        place = target.provider, target.model
        if rest := self._breakers.failed(place, error, begun, self._loop.time()):
            self._share(place, rest)

    def worked(self, target: Target, begun: float) -> None:
        """An attempt was answered."""
        place = target.provider, target.model
        if self._breakers.worked(place, begun):
            self._share(place, 0)

    def chosen(self, target: Target) -> None:
        """A request goes there first."""
        self._breakers.probe((target.provider, target.model), self._loop.time())

    def state(self, provider: str, model: str) -> Live:
        """How a model does at a provider."""
        pace = self._fleet.pace(provider, model)
        busy, slots = self._fleet.load(provider)
        return Live(
            pace.first_ms,
            pace.token_ms,
            pace.per_second,
            # Leases are some seconds old: this edge knows its own part of the work better.
            busy=max(busy, self._own(provider)),
            slots=slots,
            resting=self._breakers.resting((provider, model), self._loop.time()),
        )

    def _told(self, place: tuple[str, str], rest_s: float) -> None:
        self._breakers.told(place, rest_s, self._loop.time())

    def _share(self, place: tuple[str, str], rest_s: float) -> None:
        task = asyncio.create_task(self._shared.write(place, rest_s), name="breaker")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
