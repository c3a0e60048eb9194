"""What an edge can say of the fleet's capacity to those who look: how the places stand."""

from __future__ import annotations

import asyncio
import contextlib
import math

from broker.batch import states
from broker.bus import Bus, BusError
from broker.bus.capacity import read_standings
from broker.standing import Standing, together
from broker.v1 import batch_pb2

# All who look share one reading of so many seconds, and wait for it no longer.
_FRESH_S = 2.0
_PATIENCE_S = 2.0
# What was read last is told for so long where it cannot be read again.
_KEPT_S = 30.0


class Capacity:
    """See the module. Nothing is read while nobody looks."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._read: list[Standing] = []
        # When it was asked for last, and when there was an answer.
        self._asked_at = self._read_at = -math.inf
        self._reading = asyncio.Lock()

    async def all(self) -> list[Standing]:
        """Of every place that is known; for a while what was read last where it cannot be read."""
        loop = asyncio.get_running_loop()
        async with self._reading:
            if loop.time() - self._asked_at < _FRESH_S:
                return self._read
            with contextlib.suppress(BusError, TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    self._read = await read_standings(self._bus)
                    self._read_at = loop.time()
            self._asked_at = loop.time()
            if self._asked_at - self._read_at > _KEPT_S:
                self._read = []
            return self._read

    async def of(self, record: batch_pb2.StoredBatch) -> list[Standing]:
        """Of the models that lines of a batch have gone to; nothing of one that is over."""
        places = [(place.provider, place.model) for place in record.progress.places]
        if record.status in states.FINAL or not places:
            return []
        return together(await self.all(), places)
