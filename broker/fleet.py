"""What this edge knows of the fleet: leases of workers and edges, mirrored from the bus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import msgspec

from broker import presence, subjects
from broker.bus import Bus
from broker.bus.mirror import Mirror
from broker.presence import Pace
from broker.routing import Fleet, Target
from broker.routing.residency import Claim, agreed
from broker.routing.spread import NOTHING, Spread, together

UNKNOWN = Pace(0.0, 0.0, 0.0)
_NO_KEYS: frozenset[str] = frozenset()


class FleetView:
    """Keeps a `Fleet`, the slots of every pool, and what workers say of how they are doing."""

    def __init__(self, bus: Bus, on_change: Callable[[], None]) -> None:
        self._leases = Mirror(bus, subjects.WORKERS, self._changed)
        self._cfg = Mirror(bus, subjects.CFG, self._changed)
        self._on_change = on_change
        self.fleet = Fleet()
        self.slots: dict[tuple[str, str], int] = {}
        self.workers: dict[str, presence.WorkerLease] = {}
        # Each is made when it is asked for: in a large fleet some lease changes all the time.
        self._paces: dict[tuple[str, str], Pace] = {}
        self._loads: dict[str, tuple[int, int]] = {}
        self._spreads: dict[tuple[str, str], Spread] = {}
        self._keys: dict[str, frozenset[str]] = {}
        self.edges = 1
        # How often something became known of the workers.
        self.news = 1

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

    async def edge_lives(self, name: str) -> bool:
        """Whether an edge is there: absence is believed only after a fresh read (R12)."""
        key = subjects.edge_key(name)
        if key not in self._leases.entries:
            await self._leases.refresh()
        return key in self._leases.entries

    def edge_address(self, name: str) -> str | None:
        """Where an edge is reached by workers and other edges."""
        value = self._leases.entries.get(subjects.edge_key(name))
        try:
            return presence.decode_edge(value).address if value else None
        except msgspec.DecodeError:
            return None

    def pace(self, provider: str, model: str) -> Pace:
        """How fast a model answers: the worst that a worker has seen."""
        place = provider, model
        known = self._paces.get(place)
        if known is None:
            paces = (lease.paces.get(model, UNKNOWN) for lease in self._workers_of(provider))
            known = max(paces, key=lambda pace: pace.first_ms, default=UNKNOWN)
            self._paces[place] = known
        return known

    def spread(self, provider: str, model: str) -> Spread:
        """How its figures were spread over the last minutes, in the whole fleet."""
        place = provider, model
        known = self._spreads.get(place)
        if known is None:
            spreads = (lease.spreads.get(model, NOTHING) for lease in self._workers_of(provider))
            known = together(spreads)
            self._spreads[place] = known
        return known

    def load(self, provider: str) -> tuple[int, int]:
        """Calls that run at a provider, and slots for them, in the whole fleet."""
        known = self._loads.get(provider)
        if known is None:
            leases = self._workers_of(provider)
            known = sum(lease.busy for lease in leases), sum(lease.slots for lease in leases)
            self._loads[provider] = known
        return known

    def keys(self, provider: str) -> frozenset[str]:
        """Fingerprints of the operator's keys for a provider, in the whole fleet."""
        return self._keys.get(provider, _NO_KEYS)

    def has_batches(self, target: Target) -> bool:
        """Whether lines of batches can be handed over there, to the provider's own batch API."""
        place = target.provider, target.pool
        return any(
            lease.batches
            for lease in self.workers.values()
            if (lease.provider, lease.pool) == place
        )

    def _workers_of(self, provider: str) -> list[presence.WorkerLease]:
        return [lease for lease in self.workers.values() if lease.provider == provider]

    def _renewed(self, key: str, value: bytes | None) -> bool:
        """Whether a lease changed in nothing that routes depend on."""
        if value is None or not key.startswith("w."):
            return False
        try:
            lease = presence.decode_worker(value)
        except msgspec.DecodeError:
            return False
        known = self.workers.get(lease.worker)
        if known is None or known.place != lease.place:
            return False
        self.workers[lease.worker] = lease
        return True

    def _changed(self, key: str, value: bytes | None) -> None:
        self._paces.clear()
        self._loads.clear()
        self._spreads.clear()
        self.news += 1
        if not self._renewed(key, value):
            self._rebuild()

    def _rebuild(self) -> None:
        live: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        slots: dict[tuple[str, str], int] = defaultdict(int)
        workers: dict[str, presence.WorkerLease] = {}
        claims: dict[str, list[frozenset[Claim]]] = defaultdict(list)
        by_provider: dict[str, list[presence.WorkerLease]] = defaultdict(list)
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
            claims[lease.provider].append(lease.claims)
            by_provider[lease.provider].append(lease)
        known = set(live)
        away: dict[str, dict[str, frozenset[str]]] = defaultdict(dict)
        for key, value in self._cfg.entries.items():
            if not key.startswith("pool."):
                continue
            record = presence.decode_pool(value)
            known.add(record.provider)
            if record.provider not in live:
                away[record.provider][record.pool] = record.models
                claims[record.provider].append(record.claims)
        self.fleet = Fleet(
            {
                provider: {pool: frozenset(models) for pool, models in pools.items()}
                for provider, pools in live.items()
            },
            frozenset(known),
            agreed(claims),
            dict(away),
        )
        self.slots = dict(slots)
        self.workers = workers
        self._keys = {
            provider: frozenset(key for lease in leases for key in lease.keys)
            for provider, leases in by_provider.items()
        }
        self.edges = max(1, edges)
        self._on_change()
