"""What holds a batch up: what the places allow where its lines go, and whether they rest."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Any

from broker.batch import states
from broker.batch.lines import Head
from broker.batching.routes import Routes
from broker.bus import Bus, BusError
from broker.bus.capacity import read_allowances
from broker.capacity import Allowance, described
from broker.errors import InferenceError
from broker.v1 import batch_pb2

# All who watch share one reading of so many seconds, and wait for it no longer.
_FRESH_S = 2.0
_PATIENCE_S = 1.0


class Capacity:
    """See the module. It is known of the model of a batch's first line."""

    def __init__(self, bus: Bus, routes: Routes) -> None:
        self._bus = bus
        self._routes = routes
        self._read: list[Allowance] = []
        self._read_at = -math.inf
        self._reading = asyncio.Lock()

    async def of(self, record: batch_pb2.StoredBatch) -> list[dict[str, Any]]:
        """The places that are limited; none where that cannot be found out now."""
        if record.status in states.FINAL or not record.model:
            return []
        decided = await self._routes.decide(record.endpoint, Head(record.model), b"")
        if isinstance(decided, InferenceError):
            return []
        place = decided[0].provider, decided[0].model
        return [
            _shown(told)
            for told in await self._allowances()
            if (told.provider, told.model) == place and (told.why or told.rest_s)
        ]

    async def _allowances(self) -> list[Allowance]:
        loop = asyncio.get_running_loop()
        async with self._reading:
            if loop.time() - self._read_at < _FRESH_S:
                return self._read
            with contextlib.suppress(BusError, TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    self._read = await read_allowances(self._bus)
            self._read_at = loop.time()
            return self._read


def _shown(told: Allowance) -> dict[str, Any]:
    return {
        "provider": told.provider,
        "model": told.model,
        "slots": told.slots,
        "requests_per_second": told.rate,
        "tokens_per_second": told.tokens,
        "why": told.why,
        # At most: it began a moment ago.
        "rest_s": told.rest_s,
        "said": described(told),
    }
