"""The broker process's work: creates the layout, and consumers for every pool that shows up."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence

from broker import subjects
from broker.bus import Bus, BusError
from broker.bus.ending import end
from broker.bus.fleet import create_fleet_token
from broker.bus.layout import ensure_layout, ensure_pool, remember_pool
from broker.bus.mirror import Mirror
from broker.bus.survey import workers_in
from broker.config import Settings
from broker.presence import PoolRecord, WorkerLease
from broker.tasks import keep

_log = logging.getLogger(__name__)


class Controller:
    """Keeps the bus laid out. Any number of them may run at once."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._bus = bus
        self._settings = settings
        self._pools: dict[tuple[str, str], int] = {}
        # What was written down of each.
        self._records: dict[tuple[str, str], PoolRecord] = {}
        self.leases = Mirror(bus, subjects.WORKERS, lambda _key, _value: self._changed.set())
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unheard: Callable[[], object] = lambda: None
        self._token = ""

    async def start(self) -> None:
        """Lay out the bus; return when edges and workers can use it."""
        await self._lay_out()
        self._token = await create_fleet_token(self._bus)
        await self.leases.start()
        # A server that lost a stream (a fresh disk) gets its layout again.
        self._unheard = self._bus.on_reconnect(self._start_over)
        self._task = keep(self._follow, "pools")
        _log.info("the bus is laid out")

    async def close(self) -> None:
        """Stop."""
        self._unheard()
        if self._task is not None:
            await end(self._task)
        await self.leases.close()

    async def _lay_out(self) -> None:
        kept_s = self._settings.limits.response_retention_s
        await ensure_layout(self._bus, self._settings.replicas, kept_s)

    def _start_over(self) -> None:
        self._pools.clear()
        self._records.clear()
        self._changed.set()

    async def _follow(self) -> None:
        while True:
            try:
                if not self._pools:
                    await self._lay_out()
                    self._token = await create_fleet_token(self._bus, self._token)
                await self._ensure_pools()
            except BusError as exc:
                _log.warning("%s; trying again", exc)
                await asyncio.sleep(1)
                continue
            await self._changed.wait()
            self._changed.clear()

    async def _ensure_pools(self) -> None:
        """Create the consumers of pools that have workers; a pool once seen stays known."""
        pools: dict[tuple[str, str], list[WorkerLease]] = defaultdict(list)
        for lease in workers_in(self.leases):
            pools[lease.provider, lease.pool].append(lease)
        for place, leases in pools.items():
            count = sum(lease.slots for lease in leases)
            if self._pools.get(place, 0) < count:
                await ensure_pool(self._bus, *place, count)
                self._pools[place] = count
            record = _record(*place, leases)
            # What is listed no more is forgotten with the next news: workers leave one by one.
            known = self._records.get(place)
            if known is None or known.claims != record.claims or not known.models >= record.models:
                await remember_pool(self._bus, record)
                self._records[place] = record


def _record(provider: str, pool: str, leases: Sequence[WorkerLease]) -> PoolRecord:
    """What is to be known of a pool when none of its workers is there."""
    return PoolRecord(
        provider,
        pool,
        frozenset(model for lease in leases for model in lease.models),
        frozenset.intersection(*(lease.claims for lease in leases)),
    )
