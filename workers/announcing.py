"""Says that a worker is there, and how it does: its lease, and the pace of its provider (R12)."""

from __future__ import annotations

import time

from broker import presence, subjects
from broker.bus import Bus
from broker.bus.lease import Lease
from broker.settings import ProviderSettings
from workers.pace import Paces
from workers.slots import Slots
from workers.tools import Tools


class Announcing:
    """See the module. `paces` are those of interactive requests."""

    def __init__(self, bus: Bus, settings: ProviderSettings, slots: Slots, tools: Tools) -> None:
        self.paces = Paces()
        self._settings = settings
        self._slots = slots
        self._tools = tools
        key = subjects.worker_key(settings.name, tools.worker)
        self.lease = Lease(bus, subjects.WORKERS, key, self._presence)

    def _presence(self) -> bytes:
        """What this worker says of itself when it renews its lease."""
        now, tools, settings = time.monotonic(), self._tools, self._settings
        lease = presence.WorkerLease(
            worker=tools.worker,
            provider=settings.name,
            pool=settings.pool,
            slots=settings.slots,
            models=settings.models or tools.provider.models,
            busy=self._slots.busy,
            # Where a model has no interactive requests its lines tell how fast it is.
            paces=tools.paces.known(now) | self.paces.known(now),
            spreads=self.paces.spreads(now),
            claims=tools.provider.claims,
            keys=tuple(key.fingerprint for key in tools.keys.all) or ("",),
            limits=settings.limits,
            batches=tools.provider.batches is not None,
        )
        return presence.encode(lease)
