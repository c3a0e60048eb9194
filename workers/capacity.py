"""A worker's part in the fleet's capacity: reports what its gate saw, tells it what is allowed.

Once a second, if anything happened; at once, though not often, when others should know of it.
"""

from __future__ import annotations

import asyncio
import random

from broker.bus import Bus
from broker.bus.capacity import Allowances, tell
from broker.bus.ending import end
from broker.capacity import Allowance, Report
from broker.tasks import keep
from workers.gate import Gate

REPORT_S = 1.0
# News waits so long for more of its kind.
_NEWS_S = 0.05


class CapacityLink:
    """See the module."""

    def __init__(self, bus: Bus, gate: Gate, worker: str, provider: str) -> None:
        self._bus = bus
        self._gate = gate
        self._worker = worker
        self._provider = provider
        self._allowances = Allowances(bus, provider, self._changed)
        # By their keys in the bucket.
        self._places: dict[str, tuple[str, str]] = {}
        self._news = asyncio.Event()
        gate.on_news = self._news.set
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return once it is known what is allowed."""
        await self._allowances.start()
        self._task = keep(self._report, "capacity")

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            await end(self._task)
            await self._allowances.close()

    def _changed(self, key: str, allowance: Allowance | None) -> None:
        if allowance is None:
            if (place := self._places.pop(key, None)) is not None:
                self._gate.forgotten(*place)
            return
        self._places[key] = allowance.key, allowance.model
        self._gate.told(allowance, self._worker)

    async def _report(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        # Not all workers at a time.
        due = last + REPORT_S * random.random()
        while True:
            urgent = True
            try:
                async with asyncio.timeout_at(due):
                    await self._news.wait()
                    await asyncio.sleep(_NEWS_S)
            except TimeoutError:
                urgent = False
            self._news.clear()
            now = loop.time()
            if not urgent:
                due = max(due + REPORT_S, now + REPORT_S / 2)
            if seen := self._gate.report():
                span = round(now - last, 4)
                tell(self._bus, Report(self._worker, self._provider, span, tuple(seen)))
            last = now
