"""What this edge knows of the fleet: leases of workers and edges, mirrored from the bus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import msgspec

from broker import presence, subjects
from broker.bus import Bus
from broker.bus.mirror import Mirror
from broker.routing import Fleet


class FleetView:
    """Keeps a `Fleet` and the slots of every pool; rebuilt when a lease changes."""

    def __init__(self, bus: Bus, on_change: Callable[[], None]) -> None:
        self._leases = Mirror(bus, subjects.WORKERS, self._changed)
        self._cfg = Mirror(bus, subjects.CFG, self._changed)
        self._on_change = on_change
        self.fleet = Fleet()
        self.slots: dict[tuple[str, str], int] = {}
        self.workers: dict[str, presence.WorkerLease] = {}
        self.edges = 1

    async def start(self) -> None:
        """Return once the present leases were read."""
        await self._cfg.start()
        await self._leases.start()

    async def refresh(self) -> None:
        """Read the leases again: absence is believed only after a fresh read (R12)."""
        await self._leases.refresh()

    async def close(self) -> None:
        """Stop following."""
        await self._leases.close()
        await self._cfg.close()

    def _changed(self, _key: str, _value: bytes | None) -> None:
        live: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        slots: dict[tuple[str, str], int] = defaultdict(int)
        workers: dict[str, presence.WorkerLease] = {}
        edges = 0
        for key, value in self._leases.entries.items():
            if key.startswith("e."):
                edges += 1
                continue
            try:
                lease = presence.decode_worker(value)
            except msgspec.DecodeError:
                continue  # a newer version's lease of another form
            live[lease.provider][lease.pool].update(lease.models)
            slots[lease.provider, lease.pool] += lease.slots
            workers[lease.worker] = lease
        known = set(live)
        for key, value in self._cfg.entries.items():
            if key.startswith("pool."):
                known.add(presence.decode_pool(value).provider)
        self.fleet = Fleet(
            {
                provider: {pool: frozenset(models) for pool, models in pools.items()}
                for provider, pools in live.items()
            },
            frozenset(known),
        )
        self.slots = dict(slots)
        self.workers = workers
        self.edges = max(1, edges)
        self._on_change()
